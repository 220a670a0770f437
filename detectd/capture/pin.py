"""Holds a stream to the microphone it was opened on.

Where a source is unplugged, the default changes or somebody moves a stream, a sound server lets it go on with another
microphone, and PortAudio cannot see that (measured with PulseAudio 16.1, with every module that could prevent it and
without). So the server itself is asked, after each reading and before its samples go anywhere. The answer holds for
all that was read before the question: the stream is on its source now, and no change of it was announced since.
Where one was, the stream may have been elsewhere and back, and all that was captured until the answer is doubtful,
read or not.
"""

import os
import secrets
import time
from enum import Enum, auto

from detectd.capture.pulse import NoServerError, PulseServer, ServerGoneError
from detectd.capture.pulse_wire import ERROR, SourceOutput, source_outputs_of

_ANSWER_S = 1.0
_SEEN_WITHIN_S = 2.0
_ASK_AGAIN_S = 0.02
_PROPERTY = "detectd.recorder"


class Verdict(Enum):
    """What a check says of the readings that it was asked for."""

    GOOD = auto()
    DOUBTFUL = auto()
    """The stream is where it should be, but may have been elsewhere."""
    MOVED = auto()
    GONE = auto()


class UnpinnableError(Exception):
    """Which source the stream is on cannot be told."""


class NotShownError(UnpinnableError):
    """The server shows no stream of this process: the device is reached in another way."""


def sign_streams() -> str:
    """Have every stream that this process opens bear a mark that the server shows; returns the mark.

    Call it before PortAudio is loaded.
    """
    mark = secrets.token_hex(8)
    entry = f"{_PROPERTY}={mark}"
    os.environ["PULSE_PROP"] = f"{os.environ.get('PULSE_PROP', '')} {entry}".strip()
    return mark


def on_server() -> PulseServer | None:
    """Connect to the sound server; None if there is none.

    Raises
    ------
    TimeoutError
        If there is one that does not answer.
    """
    try:
        return PulseServer(_ANSWER_S)
    except NoServerError:
        return None


class Pin:
    """The source that the one open stream of this process is on.

    Attributes
    ----------
    source : Source

    Raises
    ------
    UnpinnableError, TimeoutError, ServerGoneError
    """

    def __init__(self, server: PulseServer, mark: str) -> None:
        self._server = server
        self._asked: int | None = None
        stream = self._find(mark)
        source = server.source(stream.source, _ANSWER_S)
        if source is None:
            raise UnpinnableError("the source went away")
        self.source = source
        self._number = stream.number

    @property
    def asked(self) -> bool:
        """Whether an answer is due."""
        return self._asked is not None

    def ask(self) -> None:
        """Ask about everything read until now."""
        self._asked = self._server.ask_source_output(self._number)

    def verdict(self, timeout_s: float) -> Verdict | None:
        """The answer; None if there is none yet."""
        assert self._asked is not None
        try:
            answer = self._server.answer(self._asked, timeout_s)
            if answer is None:
                return None
            self._asked = None
            if answer.command == ERROR:
                return Verdict.GONE
            (stream,) = source_outputs_of(answer.body)
        except (ServerGoneError, ValueError):  # an answer that says something else is none
            return Verdict.GONE
        if stream.source != self.source.number:
            return Verdict.MOVED
        doubtful = self._number in self._server.changed
        self._server.changed.clear()
        return Verdict.DOUBTFUL if doubtful else Verdict.GOOD

    def close(self) -> None:
        """Stop watching."""
        self._server.close()

    def _find(self, mark: str) -> SourceOutput:
        """Find the one stream with the mark: those of tries before it may be there for a moment longer."""
        until_s = time.monotonic() + _SEEN_WITHIN_S
        while True:
            streams = self._server.source_outputs(_ANSWER_S)
            ours = [stream for stream in streams if _is_ours(stream, mark)]
            if len(ours) == 1:
                return ours[0]
            if time.monotonic() > until_s:
                if not ours:
                    raise NotShownError("the sound server does not show the stream")
                raise UnpinnableError(f"the sound server shows {len(ours)} streams of this recorder")
            time.sleep(_ASK_AGAIN_S)


def _is_ours(stream: SourceOutput, mark: str) -> bool:
    return stream.properties.get(_PROPERTY) == mark

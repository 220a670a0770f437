"""Whether the service is well, decided from what was seen of it. No clock, thread or socket of its own.

Two sorts of fault: one that a restart would mend, such as a thread that stands still, and one that it would not, such
as a device that is unplugged or a disk that is full. Both are told; only the first sort is a reason to let the
watchdog starve.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

STILL_S = 1.4
"""Longest that anything may stand still: with the time between two looks it is told within 2 s. A step of the engine
may take longer than that and does not count as still, because samples and windows are counted within it."""

START_S = 1.4
"""What a source of our own may take from its table's being read to its first sound."""

_MOST_ELAPSED_S = 0.5
"""Time between two looks that counts. Where there was more, the whole process was stopped or starved, and who did not
run did not stand still."""

_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Part:
    """A thread.

    Attributes
    ----------
    beat : hashable
        Anything that is another value whenever the thread has got somewhere.
    """

    name: str
    alive: bool
    beat: Hashable


class StreamSigns(NamedTuple):
    """A stream as it is seen.

    Attributes
    ----------
    ours : bool
        Whether it is a source of the daemon's own that should be playing.
    why : str
        What its supervisor says is in its way, if anything.
    """

    id: str
    up: bool
    rate_hz: int = 0
    ours: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Signs:
    """All that is seen at one look.

    Attributes
    ----------
    audio_waits : bool
        Whether a stream has as much waiting as the engine wants of it.
    analysed : int
        Samples analysed so far, of all streams.
    windows_wait : bool
        Whether windows are due that have no score yet.
    scored : int
        Windows scored or shed so far.
    events : int
        Events begun so far.
    journal : str, optional
        What ails the journal.
    """

    parts: Sequence[Part] = ()
    audio_waits: bool = False
    analysed: int = 0
    windows_wait: bool = False
    scored: int = 0
    streams: Sequence[StreamSigns] = ()
    events: int = 0
    journal: str | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes
    ----------
    part : str
        What it is wrong with: a thread's name, or audio, inference, stream, journal.
    text : str
        One line; the same for as long as the fault is the same.
    restart : bool
        Whether a restart would mend it.
    stream : str
        Which, if it is a stream.
    """

    part: str
    text: str
    restart: bool
    stream: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look found: every fault, and the state in a line for people."""

    faults: tuple[Fault, ...] = ()
    status: str = ""

    @property
    def restart(self) -> bool:
        """Whether a restart would mend something."""
        return any(fault.restart for fault in self.faults)


class Health:
    """Looks again and again, several times a second, and remembers what has not moved since."""

    def __init__(self) -> None:
        self._looked_s: float | None = None
        self._awake_s = 0.0
        self._moved: dict[str, tuple[Hashable, float]] = {}
        self._silent_since_s: dict[str, float] = {}

    def look(self, now_s: float, signs: Signs) -> Verdict:
        """Judge what is seen at `now_s`, a monotonic time."""
        if self._looked_s is not None:
            self._awake_s += min(max(0.0, now_s - self._looked_s), _MOST_ELAPSED_S)
        self._looked_s = now_s
        faults = [*self._threads(signs), *self._streams(signs)]
        if signs.journal is not None:
            faults.append(Fault("journal", f"journal: {signs.journal}", restart=False))
        return Verdict(tuple(faults), _status(signs, faults))

    def _threads(self, signs: Signs) -> list[Fault]:
        faults = []
        for part in signs.parts:
            still = self._still(part.name, part.beat, owed=True)
            if not part.alive:
                faults.append(Fault(part.name, f"the {part.name} thread has died", restart=True))
            elif still:
                faults.append(Fault(part.name, f"the {part.name} thread stands still", restart=True))
        deaf = self._still("audio", signs.analysed, owed=signs.audio_waits)
        dumb = self._still("inference", signs.scored, owed=signs.windows_wait)
        if not faults:  # else what follows from them is no news
            if deaf:
                faults.append(Fault("audio", "audio is waiting and none is analysed", restart=True))
            if dumb:
                faults.append(Fault("inference", "windows are due and none is scored", restart=True))
        return faults

    def _still(self, name: str, value: Hashable, *, owed: bool) -> bool:
        """Whether a value that ought to move, since something is owed, has not for too long."""
        known = self._moved.get(name)
        if known is None or not owed or known[0] != value:
            self._moved[name] = value, self._awake_s
            return False
        return self._awake_s - known[1] >= STILL_S

    def _streams(self, signs: Signs) -> list[Fault]:
        """Our own sources that do not play: at once if they did, after a while if they are only beginning."""
        ours = [stream for stream in signs.streams if stream.ours]
        self._silent_since_s = {
            stream.id: -START_S if stream.up else self._silent_since_s.get(stream.id, self._awake_s) for stream in ours
        }
        return [
            Fault("stream", f"stream {stream.id}: {stream.why or 'no audio'}", restart=False, stream=stream.id)
            for stream in ours
            if not stream.up and self._awake_s - self._silent_since_s[stream.id] >= START_S
        ]


def _status(signs: Signs, faults: Sequence[Fault]) -> str:
    n_up = sum(stream.up for stream in signs.streams)
    words = [fault.text for fault in faults if fault.restart]
    words.append(f"{n_up} of {len(signs.streams)} streams up")
    # Those that we should hear ourselves come first: of the others we do not know whether anybody sends.
    down = sorted((stream for stream in signs.streams if not stream.up), key=lambda stream: not stream.ours)
    if down:
        named = [f"{stream.id} ({stream.why})" if stream.why else stream.id for stream in down[:_MOST_NAMED]]
        rest = f" and {len(down) - _MOST_NAMED} more" if len(down) > _MOST_NAMED else ""
        words.append(f"down: {', '.join(named)}{rest}")
    words.append("1 event" if signs.events == 1 else f"{signs.events} events")
    words.append(f"journal: {signs.journal}" if signs.journal is not None else "journal ok")
    return "; ".join(words)

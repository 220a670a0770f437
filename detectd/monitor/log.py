"""What a person at the terminal reads: one line an event or change of state.

Whoever logs never waits: lines are written by a thread of their own, what repeats is summed up, and what there was no
room for is counted and said.
"""

import contextlib
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Hashable, Iterator

from detectd.engine.event import Event
from detectd.engine.tracker import State
from detectd.monitor.limit import MOST, OTHERS, Limiter, Repeated
from detectd.monitor.log_form import Form, fields_of, form_for

LOG = logging.getLogger("detectd")

MOST_EVENTS = 30
"""Lines a minute that tell of one state of one thing: events of a detector that begin on a stream, or a stream that is
lost. Between two of them it was in another state, so they are news."""

ASKED = {"asked": True}
"""As `extra`: an answer to what a person did, such as a reload; never summed up."""

_WAITING_LINES = 10_000
_SUM_UP_S = 0.5
_STOP_S = 1.0


class _Handler(logging.Handler):
    """Hands lines to the writing thread; a terminal that takes none holds up nobody, it loses lines.

    The lock of `logging.Handler` guards the limiter and the counts.
    """

    def __init__(self, limiter: Limiter) -> None:
        super().__init__()
        self.waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(_WAITING_LINES)
        self._limiter = limiter
        self._held: dict[Hashable, logging.LogRecord] = {}
        self._n_lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        fields = fields_of(record)
        kind = (record.msg, *(fields.get(name) for name in ("stream", "detector", "state")))
        most = MOST_EVENTS if "state" in fields else MOST
        # A crash is told whole, however often, and so is what somebody has asked for.
        told = record.exc_info or ASKED.items() <= fields.items()
        if not told and not self._limiter.passes(kind, time.monotonic(), most):
            if len(self._held) < _WAITING_LINES:
                self._held[kind] = record
            return
        record.msg, record.args = record.getMessage(), None  # now, while the arguments are what they are
        try:
            self.waiting.put_nowait(record)
        except queue.Full:
            self._n_lost += 1

    def summaries(self, *, last: bool = False) -> Iterator[logging.LogRecord]:
        """Yield lines that say what was held back in windows that are over, and what was lost."""
        with self.lock or contextlib.nullcontext():
            now_s = time.monotonic()
            repeated = list(self._limiter.finish(now_s) if last else self._limiter.closed(now_s))
            lines = [_summary(again, self._held.pop(again.kind, None)) for again in repeated]
            n_lost, self._n_lost = self._n_lost, 0
        if n_lost:
            text = f"{n_lost} lines of this log are lost, nobody took them"
            lines.append(logging.makeLogRecord({"msg": text, "levelno": logging.WARNING, "levelname": "WARNING"}))
        yield from lines


def _summary(repeated: Repeated, held: logging.LogRecord | None) -> logging.LogRecord:
    what = "other lines" if held is None or repeated.kind is OTHERS else held.getMessage()
    text = f"repeated {repeated.n} more times in {repeated.within_s:.0f} s: {what}"
    like = held or logging.makeLogRecord({"levelno": logging.INFO, "levelname": "INFO"})
    kept = {name: value for name, value in fields_of(like).items() if name not in {"event_id", "state"}}
    return logging.makeLogRecord(
        {"msg": text, "levelno": like.levelno, "levelname": like.levelname, "repeated": repeated.n, **kept}
    )


@contextlib.contextmanager
def to_stderr(wanted: str = "text", limiter: Limiter | None = None) -> Iterator[None]:
    """Log to stderr from a thread of its own, as `wanted`: "text" or "json"."""
    handler = _Handler(limiter or Limiter())
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    fd = sys.stderr.fileno()
    writer = threading.Thread(target=_write, args=(handler, fd, form_for(wanted, fd, os.environ)), name="log")
    writer.daemon = True
    writer.start()
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        # What a terminal takes by then is written; one that takes nothing does not keep the process.
        with contextlib.suppress(queue.Full):
            handler.waiting.put(None, timeout=_STOP_S)
            writer.join(_STOP_S)


def _write(handler: _Handler, fd: int, form: Form) -> None:
    """Write lines until told to stop.

    Past `sys.stderr`, whose lock would be held while a write does not return, and which exiting would wait for.
    """
    summed_s = time.monotonic()
    while True:
        record: logging.LogRecord | None = None
        with contextlib.suppress(queue.Empty):
            record = handler.waiting.get(timeout=_SUM_UP_S)
            if record is None:
                break
            _put_out(fd, form(record))
        if time.monotonic() - summed_s >= _SUM_UP_S:
            for summary in handler.summaries():
                _put_out(fd, form(summary))
            summed_s = time.monotonic()
    for summary in handler.summaries(last=True):
        _put_out(fd, form(summary))


def _put_out(fd: int, text: str) -> None:
    line = f"{text}\n".encode(errors="backslashreplace")
    with contextlib.suppress(OSError):
        while line:
            line = line[os.write(fd, line) :]


def log_event(event: Event) -> None:
    """Log an event that begins or ends; its going on is for those who debug."""
    level = logging.DEBUG if event.state is State.UPDATE else logging.INFO
    fields = {
        "stream": event.stream,
        "detector": event.detector,
        "event_id": event.event_id,
        "state": event.state.value,
    }
    LOG.log(level, "%s", event_line(event), extra=fields)


def event_line(event: Event) -> str:
    """An event in one line."""
    where = f"{event.stream} / {event.detector}"
    lines = " ".join(f"{line.frequency_hz:.1f}" for line in event.lines[:5])
    heard = f", lines at {lines} Hz" if lines else ""
    if event.state is State.START:
        return f"EVENT {where}: {event.label} began, score {event.score:.2f}{heard}"
    if event.state is State.UPDATE:
        return f"event {where}: goes on, score {event.score:.2f}, peak {event.peak_score:.2f}"
    assert event.end_sample is not None
    seconds = (event.end_sample - event.start_sample + 1) / event.sample_rate_hz
    over = f"{event.label} over after {seconds:.2f} s ({event.end_reason})"
    return f"EVENT {where}: {over}, peak {event.peak_score:.2f}{heard}"

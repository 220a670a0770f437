"""What a person at the terminal reads: one line an event or change of state."""

import contextlib
import logging
import logging.handlers
import os
import queue
import sys
import threading
from collections.abc import Iterator

from detectd.engine.event import Event
from detectd.engine.tracker import State

LOG = logging.getLogger("detectd")


_WAITING_LINES = 10_000
_STOP_S = 1.0


class _DroppingHandler(logging.handlers.QueueHandler):
    """Hands lines to the writing thread; a terminal that takes none holds up nobody, it loses lines."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)


@contextlib.contextmanager
def to_stderr() -> Iterator[None]:
    """Log to stderr, one line a message, local time, from a thread of its own."""
    waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(_WAITING_LINES)
    handler = _DroppingHandler(waiting)
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    writer = threading.Thread(target=_write, args=(waiting, sys.stderr.fileno()), name="log", daemon=True)
    writer.start()
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        # What a terminal takes by then is written; one that takes nothing does not keep the process.
        with contextlib.suppress(queue.Full):
            waiting.put(None, timeout=_STOP_S)
            writer.join(_STOP_S)


def _write(waiting: queue.Queue[logging.LogRecord | None], fd: int) -> None:
    """Write lines until told to stop.

    Past `sys.stderr`, whose lock would be held while a write does not return, and which exiting would wait for.
    """
    form = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")
    while (record := waiting.get()) is not None:
        line = f"{form.format(record)}\n".encode(errors="backslashreplace")
        with contextlib.suppress(OSError):
            while line:
                line = line[os.write(fd, line) :]


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

"""What a person at the terminal reads: one line an event or change of state."""

import logging
import sys

from detectd.event import Event
from detectd.tracker import State

LOG = logging.getLogger("detectd")


def set_up() -> None:
    """Log to stderr, one line a message, local time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)


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

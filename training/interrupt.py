"""Ctrl-C as a wish to stop soon: the first sets a flag, the second interrupts at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Set once a stop is asked for."""

    requested = False


@contextmanager
def stop_on_interrupt() -> Iterator[Stop]:
    """Within the block, SIGINT sets the flag that is handed out."""
    stop = Stop()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)

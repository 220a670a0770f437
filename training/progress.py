"""How far a long job is and how long it will still take, on stderr."""

import sys
import time
from typing import TextIO

_TERMINAL_S, _LOG_S = 0.2, 15.0


class Progress:
    """One line that is rewritten on a terminal; elsewhere a line now and then.

    Parameters
    ----------
    what : str
        Begins the line.
    total : int
        Steps to come.
    """

    def __init__(self, what: str, total: int, stream: TextIO | None = None) -> None:
        self._what, self._total = what, total
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._began = self._shown = time.monotonic()
        self._width = 0

    def update(self, done: int, note: str = "") -> None:
        """Say that `done` steps are done."""
        now = time.monotonic()
        if now - self._shown < (_TERMINAL_S if self._terminal else _LOG_S):
            return
        self._shown = now
        left_s = (now - self._began) * (self._total - done) / max(done, 1)
        self._write(f"{self._what}: {100 * done // self._total} %, {_duration(left_s)} left{note and ', '}{note}")

    def finish(self, note: str) -> None:
        """End the line with what came of it."""
        self._write(f"{self._what}: {note}, took {_duration(time.monotonic() - self._began)}")
        if self._terminal:
            self._stream.write("\n")

    def _write(self, text: str) -> None:
        if self._terminal:
            self._stream.write(f"\r{text:<{self._width}}")
            self._width = len(text)
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"

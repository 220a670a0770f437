"""Keeps what repeats from filling a log: a few of a kind in a window, then one line that says how many more there were.

No clock and no logger: kinds and times in, what to write out.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

WINDOW_S = 60.0
MOST = 5
MOST_KINDS = 10_000
"""Kinds told apart at a time; all beyond that share one, so that a sender of random names cannot fill the memory."""


OTHERS = None
"""The kind that those share."""


@dataclass(slots=True)
class _Kind:
    began_s: float
    n_passed: int = 0
    n_held: int = 0


@dataclass(frozen=True, slots=True)
class Repeated:
    """What was held back of one kind: how many, and within which time."""

    kind: Hashable
    n: int
    within_s: float


class Limiter:
    """A window opens with the first of a kind and closes `window_s` later; what was held back in it is then told."""

    def __init__(self, window_s: float = WINDOW_S, most_kinds: int = MOST_KINDS) -> None:
        self._window_s = window_s
        self._most_kinds = most_kinds
        self._kinds: dict[Hashable, _Kind] = {}
        self._over: dict[Hashable, Repeated] = {}

    def passes(self, kind: Hashable, now_s: float, most: int = MOST) -> bool:
        """Count one of a kind; returns whether to write it. Times never go back."""
        if kind not in self._kinds and len(self._kinds) >= self._most_kinds:
            kind = OTHERS
        known = self._kinds.get(kind)
        if known is None or now_s - known.began_s >= self._window_s:
            self._close(kind)
            # At the end of the dict: windows close in the order in which they opened.
            known = self._kinds[kind] = _Kind(now_s)
        if known.n_passed < most:
            known.n_passed += 1
            return True
        known.n_held += 1
        return False

    def closed(self, now_s: float) -> Iterator[Repeated]:
        """Yield what was held back in windows that are over."""
        while self._kinds:
            kind, oldest = next(iter(self._kinds.items()))
            if now_s - oldest.began_s < self._window_s:
                break
            self._close(kind)
        yield from self._drained()

    def finish(self, now_s: float) -> Iterator[Repeated]:
        """Yield all that was held back and not yet told, without waiting for windows to end."""
        for kind in list(self._kinds):
            self._close(kind, now_s)
        yield from self._drained()

    def _close(self, kind: Hashable, now_s: float = float("inf")) -> None:
        known = self._kinds.pop(kind, None)
        if known is None or not known.n_held:
            return
        if kind not in self._over and len(self._over) >= self._most_kinds:
            kind = OTHERS
        earlier = self._over.get(kind, Repeated(kind, 0, 0.0))
        within_s = earlier.within_s + min(self._window_s, now_s - known.began_s)
        self._over[kind] = Repeated(kind, earlier.n + known.n_held, within_s)

    def _drained(self) -> Iterator[Repeated]:
        over, self._over = self._over, {}
        yield from over.values()

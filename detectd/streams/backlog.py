"""What has arrived of one stream and is not yet analysed: one writer (ingest), one reader (engine), bounded."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Chunk(NamedTuple):
    """Consecutive samples of one stream as they came.

    Attributes
    ----------
    samples : array, shape (n,)
        In the wire format's own numbers.
    first_sample : int
        Index of the first within its epoch.
    utc_ns, utc_sample : int
        Capture time, and the index of the sample that was captured then.
    arrived_s : float
        Monotonic time of arrival.
    """

    samples: NDArray[np.generic]
    first_sample: int
    utc_ns: int
    utc_sample: int
    arrived_s: float


class Break(Enum):
    """Why samples do not follow on each other."""

    GAP = auto()
    """Samples are missing; the index goes on."""
    EPOCH = auto()
    """The sender began anew; so does the index."""
    RESYNC = auto()
    """The index was wrong and is set anew."""
    END = auto()
    """The stream is over, or silent for too long."""


class Mark(NamedTuple):
    """A break between chunks.

    Attributes
    ----------
    kind : Break
    n_samples : int
        Samples missing, for a gap.
    first_sample : int
        Index that the next chunk has, for an epoch or resync.
    rate_hz, scale
        The audio's rate and scale from here on, for an epoch.
    """

    kind: Break
    n_samples: int = 0
    first_sample: int = 0
    rate_hz: int = 0
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Books:
    """Counts of one stream at one instant, in samples: ``accepted == analysed + pending + overrun``."""

    accepted: int
    analysed: int
    pending: int
    overrun: int


class Backlog:
    """A queue of chunks and marks that never holds more than `capacity_samples`, which ingest sets with the rate.

    The ring of this daemon: the chunks are views of the messages they came in, so a stream that keeps up costs the
    memory of what is really waiting, and no copy before the features read it.
    """

    def __init__(self) -> None:
        self.capacity_samples = 0
        self.wanted_samples = 1
        """With fewer waiting, and no mark, there is no point in taking them; see `want`."""
        self._tell: Callable[[], None] | None = None
        self._told = False
        self._queue: deque[Chunk | Mark] = deque()
        self._lock = Lock()
        self._accepted = self._analysed = self._overrun = self._pending = self._n_marks = 0

    def put(self, chunk: Chunk) -> None:
        """Add what follows; where it does not fit, the oldest samples make room and are counted."""
        n_new = len(chunk.samples)
        with self._lock:
            self._accepted += n_new
            self._pending += n_new
            self._queue.append(chunk)
            if self._pending > self.capacity_samples:
                self._drop_oldest(self._pending - self.capacity_samples)
            self._tell_if_ready()

    def mark(self, mark: Mark) -> None:
        """Add a break after all that is here; breaks with no samples between them become few."""
        with self._lock:
            run: list[Mark] = []
            while self._queue and isinstance(last := self._queue[-1], Mark):
                run.insert(0, last)
                self._queue.pop()
            followed = _followed(run, mark)
            self._queue.extend(followed)
            self._n_marks += len(followed) - len(run)
            self._tell_if_ready()

    def listen(self, tell: Callable[[], None]) -> None:
        """Have `tell` called when this becomes ready, at once if it is; not again before the next `want`."""
        with self._lock:
            self._tell = tell
            self._tell_if_ready()

    def want(self, n_samples: int) -> None:
        """Say, after a `take`, how much has to wait for the next."""
        with self._lock:
            self.wanted_samples = n_samples
            self._told = False
            self._tell_if_ready()

    def take(self, max_samples: int) -> tuple[list[Chunk], list[Mark]]:
        """Remove up to `max_samples` and the marks right behind them; samples removed count as analysed."""
        chunks: list[Chunk] = []
        marks: list[Mark] = []
        room = max_samples
        with self._lock:
            queue = self._queue
            while queue:
                head = queue[0]
                if isinstance(head, Mark):
                    marks.append(head)
                    self._n_marks -= 1
                elif marks or not room:
                    break
                elif len(head.samples) > room:
                    chunks.append(head._replace(samples=head.samples[:room]))
                    queue[0] = _without(head, room)
                    self._count_taken(room)
                    break
                else:
                    chunks.append(head)
                    room -= len(head.samples)
                    self._count_taken(len(head.samples))
                queue.popleft()
        return chunks, marks

    def books(self) -> Books:
        """All counts of one instant."""
        with self._lock:
            return Books(self._accepted, self._analysed, self._pending, self._overrun)

    @property
    def ready(self) -> bool:
        """Whether to take what is here: as much as the reader wants, or a mark."""
        return self._pending >= self.wanted_samples or self._n_marks > 0

    @property
    def pending(self) -> int:
        """Samples waiting."""
        return self._pending

    @property
    def fill(self) -> float:
        """Samples waiting over the capacity, 0 to 1."""
        return self._pending / max(1, self.capacity_samples)

    def oldest_arrival_s(self) -> float | None:
        """Monotonic arrival time of the oldest waiting samples."""
        with self._lock:
            return next((entry.arrived_s for entry in self._queue if isinstance(entry, Chunk)), None)

    def _tell_if_ready(self) -> None:
        if self._tell and not self._told and self.ready:
            self._told = True
            self._tell()

    def _count_taken(self, n_samples: int) -> None:
        self._pending -= n_samples
        self._analysed += n_samples

    def _drop_oldest(self, excess: int) -> None:
        self._pending -= excess
        self._overrun += excess
        kept: list[Mark] = []
        while excess:
            head = self._queue.popleft()
            if isinstance(head, Mark):
                kept.append(head)
                self._n_marks -= 1
                continue
            dropped = min(excess, len(head.samples))
            excess -= dropped
            if kept and kept[-1].kind is Break.GAP:
                kept[-1] = Mark(Break.GAP, kept[-1].n_samples + dropped)
            else:
                kept.append(Mark(Break.GAP, dropped))
            if dropped < len(head.samples):
                self._queue.appendleft(_without(head, dropped))
        self._queue.extendleft(reversed(kept))
        self._n_marks += len(kept)


def _without(chunk: Chunk, n_samples: int) -> Chunk:
    return chunk._replace(samples=chunk.samples[n_samples:], first_sample=chunk.first_sample + n_samples)


def _followed(run: list[Mark], mark: Mark) -> list[Mark]:
    """A run of breaks with one more behind it, as short as it can be said: at most four, whatever a sender does."""
    if mark.kind is Break.GAP and run and run[-1].kind is Break.GAP:
        return [*run[:-1], Mark(Break.GAP, run[-1].n_samples + mark.n_samples)]
    if mark.kind is Break.END and any(earlier.kind is not Break.GAP for earlier in run):
        # Nothing was heard since the last end or beginning.
        return run
    if mark.kind is Break.EPOCH:
        return [*run[:1], mark]
    if mark.kind is Break.RESYNC:
        # What sets the index anew outdoes all but the epoch, which says the rate.
        return [*run[:1], *[earlier for earlier in run[1:] if earlier.kind is Break.EPOCH], mark]
    return [*run, mark]

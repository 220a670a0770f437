"""One stream as ingest and engine share it: its backlog, its counts, and when its samples were captured."""

from bisect import bisect_right
from collections import Counter
from fnmatch import fnmatchcase

from detectd.backlog import Backlog, Chunk

_SAME_NS = 500
"""Anchors that predict each other this well say the same; one of them is enough."""


def matches(stream_id: str, pattern: str) -> bool:
    """Whether a glob names this stream, or the source whose channel it is.

    >>> matches("yard-3", "yard-*"), matches("array/1", "array"), matches("array/left", "array")
    (True, True, False)
    """
    source_id, _, channel = stream_id.rpartition("/")
    return fnmatchcase(stream_id, pattern) or (channel.isdecimal() and fnmatchcase(source_id, pattern))


class Stream:
    """A stream of samples.

    Attributes
    ----------
    id : str
    mask_hz : tuple of float
        Tones to ignore.
    backlog : Backlog
        Written by ingest, read by the engine.
    up : bool
        Whether blocks arrive.
    rate_hz : int
        Of the current epoch; 0 before the first block.
    gap_samples, resyncs, rejected
        Counts that ingest keeps; ``rejected`` by reason, in samples.
    last_utc_ns : int
        Capture time of the newest sample; 0 before the first block.
    end_sample : int
        Index after the newest sample.
    """

    def __init__(self, stream_id: str, mask_hz: tuple[float, ...] = ()) -> None:
        self.id = stream_id
        self.mask_hz = mask_hz
        self.backlog = Backlog()
        self.up = False
        self.rate_hz = 0
        self.gap_samples = self.resyncs = 0
        self.rejected: Counter[str] = Counter()
        self.last_utc_ns = 0
        self.end_sample = 0


class SampleClock:
    """When samples were captured and when they arrived, from the chunks that brought them; recent ones only."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._utc: list[tuple[int, int]] = []
        self._arrivals: list[tuple[int, float]] = []
        self._rate_hz = 1

    def reset(self, rate_hz: int) -> None:
        """Begin a new epoch."""
        self._rate_hz = rate_hz
        self._first.clear()
        self._utc.clear()
        self._arrivals.clear()

    def add(self, chunk: Chunk) -> None:
        """Note a chunk; they come in order."""
        self._arrivals.append((chunk.first_sample + len(chunk.samples), chunk.arrived_s))
        if self._utc:
            known_sample, known_ns = self._utc[-1]
            predicted = known_ns + self._offset_ns(chunk.utc_sample - known_sample)
            if abs(predicted - chunk.utc_ns) <= _SAME_NS:
                return
        self._first.append(chunk.first_sample)
        self._utc.append((chunk.utc_sample, chunk.utc_ns))

    def forget_before(self, sample: int) -> None:
        """Drop what only older samples need."""
        passed = bisect_right(self._first, sample) - 1
        if passed > 0:
            del self._first[:passed], self._utc[:passed]
        arrived = bisect_right(self._arrivals, sample, key=lambda entry: entry[0])
        if arrived > 0:
            del self._arrivals[:arrived]

    def utc_ns(self, sample: int) -> int:
        """Capture time of a sample: that of its block's first sample and the offset over the rate."""
        if not self._utc:
            return 0
        anchor_sample, anchor_ns = self._utc[max(0, bisect_right(self._first, sample) - 1)]
        return anchor_ns + self._offset_ns(sample - anchor_sample)

    def arrived_s(self, sample: int) -> float | None:
        """Monotonic time at which a sample arrived, None if that is forgotten."""
        place = bisect_right(self._arrivals, sample, key=lambda entry: entry[0])
        return self._arrivals[place][1] if place < len(self._arrivals) else None

    def _offset_ns(self, n_samples: int) -> int:
        return round(n_samples * 1_000_000_000 / self._rate_hz)

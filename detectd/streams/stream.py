"""One stream as ingest and engine share it: its backlog, its counts, and when its samples were captured."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence

from detectd.streams.backlog import Backlog, Chunk

_MOST_ANCHORS = 4096
"""Anchors kept: a sender of tiny blocks with trembling times loses precision for old samples, and no memory."""

_SAME_NS = 500
"""Anchors that predict each other this well say the same; one of them is enough."""


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
    heard_s : float
        When the newest block came, by the clock that silence is measured by.
    owner : object
        The source whose channel it is.
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
        self.heard_s = 0.0
        self.owner: object = None


class SampleClock:
    """When samples were captured, from the chunks that brought them; recent ones only."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._utc: list[tuple[int, int]] = []
        self._rate_hz = 1

    def reset(self, rate_hz: int) -> None:
        """Begin a new epoch."""
        self._rate_hz = rate_hz
        self._first.clear()
        self._utc.clear()

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Note chunks; they come in order."""
        known_sample, known_ns = self._utc[-1] if self._utc else (0, 0)
        ns_a_sample = 1e9 / self._rate_hz
        for _, first_sample, utc_ns, utc_sample, _ in chunks:
            if self._utc and abs((utc_sample - known_sample) * ns_a_sample - (utc_ns - known_ns)) <= _SAME_NS:
                continue
            known_sample, known_ns = utc_sample, utc_ns
            self._first.append(first_sample)
            self._utc.append((utc_sample, utc_ns))
        if len(self._utc) > _MOST_ANCHORS:
            del self._first[:-_MOST_ANCHORS], self._utc[:-_MOST_ANCHORS]

    def forget_before(self, sample: int) -> None:
        """Drop what only older samples need."""
        passed = bisect_right(self._first, sample) - 1
        if passed > 0:
            del self._first[:passed], self._utc[:passed]

    def utc_ns(self, sample: int) -> int:
        """Capture time of a sample: that of its block's first sample and the offset over the rate."""
        if not self._utc:
            return 0
        anchor_sample, anchor_ns = self._utc[max(0, bisect_right(self._first, sample) - 1)]
        return anchor_ns + round((sample - anchor_sample) * 1_000_000_000 / self._rate_hz)

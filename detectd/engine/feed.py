"""The engine's side of one stream: where its audio stands, who watches it and what one step takes of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectd.dsp.features import MAX_PUSH_S, AnalysisAudio, Features
from detectd.engine.bank import Segment
from detectd.engine.watch import Watch
from detectd.streams.backlog import Chunk, Mark
from detectd.streams.stream import SampleClock, Stream

_FASTER = 1.5


class Feed:
    """One stream in the engine.

    Attributes
    ----------
    segments : list of Segment
        One, as a rule; detectors that joined later and need other audio have one that begins later, until the next
        break makes them one again.
    slots, views : list
        Those of all segments, for the many times they are gone through.
    next_sample : int
        Index after the last sample handed to the features.
    begun : dict
        Events begun, by detector, of watches that are no more.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.clock = SampleClock()
        self.segments: list[Segment] = []
        self.slots: list[tuple[AnalysisAudio, int]] = []
        self.views: list[tuple[Features, int]] = []
        self.watches: list[Watch] = []
        self.next_sample = 0
        self.rate_hz = 0
        self.scale = 1.0
        self.quantum = 1
        self.begun: dict[str, int] = {}
        self._keep_samples = 0

    def settle(self) -> None:
        """Note what follows from new segments or watches."""
        self.slots = [place for segment in self.segments for place in segment.slots.items()]
        self.views = [view for segment in self.segments for view in segment.views.values()]
        self.quantum = max(1, int(MAX_PUSH_S * self.rate_hz))
        longest_s = max((features.spec.window_s for features, _ in self.views), default=0.0)
        self._keep_samples = int((longest_s + 2 * MAX_PUSH_S) * self.rate_hz)

    def close(self) -> None:
        """Give up every place in the features."""
        for segment in self.segments:
            segment.close()
        self.segments, self.watches = [], []
        self.settle()

    def note(self, chunks: list[Chunk]) -> list[NDArray[np.generic]]:
        """Keep the clock and the index; returns the samples."""
        if chunks:
            self.clock.add(chunks)
            self.next_sample = chunks[-1].first_sample + len(chunks[-1].samples)
            self.clock.forget_before(self.next_sample - self._keep_samples)
        return [chunk.samples for chunk in chunks]

    def want(self) -> None:
        """Say how much has to wait for the next turn: until a window is complete there is nothing to score."""
        backlog = self.stream.backlog
        complete = min((watch.wanted_sample for watch in self.watches), default=self.next_sample + self.quantum)
        most = min(self.quantum // 2, backlog.capacity_samples // 4)
        backlog.want(max(1, min(complete + 1 - self.next_sample, most)))

    def late_s(self, oldest_s: float, now_s: float) -> float:
        """How long audio of this arrival has been waiting beyond what it takes for enough to come.

        Where more than that time's audio waits, the sender is faster than real time: no sign that the engine is slow.
        """
        if self.stream.backlog.pending > _FASTER * (now_s - oldest_s) * self.rate_hz:
            return 0.0
        patience_s = self.stream.backlog.wanted_samples / self.rate_hz if self.rate_hz else 0.0
        return max(0.0, now_s - oldest_s - patience_s)

    def flush(self) -> None:
        """Bring out what the filters hold."""
        for audio, slot in self.slots:
            audio.flush(slot, self.scale)


@dataclass(slots=True)
class Turn:
    """What one step takes of a stream: chunks that follow on each other, and the marks behind them."""

    feed: Feed
    chunks: list[Chunk]
    marks: list[Mark]

    def arrived_s(self, sample: int) -> float | None:
        """When a sample arrived; one from before this turn counts as the turn's first."""
        arrived_s = None
        for chunk in reversed(self.chunks):
            arrived_s = chunk.arrived_s
            if chunk.first_sample <= sample:
                break
        return arrived_s

    @property
    def full(self) -> bool:
        """Whether more may be waiting than a turn takes."""
        return sum(len(chunk.samples) for chunk in self.chunks) >= self.feed.quantum

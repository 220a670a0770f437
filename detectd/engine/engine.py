"""The heart: drains all streams, computes all due windows of a detector as one batch, tracks what they score.

It has no thread, socket or clock of its own; `step` is called again and again, and what it returns is told to the
world by others. All streams share each step, so under load the batches grow by themselves.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from detectd.dsp.features import MAX_PUSH_S, AnalysisAudio, Features
from detectd.dsp.spec import FeatureSpec
from detectd.engine.event import Event
from detectd.engine.tracker import EndReason
from detectd.engine.watch import Detector, Watch
from detectd.streams.backlog import Break, Chunk, Mark
from detectd.streams.stream import SampleClock, Stream

CHUNK = 32
"""Windows a network call: larger batches no longer fit the cache and are slower."""

_FASTER = 1.5
OVERLOAD_LAG_S = 0.5
OVERLOAD_AFTER_S = 1.0
"""Windows are shed once the oldest waiting audio has been this late for this long; a hiccup sheds nothing."""


@dataclass(slots=True)
class Batch:
    """What became of one detector's windows in one step.

    Attributes
    ----------
    n_windows, n_shed : int
    seconds : list of float
        Time of each network call.
    latencies_s : list of float
        From the arrival of each window's last sample to its score.
    scores : list of (str, int, float)
        Stream, first sample and score of each window.
    """

    n_windows: int = 0
    n_shed: int = 0
    seconds: list[float] = field(default_factory=list[float])
    latencies_s: list[float] = field(default_factory=list[float])
    scores: list[tuple[str, int, float]] = field(default_factory=list[tuple[str, int, float]])


@dataclass(slots=True)
class Report:
    """What one step did.

    Attributes
    ----------
    busy : bool
        Whether there was anything to do.
    more : bool
        Whether a stream had more waiting than one step takes.
    """

    busy: bool = False
    more: bool = False
    events: list[Event] = field(default_factory=list[Event])
    batches: dict[str, Batch] = field(default_factory=dict[str, Batch])


class _Feed:
    """The engine's side of a stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.clock = SampleClock()
        self.slots: dict[AnalysisAudio, int] = {}
        self.views: list[tuple[Features, int]] = []
        self.watches: list[Watch] = []
        self.next_sample = 0
        self.rate_hz = 0
        self.scale = 1.0
        self.quantum = 1
        self.keep_samples = 0
        self.begun: dict[str, int] = {}

    def note(self, chunks: list[Chunk]) -> list[NDArray[np.generic]]:
        """Keep the clock and the index; returns the samples."""
        if chunks:
            self.clock.add(chunks)
            self.next_sample = chunks[-1].first_sample + len(chunks[-1].samples)
            self.clock.forget_before(self.next_sample - self.keep_samples)
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
        for audio, slot in self.slots.items():
            audio.flush(slot, self.scale)


@dataclass(slots=True)
class _Turn:
    """What one step takes of a stream: chunks that follow on each other, and the marks behind them."""

    feed: _Feed
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
        return sum(len(chunk.samples) for chunk in self.chunks) >= self.feed.quantum


class Engine:
    """Streams in, events out.

    Parameters
    ----------
    detectors : sequence of Detector
    """

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self.detectors = tuple(detectors)
        self._feeds: dict[str, _Feed] = {}
        self._ready: deque[_Feed] = deque()
        self._audio: dict[tuple[int, float], AnalysisAudio] = {}
        self._features: dict[FeatureSpec, Features] = {}
        self._late_since_s: float | None = None
        for key in {_audio_key(spec) for detector in detectors for spec in detector.specs}:
            specs = [spec for detector in detectors for spec in detector.specs if _audio_key(spec) == key]
            self._audio[key] = AnalysisAudio(*key, keep_s=max(spec.window_s for spec in specs))
            self._features |= {spec: Features(spec, self._audio[key]) for spec in specs}

    def detectors_of(self, stream_id: str) -> list[Detector]:
        """Detectors that watch a stream by its id, whatever its rate."""
        return [d for d in self.detectors if d.watches(stream_id)]

    def add(self, stream: Stream) -> None:
        """Take a stream in; its backlog's first mark must begin an epoch."""
        feed = self._feeds[stream.id] = _Feed(stream)
        stream.backlog.listen(partial(self._ready.append, feed))

    def remove(self, stream_id: str) -> list[Event]:
        """Forget a stream; its event, if one goes on, ends."""
        feed = self._feeds.pop(stream_id)
        for audio, slot in feed.slots.items():
            audio.remove(slot)
        ended = [watch.end(EndReason.STREAM_LOST) for watch in feed.watches]
        feed.slots, feed.views, feed.watches = {}, [], []
        return [event for event in ended if event is not None]

    def watches(self, stream_id: str) -> list[Watch]:
        """Who watches a stream at its present rate."""
        return list(self._feeds[stream_id].watches) if stream_id in self._feeds else []

    def lag_s(self, stream_id: str, now_s: float) -> float:
        """How long a stream's oldest audio has been waiting, not counting the time until a window was complete."""
        feed = self._feeds.get(stream_id)
        oldest_s = feed.stream.backlog.oldest_arrival_s() if feed else None
        return 0.0 if feed is None or oldest_s is None else feed.late_s(oldest_s, now_s)

    def step(self, now: Callable[[], float]) -> Report:
        """Analyse what is waiting and may complete a window, at most `MAX_PUSH_S` of each stream.

        Parameters
        ----------
        now : callable
            Monotonic time in seconds, the clock of the chunks' arrival.
        """
        turns = self._drain()
        report = Report(busy=bool(turns), more=any(turn.full for turn in turns))
        if not turns:
            self._late_since_s = None
            return report
        shed = self._overloaded(turns, now())
        self._hear(turns)
        due: dict[str, list[tuple[_Turn, Watch, int]]] = {}
        for turn in turns:
            for watch in turn.feed.watches:
                numbers = watch.due(turn.feed.next_sample)
                if not numbers:
                    continue
                if shed and len(numbers) > 1:
                    report.batches.setdefault(watch.detector.name, Batch()).n_shed += len(numbers) - 1
                    numbers = numbers[-1:]
                due.setdefault(watch.detector.name, []).extend((turn, watch, number) for number in numbers)
        for name, windows in due.items():
            batch = report.batches.setdefault(name, Batch())
            for first in range(0, len(windows), CHUNK):
                self._score(windows[first : first + CHUNK], batch, report.events, now)
        for turn in turns:
            for mark in turn.marks:
                self._break(turn.feed, mark, report.events)
            turn.feed.want()
        return report

    def end_all(self, reason: EndReason) -> list[Event]:
        """End every event that goes on."""
        ended = [watch.end(reason) for feed in self._feeds.values() for watch in feed.watches]
        return [event for event in ended if event is not None]

    def _drain(self) -> list[_Turn]:
        ready = [self._ready.popleft() for _ in range(len(self._ready))]
        return [_Turn(feed, *feed.stream.backlog.take(feed.quantum)) for feed in ready]

    def _overloaded(self, turns: list[_Turn], now_s: float) -> bool:
        late_s = max((turn.feed.late_s(turn.chunks[0].arrived_s, now_s) for turn in turns if turn.chunks), default=0.0)
        if late_s < OVERLOAD_LAG_S:
            self._late_since_s = None
        elif self._late_since_s is None:
            self._late_since_s = now_s
        return self._late_since_s is not None and now_s - self._late_since_s >= OVERLOAD_AFTER_S

    def _hear(self, turns: list[_Turn]) -> None:
        """Bring the new audio of all streams into the features."""
        batches: dict[AnalysisAudio, list[tuple[int, list[NDArray[np.generic]], float]]] = {}
        for turn in turns:
            pieces = turn.feed.note(turn.chunks)
            for audio, slot in turn.feed.slots.items() if pieces else ():
                batches.setdefault(audio, []).append((slot, pieces, turn.feed.scale))
        for audio, batch in batches.items():
            audio.push(batch)
        for turn in turns:
            if turn.marks:
                turn.feed.flush()
        changed: dict[Features, list[int]] = {}
        for turn in turns:
            for features, slot in turn.feed.views:
                changed.setdefault(features, []).append(slot)
        for features, slots in changed.items():
            features.update(slots)

    @staticmethod
    def _score(
        windows: list[tuple[_Turn, Watch, int]], batch: Batch, events: list[Event], now: Callable[[], float]
    ) -> None:
        """Score windows of one detector together and give each watch its own."""
        detector = windows[0][1].detector
        began_s = now()
        inputs = []
        for view in range(len(detector.specs)):
            slots = np.array([watch.views[view][1] for _, watch, _ in windows])
            positions = np.array([number * watch.hops[view] for _, watch, number in windows])
            inputs.append(windows[0][1].views[view][0].windows(slots, positions))
        scores, labels = detector.scorer.score_labelled(inputs)
        scored_s = now()
        names = detector.scorer.labels
        batch.n_windows += len(windows)
        batch.seconds.append(scored_s - began_s)
        for row, ((turn, watch, number), score) in enumerate(zip(windows, scores.tolist(), strict=True)):
            label = names[0] if labels is None else names[labels[row]]
            start_sample = watch.start_of(number)
            batch.scores.append((turn.feed.stream.id, start_sample, score))
            event = watch.push(number, start_sample, score, label, turn.feed.clock)
            if event is not None:
                events.append(event)
            arrived_s = turn.arrived_s(start_sample + watch.window_samples - 1)
            if arrived_s is not None:
                batch.latencies_s.append(scored_s - arrived_s)

    def _break(self, feed: _Feed, mark: Mark, events: list[Event]) -> None:
        """Do what a mark says, after all that came before it was scored."""
        ended: list[Event | None]
        match mark.kind:
            case Break.GAP:
                feed.next_sample += mark.n_samples
                ended = [watch.gap(mark.n_samples, feed.next_sample) for watch in feed.watches]
            case Break.END:
                ended = [watch.end(EndReason.STREAM_LOST) for watch in feed.watches]
            case Break.EPOCH | Break.RESYNC:
                ended = [watch.end(EndReason.GAP) for watch in feed.watches]
                feed.next_sample = mark.first_sample
                if mark.kind is Break.EPOCH:
                    self._tune(feed, mark)
                feed.clock.reset(feed.rate_hz)
        events += [event for event in ended if event is not None]
        for audio, slot in feed.slots.items():
            audio.reset(slot)
        for features, slot in feed.views:
            features.begin(slot, feed.stream.mask_hz)
        for watch in feed.watches:
            watch.begin_segment(feed.next_sample)

    def _tune(self, feed: _Feed, mark: Mark) -> None:
        """Set a stream up for the rate of a new epoch."""
        feed.scale = mark.scale
        if feed.rate_hz == mark.rate_hz:
            return
        feed.rate_hz = mark.rate_hz
        for audio, slot in feed.slots.items():
            audio.remove(slot)
        able = [d for d in self.detectors_of(feed.stream.id) if mark.rate_hz >= d.min_rate_hz]
        feed.slots = {}
        views: dict[FeatureSpec, tuple[Features, int]] = {}
        for spec in (spec for detector in able for spec in detector.specs):
            audio = self._audio[_audio_key(spec)]
            if audio not in feed.slots:
                feed.slots[audio] = audio.add(mark.rate_hz)
            views[spec] = (self._features[spec], feed.slots[audio])
        feed.views = list(views.values())
        feed.begun |= {watch.detector.name: watch.events for watch in feed.watches}
        feed.watches = [
            Watch(detector, feed.stream, [views[spec] for spec in detector.specs], mark.rate_hz) for detector in able
        ]
        for watch in feed.watches:
            watch.events = feed.begun.get(watch.detector.name, 0)
        feed.quantum = max(1, int(MAX_PUSH_S * mark.rate_hz))
        longest_s = max((spec.window_s for spec in views), default=0.0)
        feed.keep_samples = int((longest_s + 2 * MAX_PUSH_S) * mark.rate_hz)


def _audio_key(spec: FeatureSpec) -> tuple[int, float]:
    return spec.analysis_rate_hz, spec.band_high_hz

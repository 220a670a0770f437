"""The heart: drains all streams, computes all due windows of a detector as one batch, tracks what they score.

It has no thread, socket or clock of its own; `step` is called again and again, and what it returns is told to the
world by others. All streams share each step, so under load the batches grow by themselves.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectd.dsp.features import AnalysisAudio, Features
from detectd.engine.bank import Bank, Segment
from detectd.engine.event import Event
from detectd.engine.feed import Feed, Turn
from detectd.engine.tracker import EndReason
from detectd.engine.watch import Detector, Watch
from detectd.streams.backlog import Break, Mark
from detectd.streams.stream import Stream

CHUNK = 32
"""Windows a network call: larger batches no longer fit the cache and are slower."""

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


class Progress(NamedTuple):
    """How far an engine has come since it was made; shed windows are done."""

    analysed_samples: int = 0
    due_windows: int = 0
    done_windows: int = 0


class Engine:
    """Streams in, events out.

    Parameters
    ----------
    detectors : sequence of Detector
    """

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self.detectors: tuple[Detector, ...] = ()
        self._feeds: dict[str, Feed] = {}
        self._ready: deque[Feed] = deque()
        self._bank = Bank()
        self._late_since_s: float | None = None
        self.progress = Progress()
        self.swap(detectors)

    def swap(self, detectors: Sequence[Detector]) -> list[Event]:
        """Use these detectors from the next window on.

        Those that were there before keep their place in every stream, and their events go on; events of the others
        end. New ones hear what is remembered, so that no window is missed where one takes another's place.
        """
        specs = {spec for detector in detectors for spec in detector.specs}
        self.detectors = tuple(detectors)
        self._bank.need(specs)
        ended = [event for feed in self._feeds.values() for event in self._rewatch(feed)]
        self._bank.keep_only(specs)
        return ended

    @property
    def waiting(self) -> bool:
        """Whether a stream has as much waiting as the next step wants of it."""
        return bool(self._ready)

    def detectors_of(self, stream_id: str) -> list[Detector]:
        """Detectors that watch a stream by its id, whatever its rate."""
        return [d for d in self.detectors if d.watches(stream_id)]

    def add(self, stream: Stream) -> None:
        """Take a stream in; its backlog's first mark must begin an epoch."""
        feed = self._feeds[stream.id] = Feed(stream)
        stream.backlog.listen(partial(self._ready.append, feed))

    def remove(self, stream_id: str) -> list[Event]:
        """Forget a stream that is wanted no more; its event, if one goes on, ends."""
        feed = self._feeds.pop(stream_id)
        ended = [watch.end(EndReason.RELOAD) for watch in feed.watches]
        feed.close()
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
        due: dict[str, list[tuple[Turn, Watch, int]]] = {}
        for turn in turns:
            for watch in turn.feed.watches:
                numbers = watch.due(turn.feed.next_sample)
                if not numbers:
                    continue
                if shed and len(numbers) > 1:
                    report.batches.setdefault(watch.detector.name, Batch()).n_shed += len(numbers) - 1
                    numbers = numbers[-1:]
                due.setdefault(watch.detector.name, []).extend((turn, watch, number) for number in numbers)
        self._count(n_due=sum(map(len, due.values())))
        for name, windows in due.items():
            batch = report.batches.setdefault(name, Batch())
            for first in range(0, len(windows), CHUNK):
                self._score(windows[first : first + CHUNK], batch, report.events, now)
                self._count(n_done=len(windows[first : first + CHUNK]))
        for turn in turns:
            for mark in turn.marks:
                self._break(turn.feed, mark, report.events)
            turn.feed.want()
        return report

    def end_all(self, reason: EndReason) -> list[Event]:
        """End every event that goes on."""
        ended = [watch.end(reason) for feed in self._feeds.values() for watch in feed.watches]
        return [event for event in ended if event is not None]

    def _drain(self) -> list[Turn]:
        ready = [self._ready.popleft() for _ in range(len(self._ready))]
        # What waits of a stream that is forgotten by now is nobody's any more.
        wanted = [feed for feed in ready if self._feeds.get(feed.stream.id) is feed]
        return [Turn(feed, *feed.stream.backlog.take(feed.quantum)) for feed in wanted]

    def _overloaded(self, turns: list[Turn], now_s: float) -> bool:
        late_s = max((turn.feed.late_s(turn.chunks[0].arrived_s, now_s) for turn in turns if turn.chunks), default=0.0)
        if late_s < OVERLOAD_LAG_S:
            self._late_since_s = None
        elif self._late_since_s is None:
            self._late_since_s = now_s
        return self._late_since_s is not None and now_s - self._late_since_s >= OVERLOAD_AFTER_S

    def _hear(self, turns: list[Turn]) -> None:
        """Bring the new audio of all streams into the features."""
        batches: dict[AnalysisAudio, list[tuple[int, list[NDArray[np.generic]], float]]] = {}
        n_samples = 0
        for turn in turns:
            pieces = turn.feed.note(turn.chunks)
            n_samples += sum(map(len, pieces))
            for audio, slot in turn.feed.slots if pieces else ():
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
        self._count(n_samples=n_samples)

    def _count(self, *, n_samples: int = 0, n_due: int = 0, n_done: int = 0) -> None:
        analysed, due, done = self.progress
        self.progress = Progress(analysed + n_samples, due + n_due, done + n_done)

    @staticmethod
    def _score(
        windows: list[tuple[Turn, Watch, int]], batch: Batch, events: list[Event], now: Callable[[], float]
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

    def _break(self, feed: Feed, mark: Mark, events: list[Event]) -> None:
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
        self._begin_segment(feed)

    def _begin_segment(self, feed: Feed) -> None:
        """Nothing before this counts; what joined at different times becomes one."""
        if len(feed.segments) == 1:
            feed.segments[0].restart(feed.next_sample, feed.stream.mask_hz)
        else:
            for segment in feed.segments:
                segment.close()
            feed.segments = [Segment(feed.next_sample)]
            for watch in feed.watches:
                watch.views = self._equip(feed, feed.segments[0], watch.detector)
            feed.settle()
        for watch in feed.watches:
            watch.begin_segment(feed.next_sample)

    def _tune(self, feed: Feed, mark: Mark) -> None:
        """Set a stream up for the rate of a new epoch."""
        feed.scale = mark.scale
        if feed.rate_hz == mark.rate_hz:
            return
        feed.begun |= {watch.detector.name: watch.events for watch in feed.watches}
        feed.close()
        feed.rate_hz = mark.rate_hz
        feed.segments = [Segment(feed.next_sample)]
        feed.watches = [self._watch(feed, feed.segments[0], detector) for detector in self._able(feed)]
        feed.settle()

    def _rewatch(self, feed: Feed) -> list[Event]:
        """Have a stream watched by the detectors of now; returns the ends of events of those that are no more."""
        if not feed.rate_hz:
            return []
        able = self._able(feed)
        if [watch.detector for watch in feed.watches] == able:
            return []
        before = {watch.detector.anywhere: watch for watch in feed.watches}
        staying = {detector.anywhere for detector in able}
        gone = [watch for detector, watch in before.items() if detector not in staying]
        ended = [watch.end(EndReason.RELOAD) for watch in gone]
        feed.begun |= {watch.detector.name: watch.events for watch in gone}
        feed.watches = [before.get(detector.anywhere) or self._join(feed, detector) for detector in able]
        for watch, detector in zip(feed.watches, able, strict=True):
            watch.detector = detector
        for segment in feed.segments:
            segment.keep_only({features.spec for watch in feed.watches for features, _ in watch.views})
        feed.segments = [segment for segment in feed.segments if segment.slots]
        feed.settle()
        return [event for event in ended if event is not None]

    def _join(self, feed: Feed, detector: Detector) -> Watch:
        """Watch a segment that goes on, as far back as its audio is remembered; else one that begins now."""
        held = [segment for segment in feed.segments if self._bank.holds(segment, detector.specs)]
        segment = held[0] if held else Segment(feed.next_sample)
        if not held:
            feed.segments.append(segment)
        watch = self._watch(feed, segment, detector)
        watch.join(segment.first_sample, feed.next_sample)
        return watch

    def _watch(self, feed: Feed, segment: Segment, detector: Detector) -> Watch:
        watch = Watch(detector, feed.stream, self._equip(feed, segment, detector), feed.rate_hz)
        watch.events = feed.begun.get(detector.name, 0)
        return watch

    def _equip(self, feed: Feed, segment: Segment, detector: Detector) -> list[tuple[Features, int]]:
        return self._bank.equip(segment, detector.specs, feed.rate_hz, feed.stream.mask_hz)

    def _able(self, feed: Feed) -> list[Detector]:
        """The detectors that watch a stream and can, at its present rate."""
        return [d for d in self.detectors_of(feed.stream.id) if feed.rate_hz >= d.min_rate_hz]

"""One detector watching one stream: its place in the audio, its tracker and the event that goes on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from detectd.bundles.scoring import Scorer
from detectd.dsp.features import Features, common_hops, start_sample
from detectd.dsp.lines import Line, strongest_lines
from detectd.dsp.spec import FeatureSpec
from detectd.engine.event import Event
from detectd.engine.tracker import Change, EndReason, Rules, State, Tracker
from detectd.globs import matches
from detectd.streams.stream import SampleClock, Stream

UPDATE_S = 1


@dataclass(frozen=True)
class Detector:
    """A loaded bundle and the rules to use it by.

    Attributes
    ----------
    streams : tuple of str
        Globs of the streams to watch.
    hop_s : float
        Time between windows as asked for; rounded to the feature grid.
    on, off : float
        Thresholds.
    """

    name: str
    scorer: Scorer
    streams: tuple[str, ...]
    hop_s: float
    on: float
    off: float
    alarm_on: Literal["present", "absent"] = "present"
    min_duration_s: float = 0.5
    hold_s: float = 2.0

    @cached_property
    def specs(self) -> tuple[FeatureSpec, ...]:
        """What each view of the bundle looks at."""
        return tuple(view.spec for view in self.scorer.bundle.manifest.views)

    @cached_property
    def anywhere(self) -> "Detector":
        """The detector whatever streams it is for: where this is the same, a stream of both is treated the same."""
        return replace(self, streams=())

    @property
    def min_rate_hz(self) -> int:
        """The lowest rate of a stream that every view can be made of."""
        return max(spec.min_rate_hz for spec in self.specs)

    def watches(self, stream_id: str) -> bool:
        """Whether the detector is for a stream, by its id."""
        return any(matches(stream_id, glob) for glob in self.streams)

    def rules(self, rate_hz: int) -> Rules:
        """The tracker's rules for a stream of `rate_hz`."""
        return Rules(
            on=self.on,
            off=self.off,
            alarm_on=self.alarm_on,
            min_duration_samples=round(self.min_duration_s * rate_hz),
            hold_samples=round(self.hold_s * rate_hz),
            window_samples=round(self.specs[0].window_s * rate_hz),
            update_samples=UPDATE_S * rate_hz,
        )


class Watch:
    """A detector on a stream.

    Parameters
    ----------
    views : sequence of (Features, slot)
        Where each view of the bundle finds this stream.
    """

    def __init__(self, detector: Detector, stream: Stream, views: Sequence[tuple[Features, int]], rate_hz: int) -> None:
        self.detector = detector
        self.stream = stream
        self.views = views
        self.hops = common_hops([features.spec for features, _ in views], detector.hop_s)
        self.rate_hz = rate_hz
        self.score: float | None = None
        self.events = 0
        rules = detector.rules(rate_hz)
        self.window_samples = rules.window_samples
        self._tracker = Tracker(rules)
        self._next = 0
        self._segment_sample = 0
        self._event_id = ""
        self._label = detector.scorer.labels[0]
        self._start_utc_ns = self._end_utc_ns = 0
        self._peak_audio: NDArray[np.float32] | None = None
        self._lines: tuple[Line, ...] = ()

    def begin_segment(self, first_sample: int) -> None:
        """Count windows from here."""
        self._next = 0
        self._segment_sample = first_sample

    def join(self, first_sample: int, end_sample: int) -> None:
        """Begin in the midst of the segment that began with `first_sample`: with the first window not yet complete."""
        self.begin_segment(first_sample)
        self.due(end_sample)
        for (features, slot), hop in zip(self.views, self.hops, strict=True):
            self._next = max(self._next, -(-features.oldest(slot) // hop))

    def due(self, end_sample: int) -> range:
        """Numbers of the windows that end before `end_sample` and were not handed out before."""
        ready = min(
            (features.positions(slot) + hop - 1) // hop
            for (features, slot), hop in zip(self.views, self.hops, strict=True)
        )
        # The features may be ahead of the audio, by a frame's guard or by the silence that flushed them.
        while ready > self._next and self.start_of(ready - 1) + self.window_samples > end_sample:
            ready -= 1
        first, self._next = self._next, max(self._next, ready)
        return range(first, self._next)

    @property
    def wanted_sample(self) -> int:
        """Last sample of the next window: before it is here, nothing is due."""
        return self.start_of(self._next) + self.window_samples - 1

    def start_of(self, number: int) -> int:
        """First sample of a window."""
        return self._segment_sample + start_sample(self.detector.specs[0], number * self.hops[0], self.rate_hz)

    def push(self, number: int, start_sample: int, score: float, label: str, clock: SampleClock) -> Event | None:
        """Take a window's score; returns the event that it begins, changes or ends."""
        self.score = score
        tracker, before = self._tracker, self._tracker.span
        change = tracker.push(score, start_sample)
        span = tracker.span
        if span is not None:
            if before is None:
                self._event_id = str(uuid4())
                self._start_utc_ns = clock.utc_ns(span.start_sample)
            if before is None or span.end_sample != before.end_sample:
                self._end_utc_ns = clock.utc_ns(span.end_sample)
            if tracker.peaked or before is None:
                features, slot = self.views[0]
                self._peak_audio = features.audio(np.array([slot]), np.array([number * self.hops[0]]))[0]
                self._label = label
        return self._event(change)

    def gap(self, n_samples: int, next_sample: int) -> Event | None:
        """Missing samples; ends the event if there are too many."""
        return self._event(self._tracker.gap(n_samples, next_sample))

    def end(self, reason: EndReason) -> Event | None:
        """End the event that goes on."""
        return self._event(self._tracker.end(reason))

    def _event(self, change: Change | None) -> Event | None:
        if change is None:
            return None
        over = change.state is State.END
        self.events += change.state is State.START
        return Event(
            event_id=self._event_id,
            state=change.state,
            stream=self.stream.id,
            detector=self.detector.name,
            kind=self.detector.scorer.bundle.manifest.kind,
            bundle=self.detector.scorer.bundle.ident,
            threshold=self.detector.on,
            label=self._label,
            start_sample=change.span.start_sample,
            end_sample=change.span.end_sample if over else None,
            sample_rate_hz=self.rate_hz,
            start_utc_ns=self._start_utc_ns,
            end_utc_ns=self._end_utc_ns if over else None,
            heard_sample=change.span.end_sample,
            heard_utc_ns=self._end_utc_ns,
            score=change.span.score,
            peak_score=change.span.peak_score,
            lines=self._peak_lines(),
            gap_samples=change.span.gap_samples,
            end_reason=change.end_reason,
        )

    def _peak_lines(self) -> tuple[Line, ...]:
        """Lines of the window with the peak score; looked for once, and only if somebody is told."""
        if self._peak_audio is not None:
            spec = self.detector.specs[0]
            band_hz = spec.band_low_hz, spec.band_high_hz
            self._lines = tuple(strongest_lines(self._peak_audio, spec.analysis_rate_hz, band_hz, self.stream.mask_hz))
            self._peak_audio = None
        return self._lines

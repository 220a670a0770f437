"""Scores become events: two thresholds, a minimum duration, a hold. Counts samples; knows no clock and no stream.

An event spans from the first sample of its first *hot* window (at or above on) to the last sample of its last *warm*
window (at or above off). It is announced once it is as long as the minimum duration, and ends once it has been quiet
for the hold time, so that spans with less silence between them are one event. With ``alarm_on = "absent"`` hot is
below off and warm is below on.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal


class State(StrEnum):
    """States of an event on the wire."""

    START = "start"
    UPDATE = "update"
    END = "end"


class EndReason(StrEnum):
    """Why an event is over."""

    QUIET = "quiet"
    GAP = "gap"
    STREAM_LOST = "stream-lost"
    SHUTDOWN = "shutdown"
    RELOAD = "reload"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Rules:
    """When a run of scores is an event; times in samples of the stream."""

    on: float
    off: float
    alarm_on: Literal["present", "absent"]
    min_duration_samples: int
    hold_samples: int
    window_samples: int
    update_samples: int


@dataclass(frozen=True, slots=True)
class Span:
    """An event so far.

    Attributes
    ----------
    start_sample, end_sample : int
        First sample and last sample (inclusive).
    score, peak_score : float
        Of the last window, and of the most extreme one.
    gap_samples : int
        Samples missing between start and end.
    """

    start_sample: int
    end_sample: int
    score: float
    peak_score: float
    gap_samples: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """What the outside is told: an event's state and span."""

    state: State
    span: Span
    end_reason: EndReason | None = None


class Tracker:
    """Follows one stream through one detector's rules."""

    __slots__ = ("_announced", "_gap_samples", "_last_told", "_rules", "_span", "peaked")

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._span: Span | None = None
        self._announced = False
        self._gap_samples = 0
        self._last_told = 0
        self.peaked = False
        """Whether the window just pushed has the peak score of its span."""

    @property
    def span(self) -> Span | None:
        """The event that goes on, announced or not."""
        return self._span

    def push(self, score: float, start_sample: int) -> Change | None:
        """Take the next window's score; returns what changed for the outside."""
        hot, warm = self._judged(score)
        span = self._span
        if span is None:
            self.peaked = hot
            if not hot:
                return None
            end_sample = start_sample + self._rules.window_samples - 1
            self._span = Span(start_sample, end_sample, score, score)
            self._gap_samples = 0
            return self._told(end_sample)
        end_sample = start_sample + self._rules.window_samples - 1
        self.peaked = score < span.peak_score if self._absent else score > span.peak_score
        peak_score = score if self.peaked else span.peak_score
        if warm:
            gaps = span.gap_samples + self._gap_samples
            self._gap_samples = 0
            self._span = Span(span.start_sample, end_sample, score, peak_score, gaps)
            return self._told(end_sample)
        self._span = replace(span, score=score, peak_score=peak_score)
        if end_sample - span.end_sample >= self._rules.hold_samples:
            return self.end(EndReason.QUIET)
        return self._told(end_sample)

    def gap(self, n_samples: int, next_sample: int) -> Change | None:
        """Take note of missing samples before `next_sample`; one longer than the hold ends the event."""
        if self._span is None:
            return None
        self._gap_samples += n_samples
        # Gaps in quick succession leave no whole window to judge by; that cannot hold an event open for ever.
        unheard = next_sample - 1 - self._span.end_sample
        if n_samples > self._rules.hold_samples or unheard > self._rules.hold_samples + self._rules.window_samples:
            return self.end(EndReason.GAP)
        return None

    def end(self, reason: EndReason) -> Change | None:
        """End the event that goes on, if there is one; tells nothing of one never announced."""
        span, self._span = self._span, None
        announced, self._announced = self._announced, False
        return Change(State.END, span, reason) if span and announced else None

    @property
    def _absent(self) -> bool:
        return self._rules.alarm_on == "absent"

    def _judged(self, score: float) -> tuple[bool, bool]:
        rules = self._rules
        return (score < rules.off, score < rules.on) if self._absent else (score >= rules.on, score >= rules.off)

    def _told(self, now_sample: int) -> Change | None:
        """Announce the event once it is long enough, then report at most once in `update_samples`."""
        span = self._span
        if span is None:
            return None
        if not self._announced:
            if span.end_sample - span.start_sample + 1 < self._rules.min_duration_samples:
                return None
            self._announced, self._last_told = True, now_sample
            return Change(State.START, span)
        if now_sample - self._last_told < self._rules.update_samples:
            return None
        self._last_told = now_sample
        return Change(State.UPDATE, span)

"""A device's clock against the computer's: how late what was read came, and how far the rates are apart.

Frames that a device delivers lie, in the plane of time and count, on or below a line: never before they were captured,
often a little later. The line's slope is the device's true rate; a fall below it that does not end is a loss. What
decides about losses is `detectd.capture.ledger`. Pure.
"""

from collections import deque

import numpy as np

_BUCKET_S = 1.0
_BUCKETS = 120
_DRIFT_AFTER_S = 20.0
"""Span from which the drift is told: one millisecond of noise is 20 ppm by then, and 4 ppm after a minute."""

_LEVEL_BUCKETS = 8
_EARLY_S = 0.02
"""What comes that much earlier than was possible shows that the line was wrong, by a change of latency for one."""

_FALL_BUCKETS = 5
_FALL_S = 0.01
_FALL_SPREADS = 6.0


class CaptureClock:
    """The line that a device's frames lie on.

    Everything is kept as *delay*: the time of a reading less the nominal duration of all frames until then. Its lower
    envelope, by the second, is what the device and its driver really do; the rest is waiting for a processor.

    Parameters
    ----------
    rate_hz : int
        Nominal.
    drift_ppm : float or None
        Known from before, until this clock knows better.
    """

    def __init__(self, rate_hz: int, drift_ppm: float | None = None) -> None:
        self._rate_hz = rate_hz
        self._prior = -(drift_ppm or 0.0) * 1e-6
        self._slope: float | None = None
        self._buckets: deque[tuple[float, float]] = deque(maxlen=_BUCKETS)
        self._bucket_until_s = 0.0
        self._spread_s = 0.0
        self._origin_s: float | None = None

    @property
    def drift_ppm(self) -> float | None:
        """How much faster the device is than its nominal rate; None until known, after 20 s.

        Within 20 ppm after a minute wherever a second holds one reading that was late by less than 2 ms.
        """
        return None if self._slope is None else -self._slope * 1e6

    @property
    def spread_s(self) -> float:
        """How far the envelope strays from its line."""
        return self._spread_s

    def lateness_s(self, n_frames: int, at_s: float) -> float:
        """How much later than the line says `n_frames` in all were there at `at_s`; nothing is learned from it."""
        if not self._buckets:
            return 0.0
        time_s, delay_s = self._point(n_frames, at_s)
        return delay_s - self._level_s() - self._line_slope * time_s

    def learn(self, n_frames: int, at_s: float) -> None:
        """Take a reading into the line."""
        if self._origin_s is None:
            self._origin_s = at_s
        if self.lateness_s(n_frames, at_s) < -_EARLY_S:
            self._prior = self._line_slope
            self._buckets.clear()
        point = self._point(n_frames, at_s)
        if self._buckets and point[0] < self._bucket_until_s:
            self._buckets[-1] = min(self._buckets[-1], point, key=lambda known: known[1])
            return
        self._fit()
        self._buckets.append(point)
        self._bucket_until_s = point[0] + _BUCKET_S

    def fall_frames(self) -> int:
        """Frames that are missing by a small fall of the envelope lasting seconds; 0 if there is none.

        It is told once: the line goes on as if they had been read, so the caller must count them too.
        """
        if self._slope is None or len(self._buckets) < _FALL_BUCKETS + _LEVEL_BUCKETS:
            return 0
        heights = [delay_s - self._slope * time_s for time_s, delay_s in self._buckets]
        before, after = heights[-_FALL_BUCKETS - _LEVEL_BUCKETS : -_FALL_BUCKETS], heights[-_FALL_BUCKETS:]
        risen_s = min(after) - max(before)
        if risen_s < max(_FALL_S, _FALL_SPREADS * self._spread_s):
            return 0
        n_lost = round((float(np.median(after)) - float(np.median(before))) * self._rate_hz)
        for index in range(-_FALL_BUCKETS, 0):
            time_s, delay_s = self._buckets[index]
            self._buckets[index] = (time_s, delay_s - n_lost / self._rate_hz)
        return n_lost

    def captured_s(self, frame: int, near_s: float) -> float:
        """Time at which a frame was captured, by the line, in the clock of the readings; `near_s` is close to it."""
        if self._origin_s is None or not self._buckets:
            return near_s
        return self._origin_s + frame / self._rate_hz + self._level_s() + self._line_slope * (near_s - self._origin_s)

    @property
    def _line_slope(self) -> float:
        return self._prior if self._slope is None else self._slope

    def _point(self, n_frames: int, at_s: float) -> tuple[float, float]:
        time_s = at_s - (at_s if self._origin_s is None else self._origin_s)
        return time_s, time_s - n_frames / self._rate_hz

    def _level_s(self) -> float:
        recent = list(self._buckets)[-_LEVEL_BUCKETS:]
        return min(delay_s - self._line_slope * time_s for time_s, delay_s in recent)

    def _fit(self) -> None:
        """Fit the line anew: the median slope over all pairs (Theil, Sen), which a second without a good reading leaves
        where it was.
        """
        if len(self._buckets) < 2 or self._buckets[-1][0] - self._buckets[0][0] < _DRIFT_AFTER_S:
            return
        times, delays = np.array(self._buckets).T
        first, second = np.triu_indices(len(times), 1)
        self._slope = float(np.median((delays[second] - delays[first]) / (times[second] - times[first])))
        heights = delays - self._slope * times
        self._spread_s = float(np.median(np.abs(heights - np.median(heights)))) * 1.5

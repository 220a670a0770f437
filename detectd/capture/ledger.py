"""Which samples of a device are where: readings get their index, and losses become gaps. Pure.

A reading that comes late is held back until one comes in time, which shows that nothing was lost, or until the
lateness has lasted, which shows that its duration is missing: the gap then lies in front of the first one held.
"""

from dataclasses import dataclass
from typing import NamedTuple

from detectd.capture.clock import CaptureClock

LATE_S = 0.02
_LASTING_S = 0.8
_STEADY_S = 0.5
_STILL_FALLING_S = 0.003
_SETTLED_S = 0.5
_HELD_AT_MOST_S = 4.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What one read of a device gave.

    Attributes
    ----------
    payload : bytes
        Interleaved, in the wire's format.
    waiting_frames : int
        Frames that the device's buffer held still.
    at_s : float
        Monotonic time after the read.
    utc_offset_ns : int
        Wall clock less monotonic clock, at that time.
    broken : bool
        The device's buffer was emptied before: an unknown number of frames is missing in front.
    """

    payload: bytes
    n_frames: int
    waiting_frames: int
    at_s: float
    utc_offset_ns: int
    broken: bool = False


class Placed(NamedTuple):
    """A reading with its index; `discontinuity` where it does not follow on the one before."""

    reading: Reading
    first_sample: int
    discontinuity: bool


class Ledger:
    """The books of one epoch of one device.

    Attributes
    ----------
    lost_samples : int
        Put as gaps so far.
    """

    def __init__(self, rate_hz: int, drift_ppm: float | None = None) -> None:
        self.clock = CaptureClock(rate_hz, drift_ppm)
        self.lost_samples = 0
        self._rate_hz = rate_hz
        self._n_frames = 0
        self._held: list[Reading] = []
        self._n_held = 0
        self._least_late_s = self._least_at_s = 0.0
        self._discontinuity = False

    def take(self, reading: Reading) -> list[Placed]:
        """Enter a reading; returns all that are settled now, in order."""
        end = self._n_frames + self._n_held + reading.n_frames + reading.waiting_frames
        late_s = self.clock.lateness_s(end, reading.at_s)
        if not self._held and late_s < LATE_S and not reading.broken:
            self.clock.learn(end, reading.at_s)
            self._account_fall()
            return [self._place(reading)]
        self._hold(reading, late_s)
        if not self._held[0].broken and late_s < LATE_S:
            return self.flush()
        return self._settle() if self._is_settled(reading.at_s) else []

    def skip(self, reading: Reading) -> list[Placed]:
        """Leave a reading out: its samples count, and what follows does not follow on; returns what was held."""
        held = self.flush()
        self._n_frames += reading.n_frames
        self._discontinuity = True
        return held

    def captured_s(self, near_s: float) -> float:
        """When the first frame of the next reading was captured, by the count; `near_s` is close to it."""
        return self.clock.captured_s(self._n_frames + self._n_held, near_s)

    def flush(self) -> list[Placed]:
        """Give out what is held, as if nothing were missing."""
        held, self._held, self._n_held = self._held, [], 0
        return [self._place(reading) for reading in held]

    def _hold(self, reading: Reading, late_s: float) -> None:
        if not self._held or late_s < self._least_late_s - _STILL_FALLING_S:
            self._least_at_s = reading.at_s
        self._least_late_s = min(late_s, self._least_late_s) if self._held else late_s
        self._held.append(reading)
        self._n_held += reading.n_frames

    def _is_settled(self, at_s: float) -> bool:
        held_s = at_s - self._held[0].at_s
        if self._held[0].broken:
            return held_s >= _SETTLED_S
        return (held_s >= _LASTING_S and at_s - self._least_at_s >= _STEADY_S) or held_s >= _HELD_AT_MOST_S

    def _settle(self) -> list[Placed]:
        """Say that what makes the held ones late is missing in front of them."""
        self._lose(max(0, round(self._least_late_s * self._rate_hz)))
        self._discontinuity = True
        end = self._n_frames
        for reading in self._held:
            end += reading.n_frames
            if self.clock.lateness_s(end + reading.waiting_frames, reading.at_s) < LATE_S:
                self.clock.learn(end + reading.waiting_frames, reading.at_s)
        return self.flush()

    def _account_fall(self) -> None:
        n_lost = self.clock.fall_frames()
        if n_lost:
            self._lose(n_lost)
            self._discontinuity = True

    def _lose(self, n_frames: int) -> None:
        self._n_frames += n_frames
        self.lost_samples += n_frames

    def _place(self, reading: Reading) -> Placed:
        placed = Placed(reading, self._n_frames, self._discontinuity)
        self._discontinuity = False
        self._n_frames += reading.n_frames
        return placed

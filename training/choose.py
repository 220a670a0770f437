"""Choose window, band and rate from the data, where the user does not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectd.dsp.spec import FeatureSpec, min_rate_hz
from detectd.errors import DetectdError
from training.data import Clip, cut_windows

AUTO_WINDOWS_S = (2.0, 1.0, 0.5)
WINDOW_STEP_S = 0.125
MIN_WINDOW_S, MAX_WINDOW_S = 0.5, 10.0

SURVEY_TOP_HZ = 4000.0
LOWEST_HZ = 8.0
"""Two rows of a 4 Hz picture: below is the offset of the converter and its leakage."""
USUAL_TOP_HZ = 992.0
MARGIN_HZ = 64.0
SIGNIFICANT = 5.0
"""Standard errors. Of 750 bins without any difference about one survey in 1000 has a bin that reaches it."""
COLOURED_DB = 12.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    """A value and the line that explains it."""

    value: tuple[float, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Survey:
    """A first look at all clips over a wide band.

    Attributes
    ----------
    frequencies_hz, difference : ndarray, shape (n_bins,)
        Welch's t between the classes' mean log spectra, level taken out.
    spread_db : float
        How far the mean spectrum of a clip reaches from its quiet bins to its loud ones (5 % to 95 %), in the median
        clip: 6 dB for white noise, also with tones; 20 dB and more for most recordings.
    """

    frequencies_hz: Floats
    difference: Floats
    spread_db: float

    @property
    def coloured(self) -> bool:
        """Whether the background is far from even along the band."""
        return self.spread_db > COLOURED_DB


def choose_window(clips: Sequence[Clip]) -> Choice:
    """Take the longest of 2, 1 and 0.5 s that nine of ten clips of either class fill."""
    for window_s in AUTO_WINDOWS_S:
        if all(_share(clips, positive, window_s) >= 0.9 for positive in (True, False)):
            break
    return Choice((window_s,), f"window {window_s:g} s: the longest of 2, 1 and 0.5 s that 9 of 10 clips fill")


def _share(clips: Sequence[Clip], positive: bool, window_s: float) -> float:
    return float(np.mean([round(c.duration_s - window_s, 6) >= 0 for c in clips if c.positive is positive]))


def check_window(window_s: float) -> None:
    """Refuse a window off the grid of frames.

    Raises
    ------
    DetectdError
    """
    steps = window_s / WINDOW_STEP_S
    if not MIN_WINDOW_S <= window_s <= MAX_WINDOW_S or abs(steps - round(steps)) > 1e-9:
        raise DetectdError(
            f"--window {window_s:g}: expected {MIN_WINDOW_S:g} to {MAX_WINDOW_S:g} s in steps of {WINDOW_STEP_S:g} s"
        )


def check_band(clips: Sequence[Clip], low_hz: float, high_hz: float) -> None:
    """Refuse a band that is none, or that the slowest recording does not hold.

    Raises
    ------
    DetectdError
    """
    if not 0 <= low_hz < high_hz:
        raise DetectdError(f"--band {low_hz:g}:{high_hz:g}: expected LO:HI in Hz with 0 <= LO < HI")
    slowest = min(clips, key=lambda clip: clip.rate_hz)
    if slowest.rate_hz < min_rate_hz(high_hz):
        raise DetectdError(
            f"--band {low_hz:g}:{high_hz:g}: {slowest.segment} has {slowest.rate_hz} samples/s, "
            f"this band needs at least {min_rate_hz(high_hz)}"
        )


def survey(clips: Sequence[Clip], window_s: float) -> Survey:
    """Look at every clip from `LOWEST_HZ` to `SURVEY_TOP_HZ`, or as far as the slowest recording goes."""
    top_hz = min(SURVEY_TOP_HZ, 0.45 * min(clip.rate_hz for clip in clips))
    spec = picture_spec((LOWEST_HZ, top_hz), window_s)
    windows = cut_windows(clips, spec, hop_s=window_s)
    spectra = windows.pictures.mean(axis=1, dtype=np.float64)
    per_clip = np.stack([spectra[windows.clip == number].mean(axis=0) for number in range(len(clips))])
    logs = np.log(per_clip + 1e-12)
    quiet, loud = np.quantile(logs, [0.05, 0.95], axis=1)
    logs -= np.median(logs, axis=1, keepdims=True)
    positive = np.array([clip.positive for clip in clips])
    ours, theirs = logs[positive], logs[~positive]
    error = np.sqrt(ours.var(axis=0) / len(ours) + theirs.var(axis=0) / len(theirs))
    difference = (ours.mean(axis=0) - theirs.mean(axis=0)) / (error + 1e-9)
    return Survey(spec.frequencies_hz, difference, float(np.median(loud - quiet) * 20 / np.log(10)))


def choose_band(seen: Survey) -> Choice:
    """Take the usual band, and more where more tells the classes apart.

    With an even background (tones in noise) that is up to the highest bin where the classes' mean spectra differ by
    more than `SIGNIFICANT`. With a coloured one it is everything: what tells such sounds apart lies in many bins, none
    of which need stand out.
    """
    top_hz = float(seen.frequencies_hz[-1])
    looked = f"(looked at {LOWEST_HZ:g}-{top_hz:g} Hz)"
    if seen.coloured:
        reason = f"all that was looked at, for the background is coloured ({seen.spread_db:.0f} dB)"
        return Choice((LOWEST_HZ, top_hz), f"band {LOWEST_HZ:g}-{top_hz:g} Hz: {reason}")
    high_hz = min(USUAL_TOP_HZ, top_hz)
    beyond = seen.frequencies_hz[(np.abs(seen.difference) > SIGNIFICANT) & (seen.frequencies_hz > high_hz)]
    if not len(beyond):
        return Choice(
            (LOWEST_HZ, high_hz), f"band {LOWEST_HZ:g}-{high_hz:g} Hz: nothing beyond tells the classes apart {looked}"
        )
    high_hz = min(top_hz, float(np.ceil((beyond[-1] + MARGIN_HZ) / 4) * 4))
    return Choice(
        (LOWEST_HZ, high_hz), f"band {LOWEST_HZ:g}-{high_hz:g} Hz: up to what tells the classes apart {looked}"
    )


def picture_spec(band_hz: tuple[float, float], window_s: float) -> FeatureSpec:
    """Make the picture of a band: 4 Hz rows (8 Hz in windows below 1 s), half-overlapping frames.

    The analysis rate is three times the band's upper end or somewhat more: nearer to twice, the anti-alias filter grows
    long, further away the transform does. It is a multiple of 1200 Hz, of which all usual rates are short ratios.
    """
    frame_s = 0.25 if window_s >= 1 else 0.125
    rate_hz = 1200 * math.ceil(3 * band_hz[1] / 1200)
    return FeatureSpec("stft", *band_hz, rate_hz, window_s, frame_s, frame_s / 2)

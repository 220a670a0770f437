"""Choose window, band and rate from the data, where the user does not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectd.errors import DetectdError
from detectd.spec import FeatureSpec, min_rate_hz
from training.data import Clip, cut_windows

AUTO_WINDOWS_S = (2.0, 1.0, 0.5)
WINDOW_STEP_S = 0.125
MIN_WINDOW_S, MAX_WINDOW_S = 0.5, 10.0

SURVEY_TOP_HZ = 4000.0
LOWEST_HZ = 8.0
"""Two rows of a 4 Hz picture: below is the offset of the converter and its leakage."""
FALLBACK_TOP_HZ = 992.0
MARGIN_HZ = 64.0
MIN_WIDTH_HZ = 400.0
SIGNIFICANT = 4.0
"""Standard errors. Of 1000 bins without any difference about one in 16 surveys has a bin that reaches it."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    """A value and the line that explains it."""

    value: tuple[float, ...]
    reason: str


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


def choose_band(clips: Sequence[Clip], window_s: float) -> Choice:
    """Take the band in which the mean spectra of the two classes differ by more than chance.

    For each clip the logarithm of its mean amplitude spectrum, less its median (level is no cue); for each bin the
    difference of the class means in standard errors (Welch's t). Bins beyond `SIGNIFICANT` count with their square;
    the band holds all but the outermost 1 % of the sum on either side, and a margin.
    """
    top_hz = min(SURVEY_TOP_HZ, 0.45 * min(clip.rate_hz for clip in clips))
    spec = picture_spec((LOWEST_HZ, top_hz), window_s)
    weight = np.square(_difference(clips, spec))
    weight[weight < SIGNIFICANT**2] = 0
    looked = f"(looked at {LOWEST_HZ:g}-{top_hz:g} Hz)"
    if not weight.any():
        band = (LOWEST_HZ, min(FALLBACK_TOP_HZ, top_hz))
        return Choice(
            band, f"band {band[0]:g}-{band[1]:g} Hz: the usual one; no bin alone tells the classes apart {looked}"
        )
    share = np.cumsum(weight) / weight.sum()
    first, last = spec.frequencies_hz[[np.searchsorted(share, 0.01), np.searchsorted(share, 0.99)]]
    band = _widened(first, last, top_hz)
    return Choice(
        band, f"band {band[0]:g}-{band[1]:g} Hz: holds what tells the mean spectra of the classes apart {looked}"
    )


def _widened(first_hz: float, last_hz: float, top_hz: float) -> tuple[float, float]:
    margin = max(MARGIN_HZ, (MIN_WIDTH_HZ - (last_hz - first_hz)) / 2)
    low = max(LOWEST_HZ, math.floor((first_hz - margin) / 4) * 4)
    high = min(top_hz, max(math.ceil((last_hz + margin) / 4) * 4, low + MIN_WIDTH_HZ))
    return float(low), float(high)


def _difference(clips: Sequence[Clip], spec: FeatureSpec) -> Floats:
    """Welch's t of the clips' level-free log spectra, shape (n_bins,)."""
    windows = cut_windows(clips, spec, hop_s=spec.window_s)
    spectra = windows.pictures.mean(axis=1, dtype=np.float64)
    owners = np.unique(windows.clip)
    per_clip = np.stack([spectra[windows.clip == owner].mean(axis=0) for owner in owners])
    logs = np.log(per_clip + 1e-12)
    logs -= np.median(logs, axis=1, keepdims=True)
    positive = np.array([clips[owner].positive for owner in owners])
    ours, theirs = logs[positive], logs[~positive]
    error = np.sqrt(ours.var(axis=0) / len(ours) + theirs.var(axis=0) / len(theirs))
    difference: Floats = (ours.mean(axis=0) - theirs.mean(axis=0)) / (error + 1e-9)
    return difference


def picture_spec(band_hz: tuple[float, float], window_s: float) -> FeatureSpec:
    """Make the picture of a band: 4 Hz rows (8 Hz in windows below 1 s), half-overlapping frames.

    The analysis rate is about 2.8 times the band's upper end: nearer to twice, the anti-alias filter grows long,
    further away the transform does. It is a multiple of 400 Hz, of which the usual rates are short ratios.
    """
    frame_s = 0.25 if window_s >= 1 else 0.125
    rate_hz = 400 * math.ceil(2.8 * band_hz[1] / 400)
    return FeatureSpec("stft", *band_hz, rate_hz, window_s, frame_s, frame_s / 2)

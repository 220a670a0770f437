"""The strongest tonal lines of a window: what an event's reader wants to know. Pure.

A line is a local maximum of the Hann-tapered, zero-padded periodogram that stands so far above the running-median
noise floor that white noise of any level shows one in fewer than one window of ten. The largest of N independent
exponential bins exceeds t with probability about N exp(-t), which sets the bar.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from detectd.dsp.features import hann, noise_floor

MAX_LINES = 10
_ZERO_PAD = 4
_FALSE_LINES = 0.02
"""Expected false lines a window; the median's own scatter takes part of the distance to the promised 0.1."""
_FLOOR_HZ = 150.0
_MIN_SEPARATION_BINS = 2.0
"""Half-width of the Hann main lobe, in bins of 1 / window length: nearer maxima belong to the same line."""


@dataclass(frozen=True, slots=True)
class Line:
    """A tonal line.

    Attributes
    ----------
    frequency_hz : float
        Interpolated between bins.
    snr_db : float
        Power of the line over the noise in one bin of the tapered window (1.5 / window length wide).
    bandwidth_hz : float
        Width at half power less that of a steady tone; 0 for one that stays within the resolution.
    """

    frequency_hz: float
    snr_db: float
    bandwidth_hz: float


def strongest_lines(
    samples: NDArray[np.float32], rate_hz: int, band_hz: tuple[float, float], mask_hz: tuple[float, ...] = ()
) -> list[Line]:
    """Find the lines of one window, strongest first, at most `MAX_LINES`.

    Parameters
    ----------
    samples : float32 array, shape (n,)
        At the analysis rate.
    band_hz : (float, float)
        Only lines between these are looked for.
    mask_hz : tuple of float
        Tones to leave out.
    """
    n_fft = fft.next_fast_len(_ZERO_PAD * len(samples), real=True)
    bin_hz = rate_hz / n_fft
    padding = n_fft / len(samples)
    first = max(1, int(np.ceil(band_hz[0] / bin_hz)))
    power = (
        np.abs(
            fft.rfft(samples * hann(len(samples)).astype(np.float32), n=n_fft)[first - 1 : int(band_hz[1] / bin_hz) + 2]
        )
        ** 2
    )
    if len(power) < 3 or not power.any():
        return []
    floor = noise_floor(power[None], first - 1, _ZERO_PAD, round(_FLOOR_HZ / bin_hz))[0]
    ratio = power / floor
    bar = np.log(len(power) / padding * 2.5 / _FALSE_LINES)
    peaks = _peaks(ratio, bar, padding)
    lines: list[Line] = []
    for peak in peaks:
        offset = _vertex(power, peak)
        frequency_hz = (first - 1 + peak + offset) * bin_hz
        if any(abs(frequency_hz - masked) <= _MIN_SEPARATION_BINS * padding * bin_hz for masked in mask_hz):
            continue
        width_hz = _half_power_width(power, peak) * bin_hz
        steady_hz = 1.44 * padding * bin_hz
        snr_db = 10 * np.log10(max(ratio[peak] - 1, 1e-9))
        lines.append(Line(float(frequency_hz), float(snr_db), float(np.sqrt(max(0.0, width_hz**2 - steady_hz**2)))))
        if len(lines) == MAX_LINES:
            break
    return lines


def _peaks(ratio: NDArray[np.float32], bar: float, padding: float) -> list[int]:
    """Local maxima above the bar, strongest first, none within the main or a side lobe of a stronger one."""
    inner = ratio[1:-1]
    candidates = 1 + np.flatnonzero((inner > bar) & (inner >= ratio[:-2]) & (inner > ratio[2:]))
    taken: list[int] = []
    for candidate in candidates[np.argsort(-ratio[candidates], kind="stable")].tolist():
        others = np.array(taken, np.intp)
        distance = np.maximum(np.abs(candidate - others) / padding, _MIN_SEPARATION_BINS)
        beyond = np.sqrt(ratio[candidate]) - np.sqrt(ratio[others]) * _side_lobe(distance)
        if np.all((distance > _MIN_SEPARATION_BINS) & (beyond > np.sqrt(bar))):
            taken.append(candidate)
    return taken


def _side_lobe(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Most amplitude that a tone shows so many bins of 1 / window length away, over its own: Hann's side lobes."""
    lobe: NDArray[np.float64] = 1 / (np.pi * distance * (distance**2 - 1))
    return lobe


def _vertex(power: NDArray[np.float32], peak: int) -> float:
    """Offset in bins of the parabola through the log power of a maximum and its neighbours, in -0.5..0.5."""
    left, top, right = np.log(np.maximum(power[peak - 1 : peak + 2].astype(float), 1e-300))
    curvature = left - 2 * top + right
    return float(0.5 * (left - right) / curvature) if curvature < 0 else 0.0


def _half_power_width(power: NDArray[np.float32], peak: int) -> float:
    """Distance in bins between the points left and right of a maximum where half its power is left."""
    half = power[peak] / 2
    width = 0.0
    for step in (-1, 1):
        position = peak
        while 0 <= position + step < len(power) and power[position + step] > half:
            position += step
        if 0 <= position + step < len(power):
            inside, outside = power[position], power[position + step]
            width += abs(position - peak) + float((inside - half) / (inside - outside))
        else:
            width += abs(position - peak)
    return width

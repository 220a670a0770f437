"""From samples to windows: the one feature definition, used by training and serving alike. No I/O, no clock.

`AnalysisAudio` brings streams to the analysis rate and remembers the last seconds of each. `Features` makes frames of
them, each once although several windows share it, and hands out windows. `windows_of` runs a clip through both.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from detectd.dsp.history import History
from detectd.dsp.resample import Resampler
from detectd.dsp.spec import FeatureSpec

Pieces = Sequence[NDArray[np.generic]]

_SMALLEST_FLOOR = np.float32(1e-30)
"""Keeps digital silence finite; far below the noise of any converter."""

_NARROWEST_MEDIAN = 14
"""Bins; fewer, and the median scatters so much that noise shows lines."""

MAX_PUSH_S = 0.5
"""At most so much of one stream goes in at a time, so that the histories stay small."""


class AnalysisAudio:
    """Many streams at one analysis rate.

    Parameters
    ----------
    analysis_rate_hz : int
    band_high_hz : float
        The resampling filters keep everything up to here.
    keep_s : float
        Seconds of every stream that stay readable.
    """

    def __init__(self, analysis_rate_hz: int, band_high_hz: float, keep_s: float) -> None:
        self.rate_hz = analysis_rate_hz
        self._band_high_hz = band_high_hz
        self._resamplers: dict[int, Resampler] = {}
        self._rates: dict[int, int] = {}
        self._free: list[int] = []
        self._push_samples = int(MAX_PUSH_S * analysis_rate_hz) + 1
        self.history = History(self._kept(keep_s), self._push_samples)

    def extend(self, keep_s: float) -> None:
        """Keep at least so many seconds readable from now on."""
        self.history.extend(self._kept(keep_s))

    def add(self, rate_hz: int) -> int:
        """Begin a stream of `rate_hz`; returns its slot."""
        slot = self._free.pop() if self._free else len(self._rates)
        self._rates[slot] = rate_hz
        if rate_hz not in self._resamplers:
            self._resamplers[rate_hz] = Resampler(rate_hz, self.rate_hz, self._band_high_hz)
        self._resamplers[rate_hz].add(slot)
        self.history.ensure(slot)
        self.history.reset(slot)
        return slot

    def remove(self, slot: int) -> None:
        """Forget a stream; its slot is used again."""
        rate_hz = self._rates.pop(slot)
        self._resamplers[rate_hz].remove(slot)
        # A sender chooses its rate anew with every epoch: filters that nobody needs must not pile up.
        if rate_hz not in self._rates.values():
            del self._resamplers[rate_hz]
        self._free.append(slot)

    def reset(self, slot: int) -> None:
        """Begin a new segment: nothing before it counts."""
        self._resamplers[self._rates[slot]].reset(slot)
        self.history.reset(slot)

    def push(self, batch: Sequence[tuple[int, Pieces, float]]) -> None:
        """Take in what is new, at most `MAX_PUSH_S` a stream: ``(slot, pieces, scale)``, each slot at most once."""
        by_rate: dict[int, list[tuple[int, Pieces, float]]] = {}
        for entry in batch:
            by_rate.setdefault(self._rates[entry[0]], []).append(entry)
        for rate_hz, entries in by_rate.items():
            converted = self._resamplers[rate_hz].push([(slot, pieces) for slot, pieces, _ in entries])
            for (slot, _, scale), samples in zip(entries, converted, strict=True):
                self.history.append(slot, samples if scale == 1 else samples * np.float32(scale))

    def flush(self, slot: int, scale: float = 1.0) -> None:
        """Bring out what the filter still holds of a segment that is over."""
        rest = self._resamplers[self._rates[slot]].flush(slot)
        self.history.append(slot, rest * np.float32(scale))

    def _kept(self, keep_s: float) -> int:
        return int(keep_s * self.rate_hz) + 2 * self._push_samples


class Features:
    """Windows of every stream of an `AnalysisAudio`, after one FeatureSpec.

    Positions are counted in steps of ``spec.frame_hop_samples`` since the segment's start; a window may begin at any.

    Attributes
    ----------
    source : AnalysisAudio
        What they are made of.
    """

    def __init__(self, spec: FeatureSpec, audio: AnalysisAudio) -> None:
        self.spec = spec
        self.source = audio
        self._taper = taper_of(spec)
        self._step = spec.frame_hop_samples
        self._band = slice(spec.first_bin, spec.first_bin + spec.n_bins)
        self._masks: dict[int, NDArray[np.bool_]] = {}
        self._frames: History | None = None
        if spec.kind == "stft":
            new = int(2 * MAX_PUSH_S / spec.frame_hop_s) + 2
            self._frames = History(spec.n_frames + new, new, (spec.n_bins,))

    def begin(self, slot: int, mask_hz: Sequence[float] = ()) -> None:
        """Start or restart a stream's segment, or join it, ignoring the tones in `mask_hz`.

        Who joins a segment that goes on hears all of it that the audio still remembers.
        """
        if self._frames:
            self._frames.ensure(slot)
            self._frames.reset(slot, -(-self.source.history.first(slot) // self._step))
        self._masks.pop(slot, None)
        if mask_hz:
            self._masks[slot] = mask_of(self.spec, mask_hz)

    def update(self, slots: Sequence[int]) -> None:
        """Make the frames that the audio pushed since the last update allows."""
        if not self._frames:
            return
        length = self.spec.tapered_samples
        owners: list[int] = []
        starts: list[int] = []
        counts: list[int] = []
        for slot in slots:
            done = self._frames.end(slot)
            count = max(0, (self.source.history.end(slot) - length) // self._step + 1 - done)
            counts.append(count)
            owners += [slot] * count
            starts += range(done * self._step, (done + count) * self._step, self._step)
        if not owners:
            return
        frames = self._spectra(self.source.history.take(np.array(owners), np.array(starts), length))
        row = 0
        for slot, count in zip(slots, counts, strict=True):
            if count:
                self._frames.append(slot, self._unmasked(slot, frames[row : row + count]))
                row += count

    def oldest(self, slot: int) -> int:
        """The first position that a window can still be made of."""
        if self._frames:
            return self._frames.first(slot)
        return -(-self.source.history.first(slot) // self._step)

    def positions(self, slot: int) -> int:
        """How many positions have their whole window by now."""
        behind = self.source.history.end(slot) - (self.spec.window_samples - self.spec.guard_samples)
        return max(0, behind // self._step + 1)

    def windows(self, slots: NDArray[np.intp], positions: NDArray[np.intp]) -> NDArray[np.float32]:
        """Windows at given positions of given streams, shape ``(n, *spec.shape)``."""
        if self._frames:
            return self._frames.take(slots, positions, self.spec.n_frames)
        spectra = self._spectra(self.audio(slots, positions))
        lines = noise_normalised(spectra, self.spec)
        for row, slot in enumerate(slots.tolist()):
            self._unmasked(slot, lines[row : row + 1])
        return lines

    def audio(self, slots: NDArray[np.intp], positions: NDArray[np.intp]) -> NDArray[np.float32]:
        """The samples behind windows at the analysis rate, but for the guard at their end, shape ``(n, n_samples)``."""
        return self.source.history.take(
            slots, positions * self._step, self.spec.window_samples - self.spec.guard_samples
        )

    def _spectra(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Amplitude spectra of equal stretches: square root of power, white noise of variance v having mean power v."""
        transform = fft.rfft(samples * self._taper, n=self.spec.n_fft, axis=1, workers=1)[:, self._band]
        return np.abs(transform)

    def _unmasked(self, slot: int, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Put the mean of the bins on either side in place of masked ones."""
        if slot in self._masks:
            mask = self._masks[slot]
            bins = np.arange(len(mask))
            kept = bins[~mask]
            for row in rows:
                row[mask] = np.interp(bins[mask], kept, row[kept])
        return rows


def taper_of(spec: FeatureSpec) -> NDArray[np.float32]:
    """Weights of a frame with unit energy, so that white noise of variance v has mean power v in each bin."""
    taper = hann(spec.tapered_samples) if spec.taper == "hann" else np.ones(spec.tapered_samples)
    weights: NDArray[np.float32] = (taper / np.sqrt(np.sum(taper**2))).astype(np.float32)
    return weights


def hann(length: int) -> NDArray[np.float64]:
    """Periodic Hann weights; scipy.signal has them too, and takes longer to import than all else of the daemon."""
    weights: NDArray[np.float64] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    return weights


def mask_of(spec: FeatureSpec, mask_hz: Sequence[float]) -> NDArray[np.bool_]:
    """Bins that a tone at one of `mask_hz` reaches (the taper's main lobe), never all of them; shape ``(n_bins,)``."""
    lobe_hz = 2.0 * spec.analysis_rate_hz / spec.frame_samples
    distance = np.abs(spec.frequencies_hz[:, None] - np.asarray(mask_hz, float))
    mask: NDArray[np.bool_] = np.any(distance <= lobe_hz, axis=1)
    mask[0] &= not mask.all()
    return mask


def noise_normalised(amplitude: NDArray[np.float32], spec: FeatureSpec) -> NDArray[np.float32]:
    """Power over its running median along frequency: 1 on average in noise of any colour, shape unchanged."""
    power = amplitude**2
    width = round(spec.floor_hz * spec.n_fft / spec.analysis_rate_hz)
    normalised: NDArray[np.float32] = power / noise_floor(power, spec.first_bin, spec.zero_pad, width)
    return normalised


def noise_floor(power: NDArray[np.float32], first_bin: int, stride: int, width: int) -> NDArray[np.float32]:
    """Mean noise power in each bin from a running median, shape of `power`, ``(n, n_bins)``; never 0.

    The medians stand on a coarse grid and are interpolated in the logarithm. At low frequencies they are narrower, so
    that noise of a steep spectrum has no false lines at the band's low end.

    Parameters
    ----------
    first_bin : int
        Number of the first bin, counted from 0 Hz.
    stride : int
        Bins per independent bin; only every `stride`-th is looked at.
    width : int
        Width of the median in bins, where frequency allows.
    """
    sparse = power[:, ::stride]
    stretches = _median_stretches(first_bin // stride, sparse.shape[1], width // stride)
    centres = [(first + after - 1) / 2 * stride for first, after in stretches]
    medians = _medians(sparse, stretches)
    # The median of exponential noise is ln 2 of its mean.
    levels = np.log(np.maximum(medians / np.log(2), _SMALLEST_FLOOR))
    bins = np.arange(power.shape[1])
    floor: NDArray[np.float32] = np.exp(np.stack([np.interp(bins, centres, row) for row in levels])).astype(np.float32)
    return floor


@lru_cache(maxsize=64)
def _median_stretches(first_bin: int, n_bins: int, width: int) -> tuple[tuple[int, int], ...]:
    """Overlapping stretches ``(first, after)`` of bins to take medians over, counted from the band's first bin."""
    stretches: list[tuple[int, int]] = []
    first = 0
    while True:
        length = min(max(_NARROWEST_MEDIAN, min(width, (first_bin + first) * 2 // 3)), n_bins)
        if first + length >= n_bins:
            return (*stretches, (n_bins - length, n_bins))
        stretches.append((first, first + length))
        first += max(1, length // 5)


def _medians(rows: NDArray[np.float32], stretches: tuple[tuple[int, int], ...]) -> NDArray[np.float32]:
    """Median of each stretch of each row, shape ``(n_rows, n_stretches)``."""
    places, lower, upper = _median_places(stretches, rows.shape[1])
    each = np.arange(len(stretches))
    medians = np.empty((len(rows), len(stretches)), np.float32)
    for row, out in zip(np.pad(rows, ((0, 0), (0, 1)), constant_values=np.inf), medians, strict=True):
        ordered = np.sort(row[places], axis=1)
        np.divide(ordered[each, lower] + ordered[each, upper], 2, out=out)
    return medians


@lru_cache(maxsize=64)
def _median_places(
    stretches: tuple[tuple[int, int], ...], n_bins: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Bins of each stretch, filled up with bin `n_bins` to one length, and the two ranks its median lies between."""
    lengths = np.array([after - first for first, after in stretches])
    offsets = np.arange(lengths.max())
    places = np.array([first for first, _ in stretches])[:, None] + offsets
    return np.where(offsets < lengths[:, None], places, n_bins), (lengths - 1) // 2, lengths // 2


def hop_positions(spec: FeatureSpec, hop_s: float) -> int:
    """A hop in positions: `hop_s` rounded to the feature grid, at least 1."""
    return common_hops([spec], hop_s)[0]


def common_hops(specs: Sequence[FeatureSpec], hop_s: float) -> list[int]:
    """A hop in positions of each spec, the same time for all: `hop_s` rounded to the grid they share, at least 1."""
    grids_s = [Fraction(spec.frame_hop_samples, spec.analysis_rate_hz) for spec in specs]
    shared_s = Fraction(math.lcm(*(g.numerator for g in grids_s)), math.gcd(*(g.denominator for g in grids_s)))
    steps = max(1, round(hop_s * shared_s.denominator / shared_s.numerator))
    return [int(steps * shared_s / grid_s) for grid_s in grids_s]


def start_sample(spec: FeatureSpec, position: int, rate_hz: int) -> int:
    """Sample of a stream, counted from its segment's first, at which the window at a position begins:
    the nearest one, the even one of two.
    """
    whole, rest = divmod(position * spec.frame_hop_samples * rate_hz, spec.analysis_rate_hz)
    half = spec.analysis_rate_hz / 2
    return whole + (rest > half or (rest == half and whole % 2 == 1))


def windows_of(
    samples: NDArray[np.float32], rate_hz: int, spec: FeatureSpec, hop_s: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All windows of one clip, by the streaming path.

    Parameters
    ----------
    samples : float32 array, shape (n,)
    rate_hz : int
    hop_s : float
        Time between windows; rounded to the feature grid.

    Returns
    -------
    windows : float32 array, shape (n_windows, *spec.shape)
        No window for a clip shorter than one.
    starts : int64 array, shape (n_windows,)
        First sample of each window, at `rate_hz`.
    """
    audio = AnalysisAudio(spec.analysis_rate_hz, spec.band_high_hz, spec.window_s)
    features = Features(spec, audio)
    slot = audio.add(rate_hz)
    features.begin(slot)
    hop = hop_positions(spec, hop_s)
    taken: list[NDArray[np.float32]] = []
    done = 0

    def collect() -> int:
        features.update([slot])
        due = np.arange(done, features.positions(slot), hop)
        if len(due):
            taken.append(features.windows(np.full(len(due), slot), due))
        return done + len(due) * hop

    length = max(1, int(MAX_PUSH_S * rate_hz))
    for first in range(0, len(samples), length):
        audio.push([(slot, [samples[first : first + length]], 1.0)])
        done = collect()
    audio.flush(slot)
    done = collect()
    windows = np.concatenate(taken) if taken else np.empty((0, *spec.shape), np.float32)
    starts = [start_sample(spec, position, rate_hz) for position in range(0, done, hop)]
    return windows, np.array(starts, np.int64)

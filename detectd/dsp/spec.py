"""FeatureSpec: what a model sees, in physical units. It travels in the bundle and cannot be written in a config."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from detectd.errors import BundleError

Kind = Literal["stft", "line"]
Taper = Literal["hann", "boxcar"]

SPEC_VERSION = 1
"""Raised with any change of arithmetic in `detectd.dsp.features`; bundles of another version are refused."""

MAX_ANALYSIS_RATE_HZ = 192_000
MAX_WINDOW_S = 60.0
MAX_CELLS = 4_000_000

MAX_GUARD_SAMPLES = 32
"""What `detectd.dsp.resample` holds back at most for the usual rates, at the analysis rate."""

_MARGIN = 0.05
"""A rate holds a band when the band ends at least this share of the rate below its Nyquist frequency: the
anti-alias filter needs room to fall (`detectd.dsp.resample`)."""


@dataclass(frozen=True)
class FeatureSpec:
    """The picture (``stft``) or line spectrum (``line``) of one window.

    Attributes
    ----------
    kind : {'stft', 'line'}
        ``stft``: `n_frames` left-aligned frames, each the amplitude spectrum of a tapered `frame_s`.
        ``line``: one zero-padded periodogram of the whole window over a running-median noise floor.
    band_low_hz, band_high_hz : float
        Bins from the first at or above low to the last at or below high.
    analysis_rate_hz : int
        Every stream is brought to this rate before anything else.
    window_s : float
        Length of one model input in seconds.
    frame_s, frame_hop_s : float
        Length of a frame and time between frames in seconds; ``stft`` only.
    taper : {'hann', 'boxcar'}
        Weights of a frame (``stft``) or of the window (``line``); Hann is periodic.
    zero_pad : int
        Transform length over tapered length.
    floor_hz : float
        Width of the running median that makes the noise floor; ``line`` only.
    version : int
        `SPEC_VERSION` of the arithmetic it was made with.

    Raises
    ------
    BundleError
        If the values contradict each other or leave nothing to see.
    """

    kind: Kind
    band_low_hz: float
    band_high_hz: float
    analysis_rate_hz: int
    window_s: float
    frame_s: float = 0.0
    frame_hop_s: float = 0.0
    taper: Taper = "hann"
    zero_pad: int = 1
    floor_hz: float = 0.0
    version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise BundleError(f"feature spec: {problem}")

    def _problems(self) -> list[str]:
        checks = [
            (self.kind in get_args(Kind), f"kind {self.kind!r} is not one of {', '.join(get_args(Kind))}"),
            (self.taper in get_args(Taper), f"taper {self.taper!r} is not one of {', '.join(get_args(Taper))}"),
            (self.version == SPEC_VERSION, f"version {self.version}, this detectd computes version {SPEC_VERSION}"),
            (
                0 < self.analysis_rate_hz <= MAX_ANALYSIS_RATE_HZ,
                f"analysis_rate_hz {self.analysis_rate_hz} is not in 1..{MAX_ANALYSIS_RATE_HZ}",
            ),
            (0 < self.window_s <= MAX_WINDOW_S, f"window_s {self.window_s:g} is not in (0, {MAX_WINDOW_S:g}]"),
            (1 <= self.zero_pad <= 16, f"zero_pad {self.zero_pad} is not in 1..16"),
            (
                0 <= self.band_low_hz < self.band_high_hz,
                f"band {self.band_low_hz:g}..{self.band_high_hz:g} Hz is empty",
            ),
        ]
        found = [problem for good, problem in checks if not good]
        return found or self._grid_problems()

    def _grid_problems(self) -> list[str]:
        checks = [
            (
                self.min_rate_hz <= self.analysis_rate_hz,
                f"band_high_hz {self.band_high_hz:g} is above 0.45 of analysis_rate_hz {self.analysis_rate_hz}",
            ),
            (
                self._whole(self.window_s),
                f"window_s {self.window_s:g} is no whole number of samples at {self.analysis_rate_hz} Hz",
            ),
        ]
        if self.kind == "stft":
            checks += [
                (
                    0 < self.frame_s <= self.window_s and self._whole(self.frame_s),
                    f"frame_s {self.frame_s:g} does not fit the window or the rate",
                ),
                (
                    0 < self.frame_hop_s <= self.window_s and self._whole(self.frame_hop_s),
                    f"frame_hop_s {self.frame_hop_s:g} does not fit the window or the rate",
                ),
            ]
        else:
            checks += [(self.floor_hz > 0, f"floor_hz {self.floor_hz:g} is not above 0")]
        found = [problem for good, problem in checks if not good]
        if not found and self.n_bins < 1:
            found = [f"no bin lies in {self.band_low_hz:g}..{self.band_high_hz:g} Hz"]
        if not found and math.prod(self.shape) > MAX_CELLS:
            found = [f"a window of {math.prod(self.shape)} values, at most {MAX_CELLS} are accepted"]
        return found

    def _whole(self, seconds: float) -> bool:
        samples = seconds * self.analysis_rate_hz
        return round(samples) >= 1 and abs(samples - round(samples)) < 1e-6

    @property
    def window_samples(self) -> int:
        """Samples of a window at the analysis rate."""
        return round(self.window_s * self.analysis_rate_hz)

    @property
    def frame_samples(self) -> int:
        """Samples of a frame at the analysis rate; a line spectrum is one frame of the whole window."""
        return round(self.frame_s * self.analysis_rate_hz) if self.kind == "stft" else self.window_samples

    @property
    def frame_hop_samples(self) -> int:
        """Samples between frames at the analysis rate; windows of a line spectrum may start at any sample."""
        return round(self.frame_hop_s * self.analysis_rate_hz) if self.kind == "stft" else 1

    @property
    def guard_samples(self) -> int:
        """Samples at a frame's end that carry no weight.

        The resampling filter needs a little audio behind what it gives out. Without this guard a window would have to
        wait for the block after the one that completes it.
        """
        return min(self.frame_samples // 23, MAX_GUARD_SAMPLES)

    @property
    def tapered_samples(self) -> int:
        """Samples at a frame's beginning that its spectrum is made of."""
        return self.frame_samples - self.guard_samples

    @property
    def n_frames(self) -> int:
        """Frames in a window; the last one ends at or before the window's end."""
        return 1 + (self.window_samples - self.frame_samples) // self.frame_hop_samples

    @property
    def n_fft(self) -> int:
        """Transform length in samples."""
        return self.frame_samples * self.zero_pad

    @property
    def first_bin(self) -> int:
        """Index of the first bin in the band."""
        return math.ceil(self.band_low_hz * self.n_fft / self.analysis_rate_hz - 1e-9)

    @property
    def n_bins(self) -> int:
        """Bins in the band."""
        return math.floor(self.band_high_hz * self.n_fft / self.analysis_rate_hz + 1e-9) - self.first_bin + 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one window: ``(n_frames, n_bins)`` or ``(n_bins,)``."""
        return (self.n_frames, self.n_bins) if self.kind == "stft" else (self.n_bins,)

    @cached_property
    def frequencies_hz(self) -> NDArray[np.float64]:
        """Centre frequency of each bin in Hz, shape ``(n_bins,)``."""
        bins = np.arange(self.first_bin, self.first_bin + self.n_bins, dtype=np.float64)
        return bins * (self.analysis_rate_hz / self.n_fft)

    @property
    def min_rate_hz(self) -> int:
        """The lowest sample rate that holds the band."""
        return min_rate_hz(self.band_high_hz)

    def to_dict(self) -> dict[str, Any]:
        """Every field, as it stands in the manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> FeatureSpec:
        """Read what `to_dict` wrote.

        Raises
        ------
        BundleError
            If a key is missing, unknown or of the wrong type.
        """
        if not isinstance(values, dict):
            raise BundleError(f"feature spec: expected a table, got {type(values).__name__}")
        types = {"kind": str, "taper": str, "analysis_rate_hz": int, "zero_pad": int, "version": int}
        wanted = {field.name: types.get(field.name, float) for field in fields(cls)}
        if values.keys() != wanted.keys():
            odd = ", ".join(sorted(values.keys() ^ wanted.keys()))
            raise BundleError(f"feature spec: missing or unknown key: {odd}")
        return cls(**{name: _typed(name, values[name], wanted[name]) for name in wanted})


def min_rate_hz(band_high_hz: float) -> int:
    """Lowest sample rate, in Hz, that holds a band up to `band_high_hz`."""
    return math.ceil(band_high_hz / (0.5 - _MARGIN))


def _typed(name: str, value: Any, wanted: type[Any]) -> Any:
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not wanted or (isinstance(value, float) and not math.isfinite(value)):
        raise BundleError(f"feature spec: {name} is {value!r}, expected {wanted.__name__}")
    return value

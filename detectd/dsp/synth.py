"""Synthetic signatures in white noise, after the reference benchmark.

One generator for the daemon's synthetic source, for `detectd-train synth` and for the benchmarks. A signature is a few
still tones of equal amplitude; their phases are drawn anew for every clip. It knows nothing of features or models.

SNR means: total power of all tones / power of the noise within 0-1000 Hz, in dB. The noise is white up to half the
sample rate, so its variance is larger than the power that the SNR counts by rate / 2 / 1000 Hz.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectd.errors import DetectdError

LOWEST_TONE_HZ = 10.0
HIGHEST_TONE_HZ = 990.0
REFERENCE_BAND_HZ = 1000.0
# Two tones nearer than this would share a row of a 4 Hz picture under a Hann taper (main lobe 4 rows = 16 Hz).
MIN_SPACING_HZ = 20.0
MAX_TONES = 10
NOISE_ONLY_SHARE = 0.2
# -26 dBFS: a normal peak of 5.5 sigma stays 11 dB below full scale, and 16 bits still resolve it into 1600 steps.
DEFAULT_RMS = 0.05


@dataclass(frozen=True, slots=True)
class Signature:
    """A set of still tones, `tones_hz` in ascending order."""

    tones_hz: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.tones_hz or min(self.tones_hz) <= 0:
            raise DetectdError(f"a signature needs at least one tone above 0 Hz, got {list(self.tones_hz)}")
        object.__setattr__(self, "tones_hz", tuple(sorted(map(float, self.tones_hz))))


def random_signature(n_tones: int, rng: np.random.Generator) -> Signature:
    """Draw `n_tones` tones uniformly from 10-990 Hz, no two nearer than `MIN_SPACING_HZ`."""
    # Uniform points in a range shortened by the spacings, then spread apart: exact, and never needs a second try.
    slack_hz = HIGHEST_TONE_HZ - LOWEST_TONE_HZ - (n_tones - 1) * MIN_SPACING_HZ
    if n_tones < 1 or slack_hz < 0:
        raise DetectdError(f"cannot place {n_tones} tones {MIN_SPACING_HZ:g} Hz apart within 10-990 Hz")
    points = np.sort(rng.uniform(0.0, slack_hz, n_tones))
    return Signature(tuple((LOWEST_TONE_HZ + points + MIN_SPACING_HZ * np.arange(n_tones)).tolist()))


def random_phases(signature: Signature, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw one phase per tone, in radians."""
    return rng.uniform(0.0, 2 * np.pi, len(signature.tones_hz))


def tones_at(
    signature: Signature,
    phases: NDArray[np.float64],
    *,
    start_sample: int,
    n_samples: int,
    rate_hz: int,
    total_power: float,
) -> NDArray[np.float32]:
    """Samples `start_sample` .. `start_sample + n_samples` of the endless sum of tones.

    Phase follows the sample index, so blocks of any length join without a seam.

    Parameters
    ----------
    phases : ndarray, shape (n_tones,)
        In radians, at sample 0.
    total_power : float
        Of all tones together, in squared full scale; each tone has an equal share.

    Returns
    -------
    ndarray, shape (n_samples,), float32

    Raises
    ------
    DetectdError
        Where a tone does not fit below half of `rate_hz`.
    """
    if max(signature.tones_hz) >= rate_hz / 2:
        raise DetectdError(f"a tone of {max(signature.tones_hz):g} Hz does not fit a sample rate of {rate_hz} Hz")
    amplitude = np.sqrt(2 * total_power / len(signature.tones_hz))
    index = np.arange(start_sample, start_sample + n_samples, dtype=np.float64)
    total = np.zeros(n_samples)
    for tone_hz, phase in zip(signature.tones_hz, phases, strict=True):
        total += np.sin(2 * np.pi * np.remainder(tone_hz / rate_hz * index, 1.0) + phase)
    wave: NDArray[np.float32] = (amplitude * total).astype(np.float32)
    return wave


def tones(
    signature: Signature, n_samples: int, rate_hz: int, rng: np.random.Generator, total_power: float
) -> NDArray[np.float32]:
    """All tones of a signature, random phases, `total_power` in squared full scale; (n_samples,) float32."""
    phases = random_phases(signature, rng)
    return tones_at(signature, phases, start_sample=0, n_samples=n_samples, rate_hz=rate_hz, total_power=total_power)


def white_noise(n_samples: int, rate_hz: int, rng: np.random.Generator, reference_power: float) -> NDArray[np.float32]:
    """White noise, (n_samples,) float32, whose power within 0-1000 Hz is `reference_power` (squared full scale)."""
    rms = np.float32(np.sqrt(reference_power * (rate_hz / 2) / REFERENCE_BAND_HZ))
    noise: NDArray[np.float32] = rms * rng.standard_normal(n_samples, dtype=np.float32)
    return noise


def reference_power_for(snr_db: float, rate_hz: int, rms: float = DEFAULT_RMS) -> float:
    """Noise power within 0-1000 Hz at which noise and tones at `snr_db` together have the given `rms`.

    Keeps a corpus of any SNR clear of clipping and of the quantisation floor.
    """
    return float(rms**2 / ((rate_hz / 2) / REFERENCE_BAND_HZ + 10 ** (snr_db / 10)))


def clip(
    signature: Signature | None,
    snr_db: float,
    duration_s: float,
    rate_hz: int,
    rng: np.random.Generator,
    *,
    reference_power: float | None = None,
) -> NDArray[np.float32]:
    """One clip: white noise, with the tones of `signature` at `snr_db` unless it is None.

    Parameters
    ----------
    snr_db : float
        Total tone power over noise power within 0-1000 Hz, in dB.
    reference_power : float, optional
        Noise power within 0-1000 Hz in squared full scale; by default that of `reference_power_for`, the same with and
        without tones.

    Returns
    -------
    ndarray, shape (round(duration_s * rate_hz),), float32
    """
    power = reference_power_for(snr_db, rate_hz) if reference_power is None else reference_power
    n_samples = round(duration_s * rate_hz)
    noise = white_noise(n_samples, rate_hz, rng, power)
    if signature is None:
        return noise
    sound: NDArray[np.float32] = noise + tones(signature, n_samples, rate_hz, rng, power * 10 ** (snr_db / 10))
    return sound


def random_negative(rng: np.random.Generator) -> Signature | None:
    """What a negative clip holds: another signature of 1..10 tones, or in 20 % of cases nothing (None)."""
    if rng.random() < NOISE_ONLY_SHARE:
        return None
    return random_signature(int(rng.integers(1, MAX_TONES + 1)), rng)

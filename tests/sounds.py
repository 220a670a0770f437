"""Recordings of the signature that the shipped detector knows."""

import tomllib

import numpy as np
import soundfile
from daemon_process import SHIPPED_CONFIG

from detectd.dsp.synth import Signature, random_phases, reference_power_for, tones_at, white_noise

(DEMO,) = (stream for stream in tomllib.loads(SHIPPED_CONFIG.read_text())["stream"] if stream["id"] == "demo")
TONES_HZ = tuple(DEMO["tones_hz"])


def recording(noise_s, tones_s, after_s, rate_hz=8000, snr_db=0.0, seed=0):
    """Noise, the tones in it, noise: (n,) float32. SNR as everywhere here: within 0-1000 Hz."""
    rng = np.random.default_rng(seed)
    power = reference_power_for(snr_db, rate_hz)
    first, last, end = (round(second * rate_hz) for second in np.cumsum([noise_s, tones_s, after_s]))
    sound = white_noise(end, rate_hz, rng, power)
    signature = Signature(TONES_HZ)
    sound[first:last] += tones_at(
        signature,
        random_phases(signature, rng),
        start_sample=first,
        n_samples=last - first,
        rate_hz=rate_hz,
        total_power=power * 10 ** (snr_db / 10),
    )
    return sound


def write(path, samples, rate_hz=8000):
    soundfile.write(path, samples, rate_hz, subtype="PCM_16")
    return path

"""Sixteen streams of audio as packed wire messages, ready to be sent over and over under other names."""

from __future__ import annotations

import numpy as np

from detectd.dsp.synth import Signature, random_phases, reference_power_for, tones_at, white_noise

RATE_HZ = 44_100
BLOCK = 4410
BLOCK_S = BLOCK / RATE_HZ
STREAMS_A_MESSAGE = 16
TONE_STREAMS = 2
"""Of the sixteen, how many have tones that come and go; the others are noise."""

PERIOD_S, ON_S, PERIODS = 8, 3, 3
SNR_DB = -8.0

RECORD = np.dtype(
    [
        ("magic", "S4"),
        ("version", "u1"),
        ("flags", "u1"),
        ("format", "u1"),
        ("channels", "u1"),
        ("rate_hz", "<u4"),
        ("n_frames", "<u4"),
        ("stream_id", "S32"),
        ("epoch", "<u8"),
        ("seq", "<u8"),
        ("first_sample", "<u8"),
        ("t_first_utc_ns", "<i8"),
        ("t_err_ns", "<u4"),
        ("crc32", "<u4"),
        ("audio", "<i2", (BLOCK,)),
    ]
)
"""A block of the wire as docs/protocol.md has it, written down anew: the sender shares no code with the daemon."""


def make_tape(tones_hz: tuple[float, ...], seed: int = 0) -> np.ndarray:
    """Messages, shape ``(n_messages, STREAMS_A_MESSAGE)`` of `RECORD`, one after another in time."""
    rng = np.random.default_rng(seed)
    n_samples = PERIOD_S * PERIODS * RATE_HZ
    tape = np.zeros((n_samples // BLOCK, STREAMS_A_MESSAGE), RECORD)
    tape["magic"], tape["version"], tape["format"], tape["channels"] = b"DAU1", 1, 1, 1
    tape["rate_hz"], tape["n_frames"] = RATE_HZ, BLOCK
    signature = Signature(tones_hz)
    power = reference_power_for(SNR_DB, RATE_HZ)
    for stream in range(STREAMS_A_MESSAGE):
        audio = white_noise(n_samples, RATE_HZ, rng, power)
        if stream < TONE_STREAMS:
            tones = tones_at(
                signature,
                random_phases(signature, rng),
                start_sample=0,
                n_samples=n_samples,
                rate_hz=RATE_HZ,
                total_power=power * 10 ** (SNR_DB / 10),
            )
            # Each tone stream has its own time to be on, and in each period anew.
            phase_s = PERIOD_S * stream / TONE_STREAMS
            on = (np.arange(n_samples) / RATE_HZ + phase_s) % PERIOD_S < ON_S
            audio += tones * on
        tape["audio"][:, stream] = np.rint(audio * 32768).clip(-32768, 32767).reshape(-1, BLOCK)
    return tape

"""Sample formats: how audio lies in bytes, and how it becomes numbers. No I/O."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

MIN_RATE_HZ, MAX_RATE_HZ = 100, 192_000
MAX_CHANNELS = 64
MAX_BLOCK_S = 10


class SampleFormat(IntEnum):
    """Formats of the wire; the values are the wire's own."""

    S16 = 1
    S24 = 2
    S32 = 3
    F32 = 4

    @property
    def width(self) -> int:
        """Bytes of one sample."""
        return (0, 2, 3, 4, 4)[self]

    @property
    def scale(self) -> float:
        """What a decoded value is multiplied with to lie in [-1, 1)."""
        return (0.0, 2.0**-15, 2.0**-31, 2.0**-31, 1.0)[self]


_DTYPES: dict[int, str] = {SampleFormat.S16: "<i2", SampleFormat.S32: "<i4", SampleFormat.F32: "<f4"}


def decode(payload: memoryview, sample_format: int, channels: int) -> NDArray[np.generic]:
    """See a payload as numbers, without a copy where the format allows.

    Returns
    -------
    array, shape (n_frames, channels)
        int16, int32 or float32; times ``sample_format.scale`` in [-1, 1). 24-bit samples become int32, shifted up.
    """
    flat = _widened(payload) if sample_format == SampleFormat.S24 else np.frombuffer(payload, _DTYPES[sample_format])
    return flat.reshape(-1, channels)


def encode(samples: NDArray[np.floating], sample_format: SampleFormat) -> bytes:
    """Pack samples in [-1, 1) for the wire; what lies outside is clipped to the format's range.

    Parameters
    ----------
    samples : float array, shape (n_frames, channels)
    """
    if sample_format is SampleFormat.F32:
        return samples.astype("<f4").tobytes()
    bits = 8 * sample_format.width
    top = 2.0 ** (bits - 1)
    values = np.clip(np.rint(samples.astype(np.float64) * top), -top, top - 1)
    if sample_format is SampleFormat.S16:
        return values.astype("<i2").tobytes()
    packed = values.astype("<i4")
    if sample_format is SampleFormat.S32:
        return packed.tobytes()
    return packed.reshape(-1, 1).view(np.uint8)[:, :3].tobytes()


def _widened(payload: memoryview) -> NDArray[np.int32]:
    packed = np.frombuffer(payload, np.uint8).reshape(-1, 3)
    wide = np.zeros((len(packed), 4), np.uint8)
    wide[:, 1:] = packed
    return wide.view("<i4")[:, 0]

"""Read audio files."""

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from detectd.dsp.audio import MAX_RATE_HZ, MIN_RATE_HZ
from detectd.errors import SourceError


def read_clip(path: str | Path) -> tuple[NDArray[np.float32], int]:
    """Read a WAV, FLAC or OGG file whole.

    Returns
    -------
    samples : float32 array, shape (n, channels), in [-1, 1)
    rate_hz : int

    Raises
    ------
    SourceError
        If the file is missing, no audio, empty, of a rate that no recorder has, or holds NaN or infinity.
    """
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        raise unreadable(path, error) from error
    check_rate(path, rate_hz)
    if not len(samples):
        raise SourceError(f"{path}: holds no audio")
    if not np.isfinite(samples).all():
        raise SourceError(f"{path}: holds samples that are not finite numbers")
    return samples, rate_hz


def check_rate(path: str | Path, rate_hz: int) -> None:
    """Refuse a file whose rate detectd does not take.

    Raises
    ------
    SourceError
    """
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise SourceError(f"{path}: has {rate_hz} samples/s, expected {MIN_RATE_HZ} to {MAX_RATE_HZ}")


def fit_to_window(samples: NDArray[np.float32], rate_hz: int, window_s: float) -> NDArray[np.float32]:
    """Repeat a clip shorter than a window, shape ``(n,)``, until it fills one; return a longer one as it is.

    Repetition rather than silence: the models normalise each window, and half a window of silence is a sound of its
    own to them.
    """
    needed = round(window_s * rate_hz)
    return samples if len(samples) >= needed else np.resize(samples, needed)


def unreadable(path: str | Path, error: Exception) -> SourceError:
    """What to say of a file that soundfile could not open; of the system's own reasons it only says "System error"."""
    try:
        Path(path).open("rb").close()
    except OSError as cause:
        reason = cause.strerror
    else:
        reason = str(error).split(": ", 1)[-1].strip().rstrip(".") or type(error).__name__
    return SourceError(f"{path}: cannot be read as audio ({reason}); expected WAV, FLAC or OGG")

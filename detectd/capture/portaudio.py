"""PortAudio: its devices, and streams opened on them. The only module that knows sounddevice."""

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from detectd.capture.choice import InputDevice
from detectd.capture.library import MISSING
from detectd.dsp.audio import SampleFormat
from detectd.errors import SourceError

USUAL_RATES_HZ = (8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000)
LATENCY_S = 0.4
"""Depth of the device's buffer; it delivers in quarters of it."""

_DTYPES = {SampleFormat.S16: "int16", SampleFormat.F32: "float32"}
_BAD_RATE, _BAD_CHANNELS, _BUSY = -9997, -9998, -9985


class DeviceError(Exception):
    """The device does not do what was asked for; says what it has where that helps."""


class Microphone:
    """An open stream of one device, read in blocks.

    Raises
    ------
    DeviceError
        If it cannot be opened like that; says what it has.
    """

    def __init__(self, device: InputDevice, rate_hz: int, channels: int, sample_format: SampleFormat) -> None:
        sounddevice = load()
        self.device, self.rate_hz, self.channels, self.sample_format = device, rate_hz, channels, sample_format
        try:
            self._stream = sounddevice.RawInputStream(
                device=device.index,
                samplerate=rate_hz,
                channels=channels,
                dtype=_DTYPES[sample_format],
                latency=LATENCY_S,
                blocksize=0,
                # What a device gives in 16 bits is passed on to the bit.
                clip_off=True,
                dither_off=True,
            )
        except (ValueError, sounddevice.PortAudioError) as error:
            raise DeviceError(_refusal(device, rate_hz, channels, error)) from error

    @property
    def buffer_s(self) -> float:
        """How long nobody may read without a loss in the device's own buffer."""
        return float(self._stream.latency)

    def start(self) -> None:
        """Begin to record."""
        with _explained():
            self._stream.start()

    def restart(self) -> None:
        """Throw away what the buffer holds, and begin again."""
        with _explained():
            self._stream.abort()
            self._stream.start()

    def read(self, n_frames: int) -> tuple[bytes, int]:
        """Wait for frames; returns them and how many more there are already."""
        with _explained():
            # PortAudio's word for a loss is not asked: it is silent of most.
            data, _ = self._stream.read(n_frames)
            return bytes(data), max(0, self._stream.read_available)

    def close(self) -> None:
        """Close, whatever state it is in."""
        with contextlib.suppress(load().PortAudioError):
            self._stream.abort()
        with contextlib.suppress(load().PortAudioError):
            self._stream.close()


@lru_cache(maxsize=1)
def load() -> Any:
    """The sounddevice module.

    Raises
    ------
    SourceError
        If there is none, or no PortAudio library.
    """
    try:
        import sounddevice  # noqa: PLC0415  # opens every device there is
    except ImportError as error:
        raise SourceError(f"the Python package sounddevice is missing ({error}); pip install sounddevice") from error
    except OSError as error:
        raise SourceError(f"{MISSING} ({error})") from error
    return sounddevice


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what ALSA and PortAudio print away from the error output, which is Python's alone meanwhile."""
    kept = os.dup(2)
    sys.stderr.flush()
    spoken, sys.stderr = sys.stderr, os.fdopen(os.dup(kept), "w", buffering=1, errors="backslashreplace")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.close(nothing)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        sys.stderr.close()
        sys.stderr = spoken


def inputs() -> list[InputDevice]:
    """All devices that can record, as they were when PortAudio was initialised.

    Raises
    ------
    DeviceError
        If it is not: its last initialisation failed.
    """
    with _explained():
        return _inputs()


def _inputs() -> list[InputDevice]:
    sounddevice = load()
    apis = [api["name"] for api in sounddevice.query_hostapis()]
    default = sounddevice.default.device[0]
    if default < 0 and apis:
        default = sounddevice.query_hostapis(0)["default_input_device"]
    return [
        InputDevice(
            index=index,
            name=entry["name"],
            host_api=apis[entry["hostapi"]],
            channels=entry["max_input_channels"],
            default_rate_hz=round(entry["default_samplerate"]),
            is_default=index == default,
        )
        for index, entry in enumerate(sounddevice.query_devices())
        if entry["max_input_channels"] > 0
    ]


def look_again() -> None:
    """Initialise PortAudio anew, which is how it finds devices; every stream of this process must be closed."""
    sounddevice = load()
    with contextlib.suppress(sounddevice.PortAudioError):
        sounddevice._terminate()  # noqa: SLF001  # the library offers no other way
    with _explained():
        sounddevice._initialize()  # noqa: SLF001


def rates_hz(device: InputDevice, channels: int = 1) -> list[int]:
    """Rates of the usual ones that a device takes; tries each."""
    sounddevice = load()
    found = []
    for rate_hz in USUAL_RATES_HZ:
        with contextlib.suppress(ValueError, sounddevice.PortAudioError):
            sounddevice.check_input_settings(device.index, channels=channels, dtype="int16", samplerate=rate_hz)
            found.append(rate_hz)
    return found


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Let PortAudio's errors be ours."""
    try:
        yield
    except load().PortAudioError as error:
        raise DeviceError(_meaning(error)) from error


def _refusal(device: InputDevice, rate_hz: int, channels: int, error: Exception) -> str:
    code = error.args[1] if len(error.args) > 1 else None
    if code == _BAD_CHANNELS or channels > device.channels:
        return f"device {device.name!r} has at most {device.channels} channel(s), {channels} are asked for"
    if code == _BAD_RATE:
        rates = ", ".join(map(str, rates_hz(device, channels))) or "none of the usual"
        return f"device {device.name!r} does not do {rate_hz} samples/s; it does: {rates}"
    if code == _BUSY:
        return f"device {device.name!r} is in use by another program, or not there"
    return f"device {device.name!r} cannot be opened, is it plugged in? ({_meaning(error)})"


def _meaning(error: Exception) -> str:
    """PortAudio's words with those of the system below it, in one line."""
    said = str(error.args[0]) if error.args else str(error)
    host = error.args[2][2] if len(error.args) > 2 else ""
    return " ".join(f"{said} ({host})".split()) if host else " ".join(said.split())

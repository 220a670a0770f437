"""The daemon's own sources: made-up audio and files, each a thread, and sound devices, each a process.

All send over the same wire as everybody else.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import zmq
from numpy.typing import NDArray

from detectd.capture.library import what_is_missing
from detectd.capture.supervisor import DeviceStatus, DeviceSupervisor
from detectd.config.config import DeviceStream, FileStream, StreamConfig, SyntheticStream
from detectd.dsp.audio import SampleFormat
from detectd.dsp.synth import Signature, random_phases, reference_power_for, tones_at, white_noise
from detectd.errors import ConfigError, SourceError
from detectd.monitor.log import LOG
from detectd.send import BLOCK_S, AudioFile, Sender
from detectd.service.ingest import LOCAL_ENDPOINT
from detectd.service.plan import file_of
from detectd.sockets import Context
from detectd.streams.wire import Flag


class _Playing:
    """A source that is a thread."""

    def __init__(self, name: str, target: Callable[[threading.Event], None]) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=target, args=(self._stopping,), name=name)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def ask_to_stop(self) -> None:
        self._stopping.set()

    def stop(self) -> None:
        self.ask_to_stop()
        self._thread.join()


class LocalSources:
    """Starts and stops the sources that a configuration names.

    Parameters
    ----------
    recorders : str
        Endpoint that sound devices are sent to.
    """

    def __init__(self, context: Context, recorders: str) -> None:
        self._context = context
        self._recorders = recorders
        self._playing: dict[StreamConfig, _Playing | DeviceSupervisor] = {}

    def apply(self, streams: Sequence[StreamConfig]) -> None:
        """Play these: what plays and is among them goes on, what is not stops, what is new begins."""
        self._stop([playing for stream, playing in self._playing.items() if stream not in streams])
        self._playing = {stream: playing for stream, playing in self._playing.items() if stream in streams}
        for stream in streams:
            if stream not in self._playing and (playing := self._player(stream)):
                self._playing[stream] = playing
                playing.start()

    def stop(self) -> None:
        """Stop sending, at once."""
        self._stop(list(self._playing.values()))
        self._playing = {}

    def plays(self) -> dict[str, str]:
        """Sources that should be heard now, each with what is in its way, if anything is known to be."""
        return {
            stream.id: playing.status.hindrance if isinstance(playing, DeviceSupervisor) else ""
            for stream, playing in list(self._playing.items())
            if playing.alive
        }

    def devices(self) -> dict[str, DeviceStatus]:
        """How each sound device is, by the id of its source."""
        return {
            stream.id: playing.status
            for stream, playing in list(self._playing.items())
            if isinstance(playing, DeviceSupervisor)
        }

    def _player(self, stream: StreamConfig) -> _Playing | DeviceSupervisor | None:
        if isinstance(stream, DeviceStream):
            return DeviceSupervisor.for_stream(stream, self._recorders)
        if isinstance(stream, SyntheticStream):
            return _Playing(f"source {stream.id}", partial(self._synthesise, stream))
        if isinstance(stream, FileStream):
            return _Playing(f"source {stream.id}", partial(self._play, stream))
        return None

    @staticmethod
    def _stop(ending: Sequence[_Playing | DeviceSupervisor]) -> None:
        for playing in ending:
            playing.ask_to_stop()
        for playing in ending:
            playing.stop()

    def _synthesise(self, stream: SyntheticStream, stop: threading.Event) -> None:
        with self._context.socket(zmq.PUSH) as socket:
            socket.connect(LOCAL_ENDPOINT)
            sender = Sender(socket, stream.id, stream.rate_hz, SampleFormat.S16, stop)
            sender.play(synthetic_blocks(stream), speed=1)

    def _play(self, stream: FileStream, stop: threading.Event) -> None:
        with self._context.socket(zmq.PUSH) as socket:
            socket.connect(LOCAL_ENDPOINT)
            try:
                file = AudioFile(stream.path)
            except SourceError as error:  # it was there a moment ago
                LOG.error("stream %s does not begin: %s", stream.id, error)
                return
            sender = Sender(socket, stream.id, file.rate_hz, file.sample_format, stop)
            try:
                while sender.play(_not_empty(file), stream.speed) and stream.loop:
                    # The end of the file is not followed by its beginning in any real sound.
                    sender.send(np.empty((0, file.channels), np.float32), Flag.DISCONTINUITY)
            except SourceError as error:
                LOG.error("stream %s ends: %s", stream.id, error)
            sender.end(file.channels)


def _not_empty(file: AudioFile) -> Iterator[NDArray[np.float32]]:
    """The file's blocks.

    Raises
    ------
    SourceError
        If there are none, or it cannot be read any more: what is played again and again may have been replaced.
    """
    empty = True
    for block in file.blocks():
        empty = False
        yield block
    if empty:
        raise SourceError(f"{file.path}: holds no audio any more")


def synthetic_blocks(stream: SyntheticStream) -> Iterator[NDArray[np.float32]]:
    """White noise for ever, with the tones on for `on_s`, off for `off_s` and so on, off first; blocks ``(n, 1)``."""
    rng = np.random.default_rng(stream.seed)
    length = max(1, round(BLOCK_S * stream.rate_hz))
    power = reference_power_for(stream.snr_db, stream.rate_hz)
    signature = Signature(stream.tones_hz) if stream.tones_hz else None
    phases = random_phases(signature, rng) if signature else np.empty(0)
    on, cycle = round(stream.on_s * stream.rate_hz), round((stream.on_s + stream.off_s) * stream.rate_hz)
    position = 0
    while True:
        block = white_noise(length, stream.rate_hz, rng, power)
        sounding = (position + np.arange(length)) % max(1, cycle) >= cycle - on
        if signature and sounding.any():
            tones = tones_at(
                signature,
                phases,
                start_sample=position,
                n_samples=length,
                rate_hz=stream.rate_hz,
                total_power=power * 10 ** (stream.snr_db / 10),
            )
            block += tones * sounding
        yield block[:, None]
        position += length


def check_source(path: Path, stream: StreamConfig) -> None:
    """Refuse a stream table whose source cannot be had.

    A device that is not there is waited for, so it is no reason.

    Raises
    ------
    ConfigError
        Naming the configuration `path`, the stream and the key.
    """
    if isinstance(stream, DeviceStream):
        missing = what_is_missing()
        if missing:
            raise ConfigError(f"{path}: stream '{stream.id}': source = \"device\": {missing}")
    if isinstance(stream, FileStream):
        file_of(path, stream)

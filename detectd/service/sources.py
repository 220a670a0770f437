"""The daemon's own sources, synthetic and file: each a thread that sends over the same wire as everybody else."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import zmq
from numpy.typing import NDArray

from detectd.config.config import Config, DeviceStream, FileStream, StreamConfig, SyntheticStream
from detectd.dsp.audio import SampleFormat
from detectd.dsp.synth import Signature, random_phases, reference_power_for, tones_at, white_noise
from detectd.errors import ConfigError, SourceError
from detectd.monitor.log import LOG
from detectd.send import BLOCK_S, AudioFile, Sender
from detectd.service.ingest import LOCAL_ENDPOINT
from detectd.service.plan import file_of
from detectd.sockets import Context
from detectd.streams.wire import Flag


class LocalSources:
    """Starts and stops the sources that the configuration names.

    Raises
    ------
    ConfigError
        If a source cannot be had.
    """

    def __init__(self, context: Context, config: Config) -> None:
        self._context = context
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        for stream in config.streams:
            check_source(config.path, stream)
            if isinstance(stream, SyntheticStream):
                self._add(stream.id, partial(self._synthesise, stream))
            elif isinstance(stream, FileStream):
                self._add(stream.id, partial(self._play, stream, file_of(config.path, stream)))

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop sending, at once."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _add(self, stream_id: str, target: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=target, name=f"source {stream_id}"))

    def _synthesise(self, stream: SyntheticStream) -> None:
        with self._context.socket(zmq.PUSH) as socket:
            socket.connect(LOCAL_ENDPOINT)
            sender = Sender(socket, stream.id, stream.rate_hz, SampleFormat.S16, self._stop)
            sender.play(synthetic_blocks(stream), speed=1)

    def _play(self, stream: FileStream, file: AudioFile) -> None:
        with self._context.socket(zmq.PUSH) as socket:
            socket.connect(LOCAL_ENDPOINT)
            sender = Sender(socket, stream.id, file.rate_hz, file.sample_format, self._stop)
            try:
                while sender.play(file.blocks(), stream.speed) and stream.loop:
                    # The end of the file is not followed by its beginning in any real sound.
                    sender.send(np.empty((0, file.channels), np.float32), Flag.DISCONTINUITY)
            except SourceError as error:
                LOG.error("stream %s ends: %s", stream.id, error)
            sender.end(file.channels)


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

    Raises
    ------
    ConfigError
        Naming the configuration `path`, the stream and the key.
    """
    if isinstance(stream, DeviceStream):
        raise ConfigError(
            f"{path}: stream '{stream.id}': "
            'source = "device" comes with the next version; accepted: zmq, file, synthetic'
        )
    if isinstance(stream, FileStream):
        file_of(path, stream)

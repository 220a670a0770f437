"""Files and made-up audio onto the wire: `detectd send`, and the daemon's own sources."""

import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import chain, groupby
from pathlib import Path

import numpy as np
import soundfile
import zmq
from numpy.typing import NDArray

from detectd.config.stream_config import SPEED
from detectd.dsp.audio import SampleFormat, encode
from detectd.dsp.clips import check_rate, unreadable
from detectd.errors import SourceError
from detectd.sockets import Context, Socket, connect
from detectd.streams.epoch import Epoch
from detectd.streams.wire import Flag, is_stream_id

BLOCK_S = 0.1
_STOP_CHECK_MS = 100
_LINGER_MS = 10_000
_WAITING_BLOCKS = 16
_PATIENCE_S = 2.0


class Sender:
    """One source on a PUSH socket: numbers its blocks and gives up only when told to.

    Attributes
    ----------
    sent_samples : int
        Of each channel.
    on_wait : callable
        Called now and then while the other side takes nothing.

    Parameters
    ----------
    stop : threading.Event
        Ends every wait.
    start_utc_ns : int
        Capture time of the first sample; 0 = unknown.
    """

    def __init__(
        self,
        socket: Socket,
        stream_id: str,
        rate_hz: int,
        sample_format: SampleFormat,
        stop: threading.Event,
        start_utc_ns: int = 0,
    ) -> None:
        self.sent_samples = 0
        self.on_wait: Callable[[], None] = lambda: None
        self._socket = socket
        self._stream_id = stream_id
        self._rate_hz = rate_hz
        self._format = sample_format
        self._stop = stop
        self._start_utc_ns = start_utc_ns
        self._epoch: Epoch | None = None

    def send(self, samples: NDArray[np.float32], flags: int = 0) -> bool:
        """Send a block, shape ``(n, channels)``, waiting while the other side is busy; False if stopped meanwhile."""
        utc_ns = self._start_utc_ns and self._start_utc_ns + round(self.sent_samples * 1e9 / self._rate_hz)
        if self._epoch is None:
            number = secrets.randbits(64)
            self._epoch = Epoch(self._stream_id, self._rate_hz, samples.shape[1], self._format, number)
        payload = encode(samples, self._format)
        message = self._epoch.block(payload, self.sent_samples, flags=flags, t_first_utc_ns=utc_ns)
        while not self._stop.is_set():
            if self._socket.poll(_STOP_CHECK_MS, zmq.POLLOUT):
                self._socket.send(message)
                self.sent_samples += len(samples)
                return True
            self.on_wait()
        return False

    def play(self, blocks: Iterator[NDArray[np.float32]], speed: float) -> bool:
        """Send blocks at `speed` times real time, 0 = as fast as accepted; False if stopped before the end."""
        began_s, began_at = time.monotonic(), self.sent_samples
        for block in blocks:
            if not self.send(block):
                return False
            if speed:
                due_s = began_s + (self.sent_samples - began_at) / (self._rate_hz * speed)
                if self._stop.wait(max(0.0, due_s - time.monotonic())):
                    return False
        return not self._stop.is_set()

    def end(self, channels: int) -> None:
        """Say that the stream is over."""
        self.send(np.empty((0, channels), np.float32), Flag.END)


class AudioFile:
    """A file to be sent, checked before anything starts.

    Raises
    ------
    SourceError
        If it is missing, no audio, empty, or of a rate that no stream has.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            info = soundfile.info(path)
        except (OSError, RuntimeError) as error:
            raise unreadable(path, error) from error
        self.rate_hz, self.channels, self.n_samples = info.samplerate, info.channels, info.frames
        check_rate(path, self.rate_hz)
        if not self.n_samples:
            raise SourceError(f"{path}: holds no audio")
        self.sample_format = {"PCM_16": SampleFormat.S16, "PCM_24": SampleFormat.S24}.get(
            info.subtype, SampleFormat.F32
        )

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """The file in blocks, each shape ``(n, channels)``.

        Raises
        ------
        SourceError
            If it cannot be read any more.
        """
        length = max(1, round(BLOCK_S * self.rate_hz))
        try:
            yield from soundfile.blocks(self.path, blocksize=length, dtype="float32", always_2d=True)
        except (OSError, RuntimeError) as error:
            raise unreadable(self.path, error) from error


class _Progress:
    """Tells a person at a terminal how far it is, and anybody when nothing moves."""

    def __init__(self, endpoint: str, total_s: float) -> None:
        self._endpoint = endpoint
        self._total_s = total_s
        self._done_s = 0.0
        self._moved_s = self._shown_s = time.monotonic()
        self._complained = False

    def over(self, blocks: Iterator[NDArray[np.float32]], rate_hz: int) -> Iterator[NDArray[np.float32]]:
        """Pass blocks on, counting them."""
        for block in blocks:
            yield block
            self._done_s += len(block) / rate_hz
            self._moved_s = time.monotonic()
            if sys.stderr.isatty() and self._moved_s - self._shown_s >= 1:
                self._shown_s = self._moved_s
                print(f"\r{self._done_s:.0f} of {self._total_s:.0f} s sent ", end="", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            print("\r", end="", file=sys.stderr)

    def waiting(self) -> None:
        """Say once that the other side takes nothing."""
        if not self._complained and time.monotonic() - self._moved_s > _PATIENCE_S:
            self._complained = True
            print(f"waiting for {self._endpoint} to take audio; is the daemon running?", file=sys.stderr)


def send_files(
    paths: Sequence[Path], stream_id: str, endpoint: str, speed: float, start_time: str | None, stop: threading.Event
) -> int:
    """Send files one after another as one stream; returns the samples sent of each channel.

    Raises
    ------
    SourceError
        If a file cannot be read, the id does not fit the wire, or speed, time or endpoint make no sense. Nothing has
        been sent then, unless a file became unreadable on the way.
    """
    if not is_stream_id(stream_id):
        raise SourceError(f"--stream {stream_id!r}: expected 1 to 32 of A-Z a-z 0-9 . _ / -")
    if speed and speed not in SPEED:
        raise SourceError(f"--speed {speed:g}: expected 0 (as fast as accepted) or a number {SPEED}")
    files = [AudioFile(path) for path in paths]
    start_utc_ns = _utc_ns(start_time) if start_time else 0
    context: Context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    # What waits on this side cannot be seen by the daemon, so little does.
    socket.setsockopt(zmq.SNDHWM, _WAITING_BLOCKS)
    # Nothing counts as sent before there is somebody to send it to.
    socket.setsockopt(zmq.IMMEDIATE, 1)
    progress = _Progress(endpoint, sum(file.n_samples / file.rate_hz for file in files))
    n_sent = elapsed_ns = 0
    try:
        connect(socket, endpoint, "--to")
        for alike, group in groupby(files, lambda file: (file.rate_hz, file.channels, file.sample_format)):
            rate_hz, channels, sample_format = alike
            began_ns = start_utc_ns and start_utc_ns + elapsed_ns
            sender = Sender(socket, stream_id, rate_hz, sample_format, stop, began_ns)
            sender.on_wait = progress.waiting
            blocks = progress.over(chain.from_iterable(file.blocks() for file in group), rate_hz)
            if sender.play(blocks, speed):
                sender.end(channels)
            n_sent += sender.sent_samples
            elapsed_ns += sender.sent_samples * 1_000_000_000 // rate_hz
    finally:
        # What was accepted goes out, unless the daemon is not there.
        socket.close(linger=_LINGER_MS)
        context.term()
    return n_sent


def _utc_ns(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise SourceError(f"--start-time {text!r}: expected RFC 3339, like 2026-05-01T12:00:00Z") from error
    if moment.tzinfo is None:
        raise SourceError(f"--start-time {text!r}: has no time zone; expected one like 2026-05-01T12:00:00Z")
    return round(moment.timestamp() * 1e6) * 1000

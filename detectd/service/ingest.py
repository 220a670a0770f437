"""Audio in over ZeroMQ: one thread reads every socket and gives what it gets to the intake."""

import queue
import threading
import time
from collections.abc import Callable, Sequence

import zmq

from detectd.errors import ConfigError
from detectd.sockets import Context, Socket, bind, connect
from detectd.streams.intake import Arrival, Intake
from detectd.streams.wire import MAGIC

LOCAL_ENDPOINT = "inproc://local-sources"
_POLL_MS = 100
_TURN_S = 0.005
"""Sockets are looked at at most this often: with many senders a thread woken by every message would do little else."""

_MESSAGES_A_TURN = 256
_MAX_MESSAGE_BYTES = 1 << 29
"""64 channels of 10 s at 192 kHz in 32 bits, the largest block of the contract, fit."""

_WAITING_MESSAGES = 100
"""Of each sender, in memory before they are read: they may be large, and what is not taken waits at the sender's."""

_SILENCE_CHECK_S = 0.2
_WAIT_S, _REST_S = 0.5, 1.0
"""While a backlog is crowded, nothing is read, so that ZeroMQ holds its sender back: a fast replay loses nothing.
Others wait with it, so that is tried for a short time only and then not again for a while: a stream that stays full
means a daemon that is overloaded."""


class Ingest:
    """The sockets that audio comes in by.

    Parameters
    ----------
    binds, connects : sequence of str
        Endpoints of PULL and SUB sockets.
    devices : str
        Endpoint at which the daemon's own recorders deliver: as local as `LOCAL_ENDPOINT`.
    wake : threading.Event
        Set whenever there is something new to analyse.
    """

    def __init__(
        self,
        context: Context,
        binds: Sequence[str],
        connects: Sequence[str],
        devices: str,
        intake: Intake,
        wake: threading.Event,
    ) -> None:
        self._intake = intake
        self._wake = wake
        self._stop = threading.Event()
        self._poller = zmq.Poller()
        self._changes: queue.SimpleQueue[tuple[Callable[[], None], threading.Event]] = queue.SimpleQueue()
        self._local = [self._socket(context, zmq.PULL) for _ in range(2)]
        bind(self._local[0], LOCAL_ENDPOINT, "ingest")
        bind(self._local[1], devices, "service.state_dir")
        self._sockets = list(self._local)
        for endpoint in binds:
            self._sockets.append(self._socket(context, zmq.PULL))
            bind(self._sockets[-1], endpoint, "ingest.bind")
        for endpoint in connects:
            self._sockets.append(self._socket(context, zmq.SUB))
            self._sockets[-1].subscribe(b"")
            connect(self._sockets[-1], endpoint, "ingest.connect:", ConfigError)
        self.endpoints = tuple(socket.getsockopt_string(zmq.LAST_ENDPOINT) for socket in self._sockets[2:])
        self.looped_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="ingest")

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def call(self, change: Callable[[], None]) -> threading.Event:
        """Have the thread that owns the intake do this between two reads; the event returned is set when it is done."""
        done = threading.Event()
        self._changes.put((change, done))
        return done

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Read each socket once more, some hundred messages at most and no more than there is room for; then close."""
        self._stop.set()
        self._thread.join()
        for socket in self._sockets:
            socket.close(linger=0)

    def _socket(self, context: Context, kind: int) -> Socket:
        socket = context.socket(kind)
        socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.RCVHWM, _WAITING_MESSAGES)
        self._poller.register(socket, zmq.POLLIN)
        return socket

    def _run(self) -> None:
        listened_s = checked_s = rest_until_s = 0.0
        while not self._stop.is_set():
            ready = self._poller.poll(_POLL_MS)
            now_s = time.monotonic()
            # Time in which this thread could not run is no silence of the senders.
            listened_s += min(now_s - self.looped_s, 2 * _POLL_MS / 1000)
            self.looped_s = now_s
            while not self._changes.empty():
                change, done = self._changes.get()
                # What our own sources sent before it is of before it.
                for socket in self._local:
                    self._read(socket, listened_s)
                change()
                done.set()
            drained = [self._read(socket, listened_s) for socket, _ in ready]
            # Sockets queue fairly over their peers: who was not heard has sent nothing, even if others never stop.
            if listened_s - checked_s >= _SILENCE_CHECK_S:
                self._intake.end_silent(listened_s)
                checked_s = listened_s
            self._wake.set()
            if all(drained):
                self._stop.wait(_TURN_S)
            if self._intake.crowded and now_s >= rest_until_s and not self._room_made():
                rest_until_s = time.monotonic() + _REST_S
        for socket in self._sockets:
            self._read(socket, listened_s)

    def _read(self, socket: Socket, listened_s: float) -> bool:
        """Read what waits, a bounded number of messages; returns whether that was all."""
        for _ in range(_MESSAGES_A_TURN):
            try:
                parts = [frame.buffer for frame in socket.recv_multipart(zmq.NOBLOCK, copy=False)]
            except zmq.Again:
                return True
            if socket.socket_type == zmq.SUB and len(parts) > 1 and bytes(parts[0][: len(MAGIC)]) != MAGIC:
                del parts[0]
            arrival = Arrival(time.time_ns(), time.monotonic())
            self._intake.take(parts, arrival, listened_s, local=socket in self._local)
            if self._intake.crowded:
                break
        return False

    def _room_made(self) -> bool:
        """Wait for the engine to make room; returns whether it did in time."""
        until_s = time.monotonic() + _WAIT_S
        while self._intake.crowded:
            if time.monotonic() >= until_s or self._stop.wait(0.002):
                return False
        return True

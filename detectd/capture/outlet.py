"""Messages to a daemon that may not be there: never waits, keeps the newest."""

from collections import deque

import zmq

from detectd.errors import SourceError
from detectd.sockets import Context, Socket, connect

_WAITING_MESSAGES = 16
_KEPT_S = 10.0
_STUCK_S = 2.0
_LINGER_MS = 300
_HEARTBEAT_MS, _HEARTBEAT_TIMEOUT_MS = 2000, 10_000


class Outlet:
    """A PUSH socket with a bounded queue in front of it.

    Attributes
    ----------
    dropped_samples : int
        Of each channel; where nobody takes them the oldest make room.

    Raises
    ------
    SourceError
        If that is no endpoint.
    """

    def __init__(self, endpoint: str) -> None:
        self.dropped_samples = 0
        self._queue: deque[tuple[bytes, int, float]] = deque()
        self._queued_s = 0.0
        self._context: Context = zmq.Context()
        self._socket: Socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, _WAITING_MESSAGES)
        # Nothing counts as sent before there is somebody to send it to.
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 100)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        if endpoint.startswith("tcp:"):
            # A box that went without a word would be waited for by TCP for very long.
            self._socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
            self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
        try:
            connect(self._socket, endpoint, "--to", SourceError)
        except SourceError:
            self._context.destroy(linger=0)
            raise

    @property
    def stuck(self) -> bool:
        """Whether nobody has taken anything for a while."""
        return self._queued_s > _STUCK_S

    @property
    def empty(self) -> bool:
        """Whether all was handed to ZeroMQ."""
        return not self._queue

    def put(self, message: bytes, n_samples: int, seconds: float) -> None:
        """Send a message, or keep it until it can be."""
        self._queue.append((message, n_samples, seconds))
        self._queued_s += seconds
        while self._queued_s > _KEPT_S:
            _, dropped, dropped_s = self._queue.popleft()
            self._queued_s -= dropped_s
            self.dropped_samples += dropped
        self.flush()

    def flush(self) -> None:
        """Send what can be sent now."""
        while self._queue:
            try:
                self._socket.send(self._queue[0][0], zmq.NOBLOCK)
            except zmq.Again:
                return
            self._queued_s -= self._queue.popleft()[2]

    def close(self) -> None:
        """Close; what was handed over has a moment to go out, and is waited for."""
        self._socket.close(linger=_LINGER_MS)
        self._context.term()

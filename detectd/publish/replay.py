"""Published messages again, for who asks: a ROUTER socket on a thread of its own, reading the journal's file.

Everything is bounded: what a client may send, what one reply holds, and what all replies hold together that a client
may leave waiting. Who takes nothing for a while is let go.
"""

import contextlib
import json
import sqlite3
import threading
import time
from collections import deque
from typing import Any

import zmq

from detectd.publish.answer import Answer, Bounds, answer
from detectd.publish.journal import Journal
from detectd.publish.request import BadRequestError, parse_request
from detectd.publish.schema import open_to_read
from detectd.sockets import Context, bind

_POLL_MS = 100
_MAX_REQUEST_BYTES = 4096
_MAX_PARTS = 8
"""Of a request with its envelope; the rest of a longer one is thrown away as it is read."""

_BOUNDS = Bounds(n_messages=100_000, n_bytes=64_000_000)
_PING_MS, _PONG_MS = 5_000, 15_000
_WAITING_BYTES, _WAITING_S = 256_000_000, 20.0
"""All replies of so many seconds hold at most this; after those, a client that takes nothing has been let go."""


class Replay:
    """The replay socket.

    Parameters
    ----------
    endpoint : str
        Where ROUTER is bound.
    """

    def __init__(self, context: Context, endpoint: str, journal: Journal) -> None:
        self._journal = journal
        self._stop = threading.Event()
        self._sent: deque[tuple[float, int]] = deque()
        self._sent_bytes = 0
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _MAX_REQUEST_BYTES)
        self._socket.setsockopt(zmq.RCVHWM, 10)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, _PING_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _PONG_MS)
        self.endpoint = bind(self._socket, endpoint, "publish.replay")
        self._thread = threading.Thread(target=self._run, name="replay")

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more, and close."""
        self._stop.set()
        self._thread.join()
        self._socket.close()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(_POLL_MS):
                self._serve(self._received())

    def _received(self) -> list[bytes]:
        parts = [self._socket.recv()]
        while self._socket.getsockopt(zmq.RCVMORE):
            part = self._socket.recv()
            if len(parts) < _MAX_PARTS:
                parts.append(part)
        return parts

    def _serve(self, parts: list[bytes]) -> None:
        client, *asked = parts
        envelope = [client, b""] if asked[:1] == [b""] and len(asked) > 1 else [client]
        bodies = asked[len(envelope) - 1 :]
        reply = self._reply(bodies)
        # Who has gone, or lets too much wait, gets nothing; others do not wait for that.
        with contextlib.suppress(zmq.ZMQError):
            self._socket.send_multipart([*envelope, *reply], zmq.NOBLOCK, copy=True)

    def _reply(self, bodies: list[bytes]) -> list[bytes]:
        if len(bodies) != 1:
            return [_done(complete=False, error='a request is one part; expected JSON like {"last": 10}')]
        try:
            request = parse_request(bodies[0])
        except BadRequestError as error:
            return [_done(complete=False, error=str(error))]
        room = self._room()
        if room <= 0:
            return [_done(complete=False, error="too much has been asked for just now; ask again in some seconds")]
        lost = self._journal.lost
        bounds = Bounds(_BOUNDS.n_messages, min(_BOUNDS.n_bytes, room))
        try:
            with contextlib.closing(open_to_read(self._journal.path)) as connection:
                found = answer(connection, request, lost, self._journal.run_id, bounds)
        except sqlite3.Error as error:
            self._journal.report(error)
            found = Answer([], f"the journal cannot be read: {error}")
        self._count(sum(map(len, found.messages)))
        told: dict[str, Any] = {}
        if found.reason is not None:
            told["reason"] = found.reason
        if found.next is not None:
            told["next"] = found.next
        return [*found.messages, _done(complete=found.reason is None, **told)]

    def _room(self) -> int:
        """Bytes that replies may hold now."""
        now_s = time.monotonic()
        while self._sent and self._sent[0][0] < now_s - _WAITING_S:
            self._sent_bytes -= self._sent.popleft()[1]
        return _WAITING_BYTES - self._sent_bytes

    def _count(self, n_bytes: int) -> None:
        if n_bytes:
            self._sent.append((time.monotonic(), n_bytes))
            self._sent_bytes += n_bytes


def _done(*, complete: bool, **told: Any) -> bytes:
    return json.dumps({"done": True, "complete": complete, **told}, ensure_ascii=False, separators=(",", ":")).encode()

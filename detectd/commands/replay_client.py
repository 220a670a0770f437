"""Asks a daemon's replay socket, in as many pieces as it takes."""

import json
from collections.abc import Iterator
from typing import Any

import zmq

from detectd.errors import DetectdError
from detectd.sockets import Socket, connect

_WAIT_S = 3.0


class NoAnswerError(DetectdError):
    """The replay socket cannot be asked now; says why."""


class ReplayClient:
    """A client of the replay socket.

    Attributes
    ----------
    complete : bool
        Whether the newest request was answered with all there was.
    """

    def __init__(self, endpoint: str) -> None:
        self.complete = False
        self._endpoint = endpoint
        self._socket = self._connected()

    def close(self) -> None:
        """Ask no more."""
        self._socket.close()

    def ask(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the messages of a request, also where one reply cannot hold them all.

        Raises
        ------
        NoAnswerError
            If nothing comes, or a refusal.
        """
        self.complete = False
        following: dict[str, Any] | None = request
        while following is not None:
            *messages, last = self._asked(following)
            done = json.loads(last)
            if "error" in done:
                raise NoAnswerError(f"replay at {self._endpoint} refuses: {done['error']}")
            yield from map(json.loads, messages)
            following = done.get("next")
            self.complete = done["complete"]

    def _asked(self, request: dict[str, Any]) -> list[bytes]:
        self._socket.send(json.dumps(request).encode(), zmq.NOBLOCK)
        if not self._socket.poll(round(_WAIT_S * 1000)):
            # An answer that comes late must not be taken for that to another question.
            self._socket.close()
            self._socket = self._connected()
            raise NoAnswerError(f"replay at {self._endpoint} does not answer")
        return self._socket.recv_multipart()

    def _connected(self) -> Socket:
        socket: Socket = zmq.Context.instance().socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        connect(socket, self._endpoint, "--replay")
        return socket

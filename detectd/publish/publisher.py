"""Events out over ZeroMQ: a PUB socket, a number on every message, a heartbeat every second. One thread owns it all."""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import zmq

from detectd.engine.event import Event
from detectd.publish.message import HEARTBEAT_TOPIC, event_message, heartbeat_message, topic_of
from detectd.sockets import Context, bind

HEARTBEAT_S = 1.0
_LINGER_MS = 1000
_MAX_SUBSCRIPTION_BYTES = 1024
"""Largest message a subscriber may send: subscriptions are short, and unlimited ones fill the memory."""

_PING_MS, _PONG_MS = 5_000, 15_000
"""A subscriber that stands still is let go, and with it the messages that wait for it."""


class Publisher:
    """Publishes what it is given, in order, without ever holding up who gives.

    Parameters
    ----------
    endpoint : str
        Where PUB is bound.
    streams : callable
        The heartbeat's table of streams.
    on_published : callable
        Told of every event message that went out.
    """

    def __init__(
        self,
        context: Context,
        endpoint: str,
        run_id: str,
        streams: Callable[[], Mapping[str, Mapping[str, Any]]],
        on_published: Callable[[Event], None],
    ) -> None:
        self._run_id = run_id
        self._streams = streams
        self._on_published = on_published
        self._seq: Counter[str] = Counter()
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._socket = context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _MAX_SUBSCRIPTION_BYTES)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, _PING_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _PONG_MS)
        self.endpoint = bind(self._socket, endpoint, "publish.events")
        self._thread = threading.Thread(target=self._run, name="publisher")

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def put(self, event: Event) -> None:
        """Hand an event over; returns at once."""
        self._queue.put(event)

    def stop(self) -> None:
        """Publish what was handed over, then close."""
        self._queue.put(None)
        self._thread.join()
        self._socket.close()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        due_s = time.monotonic()
        while True:
            try:
                event = self._queue.get(timeout=max(0.0, due_s - time.monotonic()))
                if event is None:
                    return
                self._publish(event)
            except queue.Empty:
                pass
            if time.monotonic() >= due_s:
                self._send(HEARTBEAT_TOPIC, heartbeat_message(self._run_id, time.time_ns(), self._seq, self._streams()))
                due_s = max(due_s + HEARTBEAT_S, time.monotonic())

    def _publish(self, event: Event) -> None:
        topic = topic_of(event)
        self._seq[topic] += 1
        message = event_message(event, run_id=self._run_id, seq=self._seq[topic], journaled=False)
        self._send(topic, message)
        self._on_published(event)

    def _send(self, topic: str, message: bytes) -> None:
        self._socket.send_multipart([topic.encode(), message])

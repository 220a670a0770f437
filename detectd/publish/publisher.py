"""Events out over ZeroMQ: a PUB socket and a heartbeat every second. One thread owns the socket."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import zmq

from detectd.engine.event import Event
from detectd.publish.journal import Journal
from detectd.publish.message import HEARTBEAT_TOPIC, heartbeat_message
from detectd.publish.record import Record
from detectd.publish.scribe import Scribe
from detectd.sockets import Context, bind

HEARTBEAT_S = 1.0
_LOOK_S = 0.2
_LINGER_MS = 1000
_MAX_SUBSCRIPTION_BYTES = 1024
"""Largest message a subscriber may send: subscriptions are short, and unlimited ones fill the memory."""

_PING_MS, _PONG_MS = 5_000, 15_000
"""A subscriber that stands still is let go, and with it the messages that wait for it."""

_Batch = Sequence[tuple[Record, Event | None]]


class Publisher:
    """Publishes what it is given, journaled first, in order, without ever holding up who gives.

    Parameters
    ----------
    endpoint : str
        Where PUB is bound.
    streams : callable
        The heartbeat's table of streams.
    on_published : callable
        Told of every event message that went out; None stands for the end of an event of an earlier run.
    """

    def __init__(
        self,
        context: Context,
        endpoint: str,
        journal: Journal,
        streams: Callable[[], Mapping[str, Mapping[str, Any]]],
        on_published: Callable[[Event | None], None],
    ) -> None:
        self._run_id = journal.run_id
        self._journal = journal
        self._streams = streams
        self._on_published = on_published
        self._seq: dict[str, int] = {}
        self._queue: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._scribe = Scribe(journal, self._queue.put)
        self._socket = context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _MAX_SUBSCRIPTION_BYTES)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, _PING_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _PONG_MS)
        self.endpoint = bind(self._socket, endpoint, "publish.events")
        self.looped_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="publisher")

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()
        self._scribe.start()

    def put(self, event: Event) -> None:
        """Hand an event over; returns at once."""
        self._scribe.put(event)

    def stop(self) -> None:
        """Journal and publish what was handed over, then close."""
        self._scribe.stop()
        self._queue.put(None)
        self._thread.join()
        self._socket.close()

    @property
    def alive(self) -> bool:
        """Whether the threads run."""
        return self._thread.is_alive() and self._scribe.alive

    @property
    def journal_fault(self) -> str | None:
        """Why events go out without being journaled, or late, if they do."""
        return self._journal.fault or ("the disk does not answer, events wait for it" if self._scribe.held_up else None)

    def _run(self) -> None:
        due_s = time.monotonic()
        while True:
            try:
                batch = self._queue.get(timeout=min(_LOOK_S, max(0.0, due_s - time.monotonic())))
                if batch is None:
                    return
                self._publish(batch)
            except queue.Empty:
                pass
            self.looped_s = time.monotonic()
            if self.looped_s >= due_s:
                self._beat()
                due_s = max(due_s + HEARTBEAT_S, time.monotonic())

    def _beat(self) -> None:
        # A time by which all earlier messages are out: who asks for replay since then misses none.
        now_ns = self._scribe.passed_ns()
        self._send(HEARTBEAT_TOPIC, heartbeat_message(self._run_id, now_ns, self._seq, self._streams()))

    def _publish(self, batch: _Batch) -> None:
        for record, event in batch:
            self._seq[record.topic] = record.seq
            self._send(record.topic, record.body)
            self._on_published(event)
        self._scribe.published()

    def _send(self, topic: str, message: str) -> None:
        self._socket.send_multipart([topic.encode(), message.encode()])

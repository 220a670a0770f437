"""Numbers events, has them journaled, hands them on to be published: in that order, and apart from the PUB socket.

A disk may take its time; the heartbeat does not wait for it, because only this thread does.
"""

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from detectd.engine.event import Event
from detectd.monitor.log import LOG
from detectd.publish.journal import Journal
from detectd.publish.message import topic_of
from detectd.publish.record import Record, closing_record, record_of

_BATCH = 256
_TEND_S = 0.5
_LONG_S = 1.2
"""Of the disk for a batch: with the time between two looks, that is told within 2 s."""


class Scribe:
    """The thread that writes the journal.

    Parameters
    ----------
    hand_on : callable
        Given messages to publish, and the events they are about; None for one of an earlier run.
    """

    def __init__(self, journal: Journal, hand_on: Callable[[Sequence[tuple[Record, Event | None]]], None]) -> None:
        self._journal = journal
        self._hand_on = hand_on
        self._seq: Counter[str] = Counter()
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._closed_earlier = False
        self._began_s: float | None = None
        self._stamps: deque[int] = deque()
        self._stamp_guard = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="journal")

    def start(self) -> None:
        """Begin: first of all, close what earlier runs left open."""
        self._thread.start()

    def put(self, event: Event) -> None:
        """Hand an event over; returns at once."""
        self._queue.put(event)

    def stop(self) -> None:
        """Write what was handed over, hand it on, and end."""
        self._queue.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def held_up(self) -> bool:
        """Whether the disk has not answered for long; nothing is published meanwhile."""
        began_s = self._began_s
        return began_s is not None and time.monotonic() - began_s > _LONG_S

    def passed_ns(self) -> int:
        """Everything with a publish time before this has been published."""
        with self._stamp_guard:
            return min(time.time_ns(), *self._stamps) if self._stamps else time.time_ns()

    def published(self) -> None:
        """Tell that the oldest messages that were handed on are published."""
        with self._stamp_guard:
            self._stamps.popleft()

    def _run(self) -> None:
        more = False
        while True:
            self._began_s = time.monotonic()
            self._close_earlier()
            self._began_s = None
            batch, stop = self._batch(0.0 if more else _TEND_S)
            self._began_s = time.monotonic()
            if batch:
                self._write(batch)
            more = self._journal.tend(len(batch))
            if stop:
                return

    def _batch(self, timeout_s: float) -> tuple[list[Event], bool]:
        """What waits, and whether to stop after it."""
        batch: list[Event] = []
        try:
            event = self._queue.get(timeout=timeout_s) if timeout_s else self._queue.get_nowait()
            while event is not None:
                batch.append(event)
                if len(batch) == _BATCH:
                    return batch, False
                event = self._queue.get_nowait()
        except queue.Empty:
            return batch, False
        return batch, True

    def _write(self, events: Sequence[Event]) -> None:
        now_ns = self._stamp()
        numbers = []
        for event in events:
            topic = topic_of(event.stream, event.detector)
            self._seq[topic] += 1
            numbers.append(self._seq[topic])
        records = self._records(events, numbers, journaled=True)
        if not self._journal.append(records, now_ns):
            records = self._records(events, numbers, journaled=False)
            self._journal.lose(records, now_ns)
        self._hand_on(list(zip(records, events, strict=True)))

    def _records(self, events: Sequence[Event], numbers: Sequence[int], *, journaled: bool) -> list[Record]:
        run_id = self._journal.run_id
        return [
            record_of(event, run_id=run_id, seq=seq, journaled=journaled)
            for event, seq in zip(events, numbers, strict=True)
        ]

    def _close_earlier(self) -> None:
        """Close what earlier runs left open, as soon as that can be written down: else it would be done twice."""
        if self._closed_earlier or self._journal.fault is not None:
            return
        numbers = self._seq.copy()
        records = []
        for left in self._journal.left_open():
            topic = topic_of(left.stream, left.detector)
            numbers[topic] += 1
            records.append(closing_record(left, run_id=self._journal.run_id, seq=numbers[topic]))
        if records:
            now_ns = self._stamp()
            if not self._journal.append(records, now_ns):
                self._unstamp()
                return
            self._seq = numbers
            LOG.warning(
                'an earlier run did not end cleanly: events that it left open are over ("restart"): %d', len(records)
            )
            self._hand_on([(record, None) for record in records])
        self._closed_earlier = self._journal.fault is None

    def _stamp(self) -> int:
        with self._stamp_guard:
            self._stamps.append(time.time_ns())
            return self._stamps[-1]

    def _unstamp(self) -> None:
        with self._stamp_guard:
            self._stamps.pop()

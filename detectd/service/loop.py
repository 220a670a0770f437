"""The engine's thread: steps it, times it, and tells others what came of it."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from detectd.engine.engine import Engine, Report
from detectd.engine.event import Event
from detectd.engine.tracker import EndReason
from detectd.engine.watch import Detector
from detectd.monitor.metrics import Metrics
from detectd.streams.stream import Stream

_TICK_S = 0.01
"""Steps begin at most this often: blocks of many streams that come at nearly one time are analysed together."""

_IDLE_S = 0.2
_DRAIN_S = 5.0


class EngineLoop:
    """Runs an engine until stopped.

    Parameters
    ----------
    wake : threading.Event
        Set by ingest when something has arrived.
    tell : callable
        Takes each event; must return at once.
    """

    def __init__(self, engine: Engine, wake: threading.Event, metrics: Metrics, tell: Callable[[Event], None]) -> None:
        self._engine = engine
        self._wake = wake
        self._metrics = metrics
        self._tell = tell
        self._changes: queue.SimpleQueue[Callable[[], Sequence[Event]]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self.stepped_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="engine")

    def add(self, stream: Stream) -> None:
        """Take in a stream before the next step."""
        self._changes.put(partial(self._add, stream))

    def remove(self, stream: Stream) -> None:
        """Forget a stream before the next step."""
        self._changes.put(partial(self._engine.remove, stream.id))

    def swap(self, detectors: Sequence[Detector]) -> threading.Event:
        """Use these detectors from the next step on; the event returned is set when no step with others goes on."""
        done = threading.Event()
        self._changes.put(partial(self._swap, detectors, done))
        self._wake.set()
        return done

    def start(self) -> None:
        """Begin to analyse."""
        self._thread.start()

    def stop(self, reason: EndReason) -> None:
        """Analyse what has arrived, end what goes on, stop."""
        self._stop.set()
        self._wake.set()
        self._thread.join()
        for event in self._engine.end_all(reason):
            self._tell(event)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            began_s = time.monotonic()
            report = self._step()
            if report.more:
                continue
            self._stop.wait(max(0.0, began_s + _TICK_S - time.monotonic()))
            if not report.busy:
                self._wake.wait(_IDLE_S)
                self._wake.clear()
        until_s = time.monotonic() + _DRAIN_S
        while self._step().busy and time.monotonic() < until_s:
            pass

    def _add(self, stream: Stream) -> Sequence[Event]:
        self._engine.add(stream)
        return ()

    def _swap(self, detectors: Sequence[Detector], done: threading.Event) -> Sequence[Event]:
        ended = self._engine.swap(detectors)
        done.set()
        return ended

    def _step(self) -> Report:
        while not self._changes.empty():
            for event in self._changes.get()():
                self._tell(event)
        report = self._engine.step(time.monotonic)
        self.stepped_s = time.monotonic()
        self._count(report)
        for event in report.events:
            self._tell(event)
        return report

    def _count(self, report: Report) -> None:
        metrics = self._metrics
        for name, batch in report.batches.items():
            metrics.windows.labels(name).inc(batch.n_windows)
            if batch.n_shed:
                metrics.windows_shed.labels(name, "overload").inc(batch.n_shed)
            inference = metrics.inference_seconds.labels(name)
            for seconds in batch.seconds:
                inference.observe(seconds)
            if batch.latencies_s:
                metrics.detection_latency.observe(batch.latencies_s)

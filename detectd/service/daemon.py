"""The service: wires the parts, starts them in order, runs until told to stop, stops them in order.

The only file where concurrency has to be thought about. Each mutable thing has one owner: ingest owns the sequencers
and the streams' arrival counts, the engine thread owns features and trackers, the publisher owns its socket; a backlog
is shared by two of them and has a lock.
"""

import gc
import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Mapping
from functools import lru_cache
from types import FrameType
from typing import Any

import zmq
from prometheus_client import CollectorRegistry

from detectd import __version__
from detectd.config.config import Config, ZmqStream
from detectd.engine.engine import Engine
from detectd.engine.event import Event
from detectd.engine.tracker import EndReason, State
from detectd.monitor.exposition import MetricsPage, StreamSnapshot
from detectd.monitor.http import MetricsServer
from detectd.monitor.log import LOG, event_line
from detectd.monitor.metrics import Metrics
from detectd.publish.journal import Journal
from detectd.publish.publisher import Publisher
from detectd.service.ingest import Ingest
from detectd.service.loop import EngineLoop
from detectd.service.plan import notices, open_detectors
from detectd.service.sources import LocalSources
from detectd.sockets import Context
from detectd.streams.intake import Admission, Intake
from detectd.streams.stream import Stream
from detectd.streams.wire import Refusal

_GARBAGE_AFTER = 50_000
"""Objects made before a search for cycles, of which there are hardly any. The usual 700 are there every few
milliseconds when thousands of streams have blocks waiting, and each search looks at all of those."""

_STUCK_S = 5.0
_STOP_CHECK_S = 0.2
_WATCH_S = 0.5


class Daemon:
    """A whole detectd, ready to run once built.

    Raises
    ------
    ConfigError, BundleError
        If anything that the configuration names cannot be had; nothing has been started then.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.run_id = uuid.uuid4().hex
        self._detectors = {detector.name: detector for detector in open_detectors(config)}
        self._engine = Engine(list(self._detectors.values()))
        self._metrics = Metrics(CollectorRegistry())
        self._context: Context = zmq.Context()
        # A plain flag: an event that a signal handler sets can hang, where the handler interrupts a wait for it.
        self._stopping = False
        self._exit_code = 0
        try:
            self._bind()
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def _bind(self) -> None:
        config, wake = self.config, threading.Event()
        self._journal = Journal(config.service.state_dir, self.run_id, config.journal)
        self._publisher = Publisher(
            self._context, config.publish.events, self._journal, self._heartbeat, self._published
        )
        self._loop = EngineLoop(self._engine, wake, self._metrics, self._tell)
        self._intake = Intake(
            lru_cache(maxsize=65536)(self._admit),
            config.ingest.max_backlog_s,
            self._loop.add,
            self._loop.remove,
            self._refused,
        )
        self._ingest = Ingest(self._context, config.ingest.bind, config.ingest.connect, self._intake, wake)
        self._sources = LocalSources(self._context, config)
        page = MetricsPage(self._metrics.registry)
        self._http = MetricsServer(
            config.metrics.host, config.metrics.port, lambda: page.render(self._snapshots()), self._faults
        )

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; then drain, end open events, and return the exit code.

        A thread that dies of a bug stops the daemon with exit code 1: better restarted than deaf.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        threading.excepthook = self._on_crash
        gc.freeze()  # what was imported and loaded stays
        gc.set_threshold(_GARBAGE_AFTER)
        self._start()
        try:
            self._watch()
        finally:
            self._shut_down()
        return self._exit_code

    def _start(self) -> None:
        metrics = self._metrics
        metrics.build_info.labels(__version__, platform.python_version()).set(1)
        for detector in self._detectors.values():
            bundle = detector.scorer.bundle
            metrics.bundle_info.labels(detector.name, bundle.manifest.name, bundle.digest).set(1)
            # A counter that is there from the beginning shows its first step.
            metrics.windows.labels(detector.name)
            metrics.windows_shed.labels(detector.name, "overload")
            for notice in notices(detector):
                LOG.warning(notice)
        for refusal in Refusal:
            metrics.rejected_blocks.labels(refusal)
        metrics.config_last_reload_successful.set(1)
        metrics.config_last_reload_timestamp.set(time.time())
        self._publisher.start()
        self._loop.start()
        self._ingest.start()
        self._http.start()
        self._sources.start()
        self._announce()

    def _announce(self) -> None:
        LOG.info("detectd %s, run %s", __version__, self.run_id)
        for detector in self._detectors.values():
            bundle = detector.scorer.bundle
            rule = f"on {detector.on:.3g}, off {detector.off:.3g}"
            watched = " ".join(detector.streams)
            kind = bundle.manifest.kind
            LOG.info("detector '%s': %s, bundle %s, %s, streams %s", detector.name, kind, bundle.ident, rule, watched)
        LOG.info("audio in: %s", " ".join(self._ingest.endpoints))
        LOG.info("events out: %s; metrics: %s/metrics", self._publisher.endpoint, self._http.url)
        LOG.info("ready; stop with Ctrl-C")

    def _watch(self) -> None:
        """Say when streams come and go, and which have a rate that none of their detectors can use."""
        up: dict[str, bool] = {}
        deaf: set[str] = set()
        due_s = time.monotonic()
        while not self._stopping:
            time.sleep(_STOP_CHECK_S)
            if time.monotonic() < due_s:
                continue
            due_s = time.monotonic() + _WATCH_S
            streams = list(self._intake.streams.values())
            for stream in streams:
                if stream.up != up.get(stream.id, False):
                    LOG.info("stream %s: %s", stream.id, f"up, {stream.rate_hz} samples/s" if stream.up else "lost")
                if stream.rejected[Refusal.RATE_TOO_LOW] and stream.id not in deaf:
                    needed_hz = min(detector.min_rate_hz for detector in self._engine.detectors_of(stream.id))
                    LOG.warning("stream %s: refused, its detectors need at least %d samples/s", stream.id, needed_hz)
                    deaf.add(stream.id)
            up = {stream.id: stream.up for stream in streams}
            deaf &= up.keys()

    def _shut_down(self) -> None:
        LOG.info("stopping")
        self._sources.stop()
        self._ingest.stop()
        self._loop.stop(EndReason.SHUTDOWN)
        self._publisher.stop()
        self._journal.close()
        self._http.stop()
        self._context.term()
        LOG.info("stopped")

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._stopping:
            os._exit(1)
        self._stopping = True

    def _on_crash(self, crash: threading.ExceptHookArgs) -> None:
        name = crash.thread.name if crash.thread else "a thread"
        LOG.critical("%s died, stopping", name, exc_info=crash.exc_value)
        self._exit_code = 1
        self._stopping = True

    def _admit(self, stream_id: str, rate_hz: int, local: bool) -> Admission:
        settings = self.config.stream_for(stream_id)
        if settings is None or isinstance(settings, ZmqStream) == local:
            return Admission(known=False)
        watching = self._engine.detectors_of(stream_id)
        holds = not watching or any(rate_hz >= detector.min_rate_hz for detector in watching)
        return Admission(known=True, rate_holds=holds, mask_hz=settings.mask_hz)

    def _tell(self, event: Event) -> None:
        (LOG.debug if event.state is State.UPDATE else LOG.info)(event_line(event))
        self._publisher.put(event)

    def _refused(self, refusal: Refusal) -> None:
        self._metrics.rejected_blocks.labels(refusal).inc()

    def _published(self, _event: Event | None) -> None:
        self._metrics.events_published.inc()

    def _snapshots(self) -> list[StreamSnapshot]:
        return [self._snapshot(stream) for stream in list(self._intake.streams.values())]

    def _snapshot(self, stream: Stream) -> StreamSnapshot:
        books = stream.backlog.books()
        watches = self._engine.watches(stream.id)
        return StreamSnapshot(
            id=stream.id,
            up=stream.up,
            accepted=books.accepted,
            analysed=books.analysed,
            pending=books.pending,
            overrun=books.overrun,
            gap=stream.gap_samples,
            resyncs=stream.resyncs,
            rejected=dict(stream.rejected),
            last_sample_utc_s=stream.last_utc_ns / 1e9 if stream.last_utc_ns else None,
            scores={watch.detector.name: watch.score for watch in watches if watch.score is not None},
            events={watch.detector.name: watch.events for watch in watches},
        )

    def _heartbeat(self) -> Mapping[str, Mapping[str, Any]]:
        now_s = time.monotonic()
        return {
            stream.id: {
                "state": "up" if stream.up else "down",
                "last_sample": stream.end_sample - 1 if stream.end_sample else None,
                "gap_samples": stream.gap_samples,
                "lag_s": round(self._engine.lag_s(stream.id, now_s), 3),
            }
            for stream in list(self._intake.streams.values())
        }

    def _faults(self) -> list[str]:
        """Why the service is not well; none means it is."""
        now_s = time.monotonic()
        faults = [
            f"{name} has not moved for {now_s - moved_s:.0f} s"
            for name, moved_s in (("ingest", self._ingest.looped_s), ("engine", self._loop.stepped_s))
            if now_s - moved_s > _STUCK_S
        ]
        if not self._publisher.alive:
            faults.append("publisher has stopped")
        if self._publisher.journal_fault is not None:
            faults.append(self._publisher.journal_fault)
        return faults

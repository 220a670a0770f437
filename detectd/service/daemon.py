"""The service: wires the parts, starts them in order, runs until told to stop, stops them in order.

The only file where concurrency has to be thought about. Each mutable thing has one owner: ingest owns the sequencers
and the streams' arrival counts, the engine thread owns features and trackers, the publisher owns its socket; a backlog
is shared by two of them and has a lock.
"""

import faulthandler
import gc
import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from types import FrameType

import zmq
from prometheus_client import CollectorRegistry

from detectd import __version__
from detectd.config.config import Config
from detectd.engine.engine import Engine
from detectd.engine.event import Event
from detectd.engine.tracker import EndReason
from detectd.engine.watch import Detector
from detectd.errors import DetectdError
from detectd.monitor.caretaker import Caretaker
from detectd.monitor.exposition import MetricsPage
from detectd.monitor.http import MetricsServer
from detectd.monitor.log import ASKED, LOG, log_event
from detectd.monitor.metrics import Metrics
from detectd.monitor.notify import Notifier
from detectd.publish.journal import Journal
from detectd.publish.publisher import Publisher
from detectd.publish.replay import Replay
from detectd.service.admission import admission, own_streams
from detectd.service.ingest import Ingest
from detectd.service.loop import EngineLoop
from detectd.service.plan import lowest_rate_hz, notices, open_detectors
from detectd.service.private import PrivateEndpoint
from detectd.service.reload import prepare
from detectd.service.signs import SignsOfLife
from detectd.service.sources import LocalSources, check_source
from detectd.service.view import StreamView
from detectd.sockets import Context
from detectd.streams.intake import Intake
from detectd.streams.wire import Refusal

_GARBAGE_AFTER = 50_000
"""Objects made before a search for cycles, of which there are hardly any. The usual 700 are there every few
milliseconds when thousands of streams have blocks waiting, and each search looks at all of those."""

_TURN_S = 0.2
_CHANGE_S = 2.0
"""Longest that a reload waits for ingest, and for the engine, to have gone over."""


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
        self._detectors = open_detectors(config)
        for stream in config.streams:
            check_source(config.path, stream)
        self._own_streams = own_streams(config)
        self._metrics = Metrics(CollectorRegistry())
        self._notifier = Notifier.from_environment()
        self._context: Context = zmq.Context()
        # Plain flags: an event that a signal handler sets can hang, where the handler interrupts a wait for it.
        self._stopping = self._reload_wanted = False
        self._reload: threading.Thread | None = None
        self._exit_code = 0
        try:
            self._bind()
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def _bind(self) -> None:
        config, wake = self.config, threading.Event()
        engine = Engine(self._detectors)
        self._loop = EngineLoop(engine, wake, self._metrics, self._tell)
        self._intake = Intake(
            admission(config, self._detectors),
            config.ingest.max_backlog_s,
            self._loop.add,
            self._loop.remove,
            self._refused,
        )
        self._recorders = PrivateEndpoint(config.service.state_dir)
        self._sources = LocalSources(self._context, self._recorders.address)
        self._view = StreamView(self._intake, engine, self._sources)
        self._journal = Journal(config.service.state_dir, self.run_id, config.journal)
        self._publisher = Publisher(
            self._context, config.publish.events, self._journal, self._view.heartbeat, self._published
        )
        self._replay = Replay(self._context, config.publish.replay, self._journal)
        self._ingest = Ingest(
            self._context, config.ingest.bind, config.ingest.connect, self._recorders.address, self._intake, wake
        )
        signs = SignsOfLife(self._ingest, engine, self._loop, self._publisher, self._replay, self._view)
        self._caretaker = Caretaker(signs, self._notifier, self._metrics.mark)
        page = MetricsPage(self._metrics.registry)
        self._http = MetricsServer(
            config.metrics.host,
            config.metrics.port,
            lambda: page.render(self._view.snapshots()),
            self._caretaker.faults,
        )

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; then drain, end open events, and return the exit code.

        A thread that dies of a bug stops the daemon with exit code 1: better restarted than deaf.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        threading.excepthook = self._on_crash
        faulthandler.enable()  # a watchdog's SIGABRT, too, leaves word of where every thread was
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
        metrics.start_timestamp.set(time.time())
        for refusal in Refusal:
            metrics.rejected_blocks.labels(refusal)
        self._show_detectors(())
        self._publisher.start()
        self._replay.start()
        self._loop.start()
        self._ingest.start()
        self._use(self.config, self._detectors, self._own_streams)
        self._http.start()
        self._announce()
        self._notifier.ready()

    def _use(self, config: Config, detectors: Sequence[Detector], own: Mapping[str, str]) -> None:
        """Go over to a configuration: detectors between two steps of the engine, streams between two reads."""
        swapped = self._loop.swap(detectors)
        # First away with the sources that go, then ask who is wanted, then start those that come: none is refused.
        stay = [stream for stream in self.config.streams if stream in config.streams]
        self._intake.leaving = frozenset(s.id for s in self.config.streams) - {s.id for s in stay}
        self._sources.apply(stay)
        self._ingest.call(
            partial(self._intake.reconsider, admission(config, detectors), config.ingest.max_backlog_s, own)
        ).wait(_CHANGE_S)
        self._sources.apply(config.streams)
        self._view.own = own
        swapped.wait(_CHANGE_S)
        before, self.config, self._detectors = self._detectors, config, list(detectors)
        self._show_detectors(before)
        self._metrics.config_last_reload_successful.set(1)
        self._metrics.config_last_reload_timestamp.set(time.time())

    def _show_detectors(self, before: Sequence[Detector]) -> None:
        """Have a series for every detector, and none for those that are no more."""
        metrics = self._metrics
        names = {detector.name for detector in self._detectors}
        for detector in before:
            bundle = detector.scorer.bundle
            metrics.bundle_info.remove(detector.name, bundle.manifest.name, bundle.digest)
            if detector.name not in names:
                metrics.windows.remove(detector.name)
                metrics.windows_shed.remove(detector.name, "overload")
                metrics.inference_seconds.remove(detector.name)
        for detector in self._detectors:
            bundle = detector.scorer.bundle
            metrics.bundle_info.labels(detector.name, bundle.manifest.name, bundle.digest).set(1)
            # A counter that is there from the beginning shows its first step.
            metrics.windows.labels(detector.name)
            metrics.windows_shed.labels(detector.name, "overload")
            for notice in notices(detector) if detector not in before else ():
                LOG.warning(notice)

    def _announce(self) -> None:
        LOG.info("detectd %s, run %s", __version__, self.run_id)
        for detector in self._detectors:
            bundle = detector.scorer.bundle
            rule = f"on {detector.on:.3g}, off {detector.off:.3g}"
            watched = " ".join(detector.streams)
            kind = bundle.manifest.kind
            LOG.info("detector '%s': %s, bundle %s, %s, streams %s", detector.name, kind, bundle.ident, rule, watched)
        LOG.info("audio in: %s", " ".join(self._ingest.endpoints))
        LOG.info(
            "events out: %s; replay: %s; metrics: %s/metrics",
            self._publisher.endpoint,
            self._replay.endpoint,
            self._http.url,
        )
        LOG.info("ready; stop with Ctrl-C")

    def _watch(self) -> None:
        """Look after everything until told to stop."""
        deaf: set[str] = set()
        unwanted: dict[str, Refusal] = {}
        while not self._stopping:
            time.sleep(_TURN_S)
            self._caretaker.turn()
            self._tend_reload()
            self._log_deaf(deaf)
            self._log_unwanted(unwanted)

    def _tend_reload(self) -> None:
        """Have a reload done by a thread of its own: opening bundles takes longer than nobody may be watching."""
        if self._reload and not self._reload.is_alive():
            self._reload = None
            self._notifier.ready()
        if self._reload_wanted and self._reload is None:
            self._reload_wanted = False
            self._notifier.reloading()
            self._reload = threading.Thread(target=self._do_reload, name="reload")
            self._reload.start()

    def _log_deaf(self, known: set[str]) -> None:
        """Say which streams have a rate that none of their detectors can use."""
        deaf = {stream.id for stream in self._view.streams if stream.rejected[Refusal.RATE_TOO_LOW]}
        for stream_id in deaf - known:
            # A reload may have taken the detectors away since.
            if needed_hz := lowest_rate_hz(self._detectors, stream_id):
                LOG.warning("stream %s: refused, its detectors need at least %d samples/s", stream_id, needed_hz)
        known.clear()
        known |= deaf

    def _log_unwanted(self, known: dict[str, Refusal]) -> None:
        """Say, once, of which sources nothing is taken: their senders cannot know."""
        unwanted = dict(self._intake.unwanted)
        own = set(self._view.own.values())
        for source_id, refusal in unwanted.items():
            if known.get(source_id) != refusal and refusal is not Refusal.RATE_TOO_LOW:
                why = ": that is a source of the daemon's own" if source_id in own else ""
                LOG.warning("audio for %s is refused, %s%s", source_id, refusal, why, extra={"stream": source_id})
        known.clear()
        known |= unwanted

    def _do_reload(self) -> None:
        """Take the configuration anew; whatever is wrong with it, what runs goes on."""
        LOG.info("reloading %s", self.config.path, extra=ASKED)
        try:
            prepared = prepare(self.config, self._detectors)
        except DetectdError as error:
            LOG.error("reload refused, the former configuration runs on: %s", error, extra=ASKED)
        except Exception:  # noqa: BLE001  # a bug, and none that whoever listens should pay for
            LOG.exception("reload failed, the former configuration runs on")
        else:
            if not self._stopping:
                self._use(prepared.config, prepared.detectors, prepared.own_streams)
                LOG.info("reloaded: %s", prepared.summary, extra=ASKED)
            return
        self._metrics.config_last_reload_successful.set(0)

    def _shut_down(self) -> None:
        LOG.info("stopping")
        self._notifier.stopping()
        if self._reload:
            self._reload.join()
        self._intake.leaving = frozenset(stream.id for stream in self.config.streams)
        self._sources.stop()
        self._ingest.stop()
        self._recorders.close()
        self._loop.stop(EndReason.SHUTDOWN)
        self._publisher.stop()
        self._replay.stop()
        self._journal.close()
        self._http.stop()
        self._context.term()
        LOG.info("stopped")

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reload_wanted = True
            return
        if self._stopping:
            os._exit(1)
        self._stopping = True

    def _on_crash(self, crash: threading.ExceptHookArgs) -> None:
        name = crash.thread.name if crash.thread else "a thread"
        LOG.critical("%s died, stopping", name, exc_info=crash.exc_value)
        self._exit_code = 1
        self._stopping = True

    def _tell(self, event: Event) -> None:
        log_event(event)
        self._publisher.put(event)

    def _refused(self, refusal: Refusal) -> None:
        self._metrics.rejected_blocks.labels(refusal).inc()

    def _published(self, _event: Event | None) -> None:
        self._metrics.events_published.inc()

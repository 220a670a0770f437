"""Looks after the service: asks how it is, logs what has changed, tells the service manager and feeds its watchdog."""

import threading
import time
from collections.abc import Callable, Sequence

from detectd.monitor.health import Fault, Health, Signs, StreamSigns, Verdict
from detectd.monitor.log import LOG
from detectd.monitor.notify import Notifier

_FRESH_S = 0.2
"""A look this new answers who asks: many who ask cost no more than one."""

_BEATS_A_PERIOD = 3


class Caretaker:
    """Turned by the main thread several times a second; asked by any.

    Parameters
    ----------
    signs : callable
        Returns what is to be seen of the service at this moment; called from any thread, one at a time.
    notifier : Notifier
    mark : callable, optional
        ``mark(part, failing)`` is told of each part that has begun or ceased to fail.
    """

    def __init__(
        self,
        signs: Callable[[], Signs],
        notifier: Notifier,
        mark: Callable[[str, bool], None] = lambda _part, _is: None,
    ) -> None:
        self._signs = signs
        self._notifier = notifier
        self._mark = mark
        self._health = Health()
        self._lock = threading.Lock()
        self._seen = Signs()
        self._verdict = Verdict()
        self._looked_s = self._beat_s = float("-inf")
        self._told: dict[tuple[str, str], Fault] = {}
        self._failing: set[str] = set()
        self._up: dict[str, bool] = {}
        self._logged: Sequence[StreamSigns] = ()
        self._status = ""

    def turn(self) -> None:
        """Look, and do whatever follows from it."""
        signs, verdict = self._look()
        if signs.streams is not self._logged:
            self._log_streams(signs.streams)
            self._logged = signs.streams
        self._log_faults(verdict)
        if verdict.status != self._status:
            self._status = verdict.status
            self._notifier.status(verdict.status)
        self._notifier.flush()
        self._feed(verdict)

    def faults(self) -> list[str]:
        """Why the service is not well, as of now; none means it is."""
        return [fault.text for fault in self._look(_FRESH_S)[1].faults]

    @property
    def status(self) -> str:
        """The state in a line, as last told."""
        return self._status

    def _look(self, fresh_s: float = 0.0) -> tuple[Signs, Verdict]:
        with self._lock:
            if time.monotonic() - self._looked_s >= fresh_s:
                self._seen = self._signs()
                self._looked_s = time.monotonic()
                self._verdict = self._health.look(self._looked_s, self._seen)
            return self._seen, self._verdict

    def _feed(self, verdict: Verdict) -> None:
        period_s = self._notifier.watchdog_s
        now_s = time.monotonic()
        if period_s is None or verdict.restart or now_s - self._beat_s < period_s / _BEATS_A_PERIOD:
            return
        self._beat_s = now_s
        self._notifier.watchdog()

    def _log_streams(self, streams: Sequence[StreamSigns]) -> None:
        for stream in streams:
            if stream.up == self._up.get(stream.id, False):
                continue
            state = f"up, {stream.rate_hz} samples/s" if stream.up else "lost"
            fields = {"stream": stream.id, "state": "up" if stream.up else "lost"}
            LOG.info("stream %s: %s", stream.id, state, extra=fields)
        self._up = {stream.id: stream.up for stream in streams}

    def _log_faults(self, verdict: Verdict) -> None:
        # What ails a stream or the journal is said by who looks after it.
        faults = {(f.part, f.text): f for f in verdict.faults if f.part not in {"stream", "journal"}}
        for key in faults.keys() - self._told.keys():
            LOG.error("unwell: %s", faults[key].text, extra={"part": faults[key].part})
        for key in self._told.keys() - faults.keys():
            LOG.info("over: %s", self._told[key].text, extra={"part": self._told[key].part})
        self._told = faults
        failing = {fault.part for fault in verdict.faults}
        for part in failing ^ self._failing:
            self._mark(part, part in failing)
        self._failing = failing

"""Keeps one recorder alive: starts it, hears its reports, kills it when it is silent and starts another. No PortAudio.

A call of PortAudio can hang for ever and take its process along; from outside there is always a cure.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from detectd.capture.status import HUNG, STARTING, RecorderState, Status, Task
from detectd.config.stream_config import DeviceStream
from detectd.monitor.log import LOG

_SILENT_S = 3.0
_BEGINNING_S = 10.0
"""For its first report: a busy box starts many at once."""

_TURN_S = 0.2
_BACKOFF_S = (0.2, 0.4, 0.8, 1.0)
_PROVEN_S = 10.0
_STOP_S = 1.5
_READ_BYTES = 1 << 16
_COUNTS_TOLD_EVERY_S = 10.0
_DRIFT_TOLD_PPM = 5.0
"""A change by that much is told again."""


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """How a device's stream is; counts are those of all its recorders, in samples of each channel.

    Attributes
    ----------
    restarts : int
        Recorders that ended or were killed, and were replaced.
    """

    state: RecorderState
    reason: str
    device: str
    rate_hz: int
    channels: int
    drift_ppm: float | None
    lost_samples: int
    dropped_samples: int
    restarts: int

    @property
    def hindrance(self) -> str:
        """What is in the way of recording; empty while nothing is."""
        return "" if self.state is RecorderState.RECORDING else self.reason


class _Books(NamedTuple):
    latest: Status
    lost_before: int = 0
    dropped_before: int = 0
    restarts: int = 0

    def closed(self, reason: str) -> "_Books":
        """A recorder has ended; the next counts from 0."""
        latest = self.latest
        was_there = latest.state is not RecorderState.WAITING
        state = RecorderState.LOST if was_there else RecorderState.WAITING
        return _Books(
            replace(latest, state=state, reason=reason, lost_samples=0, dropped_samples=0),
            self.lost_before + latest.lost_samples,
            self.dropped_before + latest.dropped_samples,
            self.restarts + 1,
        )


class DeviceSupervisor:
    """Records one device for ever.

    Parameters
    ----------
    task : Task
        `DeviceSupervisor.for_stream` makes one of a stream of the configuration.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        # One value, so that whoever asks from another thread sees all of one moment.
        self._books = _Books(Status(RecorderState.WAITING, STARTING, task.device, pinned=task.pinned))
        self._told: tuple[RecorderState, str] | None = None
        self._told_losses = (0, 0)
        self._told_untaken = False
        self._told_drift_ppm: float | None = None
        self._told_losses_s = self._told_drift_s = 0.0
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"device {task.stream_id}")

    @classmethod
    def for_stream(cls, stream: DeviceStream, endpoint: str) -> "DeviceSupervisor":
        """Of a stream of the configuration, to a daemon's endpoint."""
        return cls(task_of(stream, endpoint))

    @property
    def status(self) -> DeviceStatus:
        """How it is now; from any thread."""
        latest, lost_before, dropped_before, restarts = self._books
        return DeviceStatus(
            state=latest.state,
            reason=latest.reason,
            device=latest.device,
            rate_hz=latest.rate_hz,
            channels=latest.channels,
            drift_ppm=latest.drift_ppm,
            lost_samples=lost_before + latest.lost_samples,
            dropped_samples=dropped_before + latest.dropped_samples,
            restarts=restarts,
        )

    @property
    def alive(self) -> bool:
        """Whether it was started and not stopped; it never ends by itself."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Have the recorder send the end of its stream; returns at once."""
        self._stop.set()
        with self._lock:
            if self._process and self._process.stdin:
                # A recorder ends without its input, also where this process dies.
                self._process.stdin.close()

    def stop(self) -> None:
        """Stop; waits until the recorder has ended, 2 s at most."""
        self.ask_to_stop()
        self._thread.join()

    def _run(self) -> None:
        tries = 0
        while not self._stop.is_set():
            began_s = time.monotonic()
            reason = self._supervise()
            if self._stop.is_set():
                break
            if time.monotonic() - began_s > _PROVEN_S:
                tries = 0
            self._books = self._books.closed(reason)
            self._tell()
            self._stop.wait(_BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)])
            tries += 1

    def _supervise(self) -> str:
        """Run one recorder to its end; returns why it ended."""
        with self._lock:
            if self._stop.is_set():
                return ""
            latest = self._books.latest
            was_there = latest.state is not RecorderState.WAITING
            task = replace(self.task, pinned=latest.pinned, name=latest.device if was_there else self.task.name)
            try:
                process = self._process = subprocess.Popen(  # noqa: S603  # this interpreter, no shell
                    [sys.executable, "-m", "detectd.capture.recorder", task.line()],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=_environment(),
                )
            except OSError as error:  # too many files or processes: others may end
                return f"no recorder can be started: {error}"
        try:
            return self._listen(process)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _listen(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stdout
        assert process.stderr
        out, err = process.stdout.fileno(), process.stderr.fileno()
        partial, complaint = b"", b""
        # Unlike select, of numbers above 1023 too, which a daemon of many senders has.
        poller = select.poll()
        for end in (out, err):
            poller.register(end, select.POLLIN)
        open_ends = {out, err}
        silent_s, patience_s, now_s = 0.0, _BEGINNING_S, time.monotonic()
        stop_by_s: float | None = None
        while out in open_ends:
            ready = poller.poll(_TURN_S * 1000)
            before_s, now_s = now_s, time.monotonic()
            # Where both were stopped, the time is no silence.
            silent_s += min(now_s - before_s, 2 * _TURN_S)
            for end, _ in ready:
                data = os.read(end, _READ_BYTES)
                if not data:
                    poller.unregister(end)
                    open_ends.discard(end)
                elif end == err:
                    complaint = (complaint + data)[-_READ_BYTES:]
                else:
                    silent_s, patience_s = 0.0, _SILENT_S
                    *lines, partial = (partial + data).split(b"\n")
                    for line in lines:
                        self._hear(line)
            if self._stop.is_set():
                stop_by_s = stop_by_s or now_s + _STOP_S
                if now_s > stop_by_s:
                    return "it did not stop"
            elif silent_s > patience_s:
                return f"its recorder was silent for {patience_s:g} s and was ended"
        code = process.wait()
        return self._farewell(code, complaint)

    def _farewell(self, code: int, complaint: bytes) -> str:
        said = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        if code == HUNG:
            return "the sound system does not come back; its recorder ended"
        if code == 1 and not said:
            return self._books.latest.reason
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"its recorder ended, {how}" + (f": {said}" if said else "")

    def _hear(self, line: bytes) -> None:
        with contextlib.suppress(ValueError, TypeError):
            status = Status.of(line.decode())
            if status.state is RecorderState.WAITING and self._books.latest.state is not RecorderState.WAITING:
                # To a new recorder it is; here it has been.
                status = replace(status, state=RecorderState.LOST)
            self._books = self._books._replace(latest=status)
            self._tell()

    def _tell(self) -> None:
        """Log what changed."""
        latest, stream = self._books.latest, self.task.stream_id
        if (latest.state, latest.reason) != self._told:
            self._told = (latest.state, latest.reason)
            if latest.state is RecorderState.RECORDING:
                where = f", source {latest.pinned}" if latest.pinned and latest.pinned != latest.device else ""
                note = f" ({latest.reason})" if latest.reason else ""
                LOG.info(
                    "stream %s: recording %r%s, %d samples/s, channels %d%s",
                    stream, latest.device, where, latest.rate_hz, latest.channels, note,
                    extra={"stream": stream, "state": latest.state.value},
                )  # fmt: skip
            elif latest.reason != STARTING:
                fields = {"stream": stream, "state": latest.state.value}
                LOG.warning("stream %s: %s: %s", stream, latest.state, latest.reason, extra=fields)
        if latest.untaken != self._told_untaken:
            self._told_untaken = latest.untaken
            where = self.task.endpoint
            told = "waiting for %s to take audio; is the daemon running?" if latest.untaken else "%s takes audio again"
            LOG.warning(f"stream %s: {told}", stream, where, extra={"stream": stream})  # two templates
        self._tell_counts(time.monotonic())

    def _tell_counts(self, now_s: float) -> None:
        status, stream, known_ppm = self.status, self.task.stream_id, self._told_drift_ppm
        losses = (status.lost_samples, status.dropped_samples)
        if losses != self._told_losses and now_s - self._told_losses_s > _COUNTS_TOLD_EVERY_S:
            lost, dropped = (now - told for now, told in zip(losses, self._told_losses, strict=True))
            self._told_losses, self._told_losses_s = losses, now_s
            parts = [f"{lost} samples lost by the device"] if lost else []
            if dropped:
                parts.append(f"{dropped} not sent, for want of a taker or of certainty whose they are")
            LOG.warning("stream %s: %s", stream, "; ".join(parts), extra={"stream": stream})
        drift_ppm = status.drift_ppm
        changed = drift_ppm is not None and (known_ppm is None or abs(drift_ppm - known_ppm) > _DRIFT_TOLD_PPM)
        if changed and now_s - self._told_drift_s > _COUNTS_TOLD_EVERY_S:
            self._told_drift_ppm, self._told_drift_s = drift_ppm, now_s
            LOG.info("stream %s: the device's clock is at %+.1f ppm", stream, drift_ppm, extra={"stream": stream})


def task_of(stream: DeviceStream, endpoint: str) -> Task:
    """What a stream of the configuration asks for."""
    return Task(stream.device, stream.id, endpoint, stream.rate_hz, stream.channels, stream.mix)


def _environment() -> dict[str, str]:
    """Of the recorder: this very package, wherever it was found."""
    root = str(Path(__file__).resolve().parents[2])
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{known}" if known else root}

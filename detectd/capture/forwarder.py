"""The thread behind the reading: sure of the device, it puts readings in their place and sends them."""

import secrets
import threading
import time
from dataclasses import replace

import numpy as np

from detectd.capture.ledger import Ledger, Placed, Reading
from detectd.capture.outlet import Outlet
from detectd.capture.pin import Verdict
from detectd.capture.reader import BLOCK_S, NO_AUDIO, SILENT_S, Closed, Handover, Opened, Reader, Running
from detectd.capture.status import STARTING, RecorderState, Status, Task
from detectd.dsp.audio import SampleFormat
from detectd.streams.epoch import Epoch
from detectd.streams.wire import Flag

_TURN_S = 0.1
_ANSWER_S = 0.02
_UNSURE_BLOCKS = 30
_FLUSH_S = 1.0
_ASK_EVERY_S = 0.5
_DOUBT_S = 0.3
"""What a server and PortAudio have under way; what was captured before is told by the count."""

_TIME_ERROR_S = 0.02
"""Of a capture time: what a driver and a sound card take that nobody tells."""

_DTYPES = {SampleFormat.S16: "<i2", SampleFormat.F32: "<f4"}


class Forwarder:
    """Owns the socket, the books and the pin; used by its own thread only, `status` aside."""

    def __init__(self, task: Task, outlet: Outlet, handover: Handover, reader: Reader, running: Running) -> None:
        self.status = Status(RecorderState.WAITING, STARTING, task.name or task.device, pinned=task.pinned)
        self._task = task
        self._outlet = outlet
        self._handover = handover
        self._reader = reader
        self._running = running
        self._opened: Opened | None = None
        self._ledger: Ledger | None = None
        self._epoch: Epoch | None = None
        self._end_sample = 0
        self._unsure: list[Reading] = []
        self._n_asked = 0
        self._asked_s = self._heard_s = 0.0
        self._doubtful_until_s = 0.0
        self._drift_ppm: float | None = None
        self._lost_samples = self._withheld_samples = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="forwarder", daemon=True)

    @property
    def _absent(self) -> RecorderState:
        return RecorderState.WAITING if self.status.state is RecorderState.WAITING else RecorderState.LOST

    @property
    def alive(self) -> bool:
        """Whether it goes on; without it nothing is sent."""
        return self._thread.is_alive()

    @property
    def opened(self) -> bool:
        """Whether there is a stream, whatever it gives."""
        return self._opened is not None

    @property
    def unwatched(self) -> bool:
        """Whether a device is open that no sound server stands in front of: one that always gives something."""
        opened = self._opened
        return opened is not None and opened.pin is None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Send what is sure and the end of the stream; waits, a second at most."""
        self._stop.set()
        self._thread.join(2 * _FLUSH_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._turn(_TURN_S)
        self._turn(0.0)
        self._end_epoch()
        until_s = time.monotonic() + _FLUSH_S
        while not self._outlet.empty and time.monotonic() < until_s:
            self._outlet.flush()
            time.sleep(0.01)
        self._outlet.close()

    def _turn(self, timeout_s: float) -> None:
        items = self._handover.take(timeout_s)
        self._running.tick()
        for item in items:
            if isinstance(item, Reading):
                self._unsure.append(item)
            elif isinstance(item, Opened):
                self._begin(item)
            else:
                self._close(item)
        self._confirm()
        patience_s = SILENT_S if self._epoch else 2 * SILENT_S
        if self._opened and self._running.seconds - self._heard_s > patience_s:
            self._end_epoch()
            self._set(self._absent, NO_AUDIO)
        self._outlet.flush()
        self._count()

    def _begin(self, opened: Opened) -> None:
        self._opened = opened
        self._unsure.clear()
        self._n_asked = 0
        self._doubtful_until_s = 0.0
        # Of the silence before, which was reported already.
        self._heard_s = self._running.seconds

    def _close(self, closed: Closed) -> None:
        self._confirm()
        self._withhold(len(self._unsure))
        self._end_epoch()
        if self._opened and self._opened.pin:
            self._opened.pin.close()
        self._opened = None
        self._set(self._absent, closed.reason)

    def _confirm(self) -> None:
        """Let go what is sure to be of the right device."""
        if self._opened is None:
            return
        pin = self._opened.pin
        if pin is None:
            self._release(len(self._unsure))
            return
        # A device that gives nothing may be another one, too.
        while self._unsure or pin.asked or self._running.seconds - self._asked_s > _ASK_EVERY_S:
            if not pin.asked:
                pin.ask()
                self._asked_s = self._running.seconds
                self._n_asked = len(self._unsure)
            verdict = pin.verdict(_ANSWER_S)
            if verdict is None:
                break
            if verdict is Verdict.GOOD:
                self._release(self._n_asked)
            elif verdict is Verdict.DOUBTFUL:
                self._doubtful_until_s = time.monotonic() + _DOUBT_S
                self._withhold(len(self._unsure))
            else:
                self._withhold(len(self._unsure))
                gone = verdict is Verdict.GONE
                reason = "the sound server ended it" if gone else "the sound server moved it to another device"
                self._leave(f"device {self._opened.name!r}: {reason}")
                return
        if len(self._unsure) > _UNSURE_BLOCKS:
            self._withhold(len(self._unsure) - _UNSURE_BLOCKS)

    def _leave(self, reason: str) -> None:
        assert self._opened
        self._reader.reject(reason)
        self._end_epoch()
        if self._opened.pin:
            self._opened.pin.close()
        self._opened = None
        self._set(RecorderState.LOST, reason)

    def _withhold(self, n_readings: int) -> None:
        """Drop readings that may be another device's."""
        for reading in self._unsure[:n_readings]:
            self._leave_out(reading)
        del self._unsure[:n_readings]
        self._n_asked = max(0, self._n_asked - n_readings)

    def _leave_out(self, reading: Reading) -> None:
        """Have the books go on with a hole."""
        self._withheld_samples += reading.n_frames
        if self._ledger and self._epoch:
            for placed in self._ledger.skip(reading):
                self._send(placed)

    def _is_doubtful(self, reading: Reading) -> bool:
        """Whether a reading began to be captured while the stream may have been elsewhere."""
        captured_s = reading.at_s - BLOCK_S
        if self._ledger:
            # What has waited in a buffer is older than its reading.
            captured_s = min(captured_s, self._ledger.captured_s(reading.at_s))
        return captured_s < self._doubtful_until_s

    def _release(self, n_readings: int) -> None:
        for reading in self._unsure[:n_readings]:
            if self._is_doubtful(reading):
                self._leave_out(reading)
                continue
            self._heard_s = self._running.seconds
            if self._ledger is None or self._epoch is None:
                self._begin_epoch()
                reading = replace(reading, broken=False)  # noqa: PLW2901  # nothing is before the first
            assert self._ledger
            for placed in self._ledger.take(reading):
                self._send(placed)
        del self._unsure[:n_readings]
        self._n_asked = 0

    def _begin_epoch(self) -> None:
        opened = self._opened
        assert opened
        channels = 1 if self._task.mix else opened.channels
        self._epoch = Epoch(self._task.stream_id, opened.rate_hz, channels, opened.sample_format, secrets.randbits(64))
        self._ledger = Ledger(opened.rate_hz, self._drift_ppm)
        self._end_sample = 0
        self._set(RecorderState.RECORDING, opened.note)

    def _end_epoch(self) -> None:
        if self._epoch is None or self._ledger is None:
            return
        for placed in self._ledger.flush():
            self._send(placed)
        self._outlet.put(self._epoch.end(self._end_sample), 0, 0.0)
        self._lost_samples += self._ledger.lost_samples
        self._epoch = self._ledger = None

    def _send(self, placed: Placed) -> None:
        assert self._epoch
        assert self._ledger
        reading, first_sample, discontinuity = placed
        clock = self._ledger.clock
        captured_s = clock.captured_s(first_sample, reading.at_s)
        message = self._epoch.block(
            self._mixed(reading.payload),
            first_sample,
            flags=Flag.DISCONTINUITY if discontinuity else 0,
            t_first_utc_ns=round(captured_s * 1e9) + reading.utc_offset_ns,
            t_err_ns=round((_TIME_ERROR_S + clock.spread_s) * 1e9),
        )
        self._end_sample = first_sample + reading.n_frames
        self._outlet.put(message, reading.n_frames, BLOCK_S)

    def _mixed(self, payload: bytes) -> bytes:
        assert self._opened
        if not self._task.mix or self._opened.channels == 1:
            return payload
        dtype = _DTYPES[self._opened.sample_format]
        mean = np.frombuffer(payload, dtype).reshape(-1, self._opened.channels).mean(axis=1, dtype=np.float64)
        mixed: bytes = (np.rint(mean) if dtype == "<i2" else mean).astype(dtype).tobytes()
        return mixed

    def _set(self, state: RecorderState, reason: str) -> None:
        self.status = replace(self.status, state=state, reason=reason)

    def _count(self) -> None:
        lost = self._lost_samples
        if self._ledger:
            lost += self._ledger.lost_samples
            self._drift_ppm = self._ledger.clock.drift_ppm or self._drift_ppm
        opened = self._opened
        self.status = replace(
            self.status,
            device=opened.name if opened else self.status.device,
            rate_hz=opened.rate_hz if opened else self.status.rate_hz,
            channels=opened.channels if opened else self.status.channels,
            drift_ppm=None if self._drift_ppm is None else round(self._drift_ppm, 1),
            lost_samples=lost,
            dropped_samples=self._outlet.dropped_samples + self._withheld_samples + self._handover.dropped_frames,
            pinned=self._reader.pinned,
            untaken=self._outlet.stuck,
        )

"""The process that records one device: `python -m detectd.capture.recorder TASK`, started by its supervisor.

Says on stdout how it is, as lines of JSON. Ends when its stdin is closed: whoever started it wants that, or has died.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from dataclasses import replace

from detectd.capture.forwarder import Forwarder
from detectd.capture.opener import Opener
from detectd.capture.outlet import Outlet
from detectd.capture.pin import sign_streams
from detectd.capture.portaudio import load, quiet
from detectd.capture.reader import Handover, Reader, Running
from detectd.capture.status import BUG, HUNG, RecorderState, Status, Task
from detectd.errors import DetectdError

_TURN_S = 0.1
_REPORT_S = 0.5
_SLOW_CALL_S = 1.0
_REJECTED_S = 1.5
_HARDWARE_S = 4.0
_HOPELESS_S = 60.0
_END_S = 2.5


class Recorder:
    """The parts of a recorder, and a loop that reports and watches over them."""

    def __init__(self, task: Task, mark: str) -> None:
        self._running = Running()
        handover = Handover()
        self._reader = Reader(Opener(task, mark), handover, self._running)
        self._forwarder = Forwarder(task, Outlet(task.endpoint), handover, self._reader, self._running)
        self._rejected_s = 0.0

    def run(self) -> int:
        """Record until stdin closes; returns the exit code."""
        self._reader.start()
        self._forwarder.start()
        reported: Status | None = None
        due_s = 0.0
        exit_code = 0
        while not select.select([0], [], [], _TURN_S)[0]:
            now_s = time.monotonic()
            status = self._status()
            if now_s >= due_s or reported is None or (status.state, status.reason) != (reported.state, reported.reason):
                _say(status)
                reported, due_s = status, now_s + _REPORT_S
            if self._hangs():
                exit_code = HUNG
                break
            if not (self._reader.alive and self._forwarder.alive):
                # Of a bug, which has been said; its successor records.
                exit_code = BUG
                break
        self._reader.stop()
        self._forwarder.stop()
        return exit_code

    def _status(self) -> Status:
        status = self._forwarder.status
        if not self._forwarder.opened and self._calling_s() > _SLOW_CALL_S:
            return replace(status, reason="the sound system does not answer")
        return status

    def _calling_s(self) -> float:
        since_s = self._reader.calling_since_s
        return 0.0 if since_s is None else self._running.seconds - since_s

    def _hangs(self) -> bool:
        """Whether a call of PortAudio will not return any more."""
        if not self._reader.rejected:
            self._rejected_s = self._running.seconds
        elif self._running.seconds - self._rejected_s > _REJECTED_S:
            return True
        return self._calling_s() > (_HARDWARE_S if self._forwarder.unwatched else _HOPELESS_S)


def _say(status: Status) -> None:
    # A supervisor that does not read is no reason to stand still.
    with contextlib.suppress(BlockingIOError):
        os.write(1, status.line().encode() + b"\n")


def _end_with_parent() -> None:
    """End the process some time after its stdin is closed, whatever it hangs in."""
    select.select([0], [], [])
    time.sleep(_END_S)
    os._exit(HUNG)


def main() -> int:
    """Run the recorder that the only argument describes."""
    threading.Thread(target=_end_with_parent, name="end", daemon=True).start()
    task = Task.of(sys.argv[1])
    os.set_blocking(1, False)
    # A terminal and a service manager signal all processes at once; the supervisor says when it is time to stop.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    mark = sign_streams()
    with quiet():
        try:
            load()
            recorder = Recorder(task, mark)
        except DetectdError as error:
            _say(Status(RecorderState.WAITING, str(error), task.name or task.device, pinned=task.pinned))
            return 1
        try:
            exit_code = recorder.run()
        except BrokenPipeError:
            exit_code = 0
    # A call of PortAudio may never return, and would keep the process.
    os._exit(exit_code)


if __name__ == "__main__":
    sys.exit(main())

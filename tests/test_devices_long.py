"""Minutes of trouble, drawn at random, for four virtual microphones: what holds once must hold always."""

import contextlib
import os
import signal
import subprocess
import time

import numpy as np
import pytest
from captured import CaptureProcess, Receiver, check_headers, check_order, check_origin, heard, n_samples
from counter_audio import coded_sound
from daemon_process import until
from sound_server import PipeMicrophone, SoundServer, require_sound_server

pytestmark = pytest.mark.slow

RATE_HZ = 16_000
TROUBLES = 40
LASTS_S = (0.05, 4.0)
BETWEEN_S = (0.5, 4.0)
# When all is well again; the server may have been away a moment before.
BACK_S = 3.0


class Trouble:
    """What can be done to a server, its microphones and those who record them; each comes to an end."""

    def __init__(self, server, mics, captures, rng):
        self.server, self.mics, self.captures, self._rng = server, mics, captures, rng
        self.doings = [self.unplug] * 4 + [self.silence] * 3 + [self.stall] * 3 + [self.move] * 2
        self.doings += [self.kill_recorder, self.stop_server, self.kill_server]

    def do(self, index):
        microphone = self.mics[index % len(self.mics)]
        self.doings[self._rng.integers(len(self.doings))](microphone, self._rng.uniform(*LASTS_S))

    def unplug(self, microphone, lasts_s):
        microphone.unplug()
        time.sleep(lasts_s)
        microphone.plug()

    def silence(self, microphone, lasts_s):
        microphone.silent = True
        time.sleep(lasts_s)
        microphone.silent = False

    def stall(self, microphone, lasts_s):
        with contextlib.suppress(ProcessLookupError, ValueError):  # it may be between two recorders
            recorder = self.captures[microphone.name].recorder
            os.kill(recorder, signal.SIGSTOP)
            time.sleep(lasts_s)
            os.kill(recorder, signal.SIGCONT)

    def move(self, microphone, lasts_s):
        (other, *_) = (other for other in self.mics if other is not microphone)
        with contextlib.suppress(ValueError, subprocess.CalledProcessError):  # nobody records it just now
            self.server.move(self.captures[microphone.name].recorder, other.name)

    def kill_recorder(self, microphone, lasts_s):
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(self.captures[microphone.name].recorder, signal.SIGKILL)

    def stop_server(self, microphone, lasts_s):
        self.server.stop()
        time.sleep(lasts_s)
        self.server.go_on()

    def kill_server(self, microphone, lasts_s):
        self.server.kill()
        time.sleep(lasts_s)
        self.server.start()


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_comes_no_sample_is_wrong_and_all_come_back(seed):
    require_sound_server()
    rng = np.random.default_rng(seed)
    mics = [PipeMicrophone(f"mic-{number}", coded_sound(number), RATE_HZ) for number in range(1, 5)]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(SoundServer(*mics))
        receiver = stack.enter_context(Receiver())
        captures = {m.name: CaptureProcess(server, m.name, m.name, receiver.endpoint, "--rate", RATE_HZ) for m in mics}
        for capture in captures.values():
            stack.callback(capture.end)
        for microphone in mics:
            receiver.wait_for(microphone.name, 5, timeout_s=60)
        trouble = Trouble(server, mics, captures, rng)
        for index in range(TROUBLES):
            trouble.do(index)
            time.sleep(rng.uniform(*BETWEEN_S))
        time.sleep(BACK_S)
        counts = {m.name: len(receiver.arrived[m.name]) for m in mics}
        assert until(lambda: all(len(receiver.arrived[name]) > count for name, count in counts.items()), 1)
    for number, microphone in enumerate(mics, start=1):
        blocks = receiver.arrived[microphone.name]
        runs = heard(blocks)
        check_headers(blocks)
        check_origin(runs, number, n_samples(blocks))
        check_order(runs, RATE_HZ)
        assert "Traceback" not in captures[microphone.name].stderr

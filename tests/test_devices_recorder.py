"""A recorder and its supervisor as processes: whatever one of them meets, there is one recorder, and none too many."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from captured import CaptureProcess, Receiver, alive, children
from daemon_process import REPOSITORY, config, until
from sound_server import PipeMicrophone, SoundServer, noise_of, require_sound_server

from detectd.capture.status import BUG, Task
from detectd.capture.supervisor import DeviceSupervisor

RATE_HZ = 16_000
FROZEN_S = 4.0
ANSWER_S = 30
CYCLES = 8


@pytest.fixture
def server():
    require_sound_server()
    yard = PipeMicrophone("yard", noise_of(1), RATE_HZ)
    with SoundServer(yard) as running:
        running.yard = yard
        yield running


@pytest.fixture
def receiver():
    with Receiver() as running:
        yield running


@pytest.fixture
def capture(server, receiver):
    process = CaptureProcess(server, "yard", "yard", receiver.endpoint, "--rate", RATE_HZ)
    yield process
    process.end()


def detectd(server, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "detectd", *arguments],
        env={**server.environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=ANSWER_S,
    )


def inventory(pid):
    """How many file descriptors and threads a process has."""
    return [len(list(Path(f"/proc/{pid}/{kind}").iterdir())) for kind in ("fd", "task")]


def test_nothing_is_left_over_after_many_unplugs(server, receiver, capture):
    receiver.wait_for("yard", 5, timeout_s=60)
    recorder, counts = capture.recorder, []
    for _ in range(CYCLES):
        server.yard.unplug()
        assert until(lambda: receiver.arrived["yard"][-1].ends, 10)
        n = len(receiver.arrived["yard"])
        server.yard.plug()
        receiver.wait_for("yard", n + 3)
        counts.append((inventory(recorder), inventory(capture.pid)))
    assert capture.recorder == recorder
    assert counts[-1] == counts[1]


def test_a_recorder_that_hangs_before_it_has_begun_ends_with_its_parent(server, capture):
    server.stop()  # PortAudio waits for it, in a call of which nothing returns
    recorder = capture.recorder
    time.sleep(1)
    capture.kill()
    assert until(lambda: not alive(recorder), 5)


def test_a_recorder_sends_the_end_of_its_stream_when_its_parent_is_killed(receiver, capture):
    receiver.wait_for("yard", 5, timeout_s=60)
    recorder = capture.recorder
    capture.kill()
    assert until(lambda: not alive(recorder), 5)
    assert until(lambda: receiver.arrived["yard"][-1].ends, 5)


def test_a_recorder_that_is_silent_is_killed_and_replaced(receiver, capture):
    receiver.wait_for("yard", 5, timeout_s=60)
    recorder = capture.recorder
    os.kill(recorder, signal.SIGSTOP)
    # Never two of them: the one is gone before the other is there.
    assert until(lambda: children(capture.pid) not in ([], [recorder]), 10)
    assert not alive(recorder)
    n = len(receiver.arrived["yard"])
    receiver.wait_for("yard", n + 5)


def test_a_recorder_ends_when_a_part_of_it_has_died(server, receiver):
    # A name that is none is the end of the thread that sends.
    task = Task("yard", None, receiver.endpoint, RATE_HZ, None, mix=False)
    process = subprocess.Popen(
        [sys.executable, "-m", "detectd.capture.recorder", task.line()],
        env={**server.environment, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.wait(ANSWER_S) == BUG
            assert "Traceback" in process.stderr.read()
        finally:
            process.kill()


def test_what_is_frozen_as_a_whole_goes_on_as_it_was(receiver, capture):
    receiver.wait_for("yard", 5, timeout_s=60)
    recorder = capture.recorder
    for pid in (recorder, capture.pid):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(FROZEN_S)
    os.kill(capture.pid, signal.SIGCONT)
    time.sleep(0.3)
    os.kill(recorder, signal.SIGCONT)
    n = len(receiver.arrived["yard"])
    receiver.wait_for("yard", n + 10)
    assert capture.recorder == recorder


def test_a_recorder_that_cannot_be_started_is_tried_again(server, receiver):
    supervisor = DeviceSupervisor(Task("nobody", "yard", receiver.endpoint, RATE_HZ, None, mix=False))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = children(os.getpid())
    with Path(os.devnull).open() as lowest:
        n_open = lowest.fileno()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (n_open, hard))
        supervisor.start()
        assert until(lambda: "no recorder can be started" in supervisor.status.hindrance, 10)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        assert until(lambda: "no input device 'nobody'" in supervisor.status.hindrance, ANSWER_S)
    finally:
        supervisor.stop()
    assert children(os.getpid()) == others


def test_while_the_server_stands_still_devices_and_check_say_so(server, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(config(f'[[stream]]\nid = "yard"\nsource = "device"\ndevice = "yard"\nrate_hz = {RATE_HZ}\n'))
    server.stop()
    devices, check = detectd(server, "devices"), detectd(server, "check", "--config", str(path), "--json")
    assert (devices.returncode, devices.stdout) == (1, "")
    (line,) = devices.stderr.splitlines()
    assert "sound server does not answer" in line
    assert check.returncode == 0
    assert [notice for notice in json.loads(check.stdout)["notices"] if "sound server does not answer" in notice]

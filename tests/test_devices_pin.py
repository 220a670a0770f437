"""The pin: a recorder is held to its microphone, whatever the sound server does with its stream, and does not hang in
one that gives nothing.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import time

import pytest
from captured import CaptureProcess, Receiver, alive, check_headers, check_order, check_origin, heard, n_samples
from counter_audio import coded_sound
from daemon_process import until
from sound_server import PipeMicrophone, SoundServer, require_sound_server

from detectd.capture.pin import NotShownError, Pin, UnpinnableError, Verdict
from detectd.capture.pulse import PulseServer

RATE_HZ = 16_000
ANSWER_S = 5.0
MOVES = 12
LOST_S = BACK_S = 2.0
SLACK_S = 0.5
STOPPED_S = 2.0


@pytest.fixture
def server(request):
    """Two microphones, `yard` and `barn`; with a true parameter `barn` has never given anything."""
    require_sound_server()
    yard, barn = (PipeMicrophone(name, coded_sound(k), RATE_HZ) for k, name in enumerate(("yard", "barn"), start=1))
    barn.silent = getattr(request, "param", False)
    with SoundServer(yard, barn) as running:
        running.yard, running.barn = yard, barn
        yield running


@pytest.fixture
def receiver():
    with Receiver() as running:
        yield running


@pytest.fixture
def capture(server, receiver):
    """A capture of `yard` that has begun."""
    process = CaptureProcess(server, "yard", "yard", receiver.endpoint, "--rate", RATE_HZ)
    try:
        receiver.wait_for("yard", 5, timeout_s=60)
        yield process
    finally:
        process.end()


@contextlib.contextmanager
def recording(server, mark):
    """A stream on `yard` that bears a mark; yields its number."""
    command = ["parec", "--device=yard", f"--property=detectd.recorder={mark}"]
    process = subprocess.Popen(command, env=server.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield number_of(process.pid, server)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def connected(server, monkeypatch):
    for key in ("PULSE_SERVER", "PULSE_RUNTIME_PATH"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", server.environment["XDG_RUNTIME_DIR"])
    connection = PulseServer(ANSWER_S)
    with contextlib.closing(connection):
        yield connection


def number_of(recorder, server):
    """Of the stream that a recorder has on `yard`; waits for it."""
    assert until(lambda: recorder in [pid for _, pid in server.recordings_of("yard")], 10)
    return next(number for number, pid in server.recordings_of("yard") if pid == recorder)


def verdict(pin):
    pin.ask()
    return pin.verdict(ANSWER_S)


def take(server, number, *microphones):
    for name in microphones:
        # Who has been seen elsewhere may have gone before he is taken back.
        server.pactl("move-source-output", str(number), name, check=False)


def test_a_verdict_says_where_the_stream_is_and_whether_it_has_been_elsewhere(server, monkeypatch):
    mark = secrets.token_hex(8)
    with connected(server, monkeypatch) as connection, recording(server, mark) as number:
        pin = Pin(connection, mark)
        assert (pin.source.name, pin.source.rate_hz, pin.source.channels) == ("yard", RATE_HZ, 1)
        assert verdict(pin) is Verdict.GOOD
        take(server, number, "barn", "yard")
        assert [verdict(pin), verdict(pin)] == [Verdict.DOUBTFUL, Verdict.GOOD]
        take(server, number, "barn")
        assert verdict(pin) is Verdict.MOVED
        server.unplug("barn")
        server.unplug("yard")
        assert verdict(pin) is Verdict.GONE


def test_a_server_that_has_died_is_a_verdict_too(server, monkeypatch):
    mark = secrets.token_hex(8)
    with connected(server, monkeypatch) as connection, recording(server, mark):
        pin = Pin(connection, mark)
        server.kill()
        assert verdict(pin) is Verdict.GONE


def test_a_stream_that_cannot_be_told_apart_is_not_taken_for_one_of_no_server(server, monkeypatch):
    mark = secrets.token_hex(8)
    with connected(server, monkeypatch) as connection:
        with pytest.raises(NotShownError):
            Pin(connection, mark)
        with recording(server, mark), recording(server, mark), pytest.raises(UnpinnableError, match="2 streams") as two:
            Pin(connection, mark)
        assert not isinstance(two.value, NotShownError)


def test_not_a_sample_is_sent_of_a_microphone_the_stream_was_on_for_a_moment(server, receiver, capture):
    recorder = capture.recorder
    for k in range(MOVES):
        take(server, number_of(recorder, server), "barn", "yard")
        time.sleep(0.4 + 0.1 * (k / MOVES))
    # Now in the dark: all that happened meanwhile waits in the server.
    number = number_of(recorder, server)
    os.kill(recorder, signal.SIGSTOP)
    take(server, number, "barn")
    time.sleep(STOPPED_S / 2)
    take(server, number, "yard")
    time.sleep(STOPPED_S / 2)
    os.kill(recorder, signal.SIGCONT)
    continued = len(receiver.arrived["yard"])
    receiver.wait_for("yard", continued + 10)
    assert capture.recorder == recorder
    blocks = list(receiver.arrived["yard"])
    check_headers(blocks)
    check_origin(heard(blocks), 1, n_samples(blocks))
    check_order(heard(blocks), RATE_HZ)


@pytest.mark.parametrize("server", [True], indirect=True)
def test_a_microphone_that_gives_nothing_holds_nobody_who_was_taken_there(server, receiver, capture):
    # A read of it never returns: whoever hangs there is replaced before the microphone comes back.
    recorder = capture.recorder
    unplugged_s = time.monotonic()
    server.yard.unplug()
    assert until(lambda: receiver.arrived["yard"][-1].ends, LOST_S + SLACK_S)
    assert receiver.arrived["yard"][-1].at_s - unplugged_s <= LOST_S + SLACK_S
    assert until(lambda: not server.recordings_of("barn") and not alive(recorder), 10)
    n, plugged_s = len(receiver.arrived["yard"]), time.monotonic()
    server.yard.plug()
    receiver.wait_for("yard", n + 1)
    assert receiver.arrived["yard"][n].at_s - plugged_s <= BACK_S + SLACK_S
    runs = heard(receiver.arrived["yard"])
    check_origin(runs, 1, n_samples(receiver.arrived["yard"]))
    assert len({run.epoch for run in runs}) == 2

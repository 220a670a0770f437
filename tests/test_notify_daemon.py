"""The service manager's view of a real daemon: a socket that plays systemd's, and what the daemon says on it."""

import itertools
import json
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from daemon_process import config, running, until
from notify_socket import ManagerSocket
from plain_wire import END, Push, Source

WATCHDOG_S = 1.5
TRUTH_S = 2.0
SILENCE_S = 2.0
SLACK_S = 0.5  # of the test's own looking, on a busy machine
OWN_AND_ANY = '[[stream]]\nid = "own"\nsource = "synthetic"\n[[stream]]\nid = "*"\nsource = "zmq"\n'
FAULTY = [sys.executable, Path(__file__).parent / "faulty_daemon.py"]


class Managed:
    """A daemon with a manager's socket, its faults at will."""

    def __init__(self, daemon, manager, fault, path):
        self.daemon, self.manager, self._fault, self.path = daemon, manager, fault, path

    def fault(self, name):
        """Let a thread hang, or none."""
        if name:
            self._fault.write_text(name)
        else:
            self._fault.unlink(missing_ok=True)

    def health(self):
        """Status code and reasons."""
        try:
            with urllib.request.urlopen(self.daemon.metrics.replace("/metrics", "/healthz"), timeout=5) as answer:
                return answer.status, json.load(answer)["reasons"]
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)["reasons"]

    def told_within(self, condition, timeout_s=20):
        """Seconds until a condition holds."""
        began_s = time.monotonic()
        assert until(condition, timeout_s), (self.manager.status, self.health())
        return time.monotonic() - began_s


@pytest.fixture(scope="module")
def managed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("managed")
    with ManagerSocket(folder / "notify") as manager:
        variables = {**manager.environment(WATCHDOG_S), "DETECTD_TEST_FAULT": str(folder / "fault")}
        with running(folder, config(OWN_AND_ANY), prefix=FAULTY, variables=variables) as daemon:
            manager.wait_for("READY")
            yield Managed(daemon, manager, folder / "fault", folder / "config.toml")


@pytest.fixture
def well(managed):
    """The same, and nothing wrong with it."""
    managed.fault("")
    assert until(lambda: managed.health()[0] == 200), managed.health()
    assert until(lambda: "1 of " in managed.manager.status or "2 of " in managed.manager.status)
    return managed


def test_ready_is_said_when_every_socket_is_bound_and_answers(tmp_path):
    ports = []
    for _ in range(4):
        with socket.create_server(("127.0.0.1", 0)) as server:
            ports.append(server.getsockname()[1])
    text = config(OWN_AND_ANY)
    for port in ports:
        text = text.replace("127.0.0.1:0", f"127.0.0.1:{port}", 1)
    with ManagerSocket(tmp_path / "notify") as manager:
        variables = manager.environment()
        refused = []

        def look(message):
            for port in ports if "READY" in message else ():
                try:
                    socket.create_connection(("127.0.0.1", port), 5).close()
                except OSError:
                    refused.append(port)

        manager.on_message = look
        with running(tmp_path, text, variables=variables):
            manager.wait_for("READY")
        assert refused == []
        with socket.create_server(("127.0.0.1", ports[0])):
            n_ready = len(manager.times("READY"))
            with pytest.raises(AssertionError, match="in use"), running(tmp_path, text, variables=variables):
                pass
            assert len(manager.times("READY")) == n_ready


def test_the_truth_of_a_stream_that_comes_and_goes(well):
    manager = well.manager
    with Push(well.daemon.ingest) as push:
        source = Source("far")
        push.send(source.next(np.zeros(800)))
        assert well.told_within(lambda: manager.status.startswith("2 of 2 streams up; ")) <= TRUTH_S + SLACK_S
        push.send(source.next(np.zeros(800), END))
        gone = "1 of 2 streams up; down: far; "
        assert well.told_within(lambda: manager.status.startswith(gone)) <= TRUTH_S + SLACK_S
        assert well.health() == (200, []), "who stops sending may do so"
        source.begin()
        push.send(source.next(np.zeros(800)))
        assert well.told_within(lambda: manager.status.startswith("2 of 2 streams up; ")) <= TRUTH_S + SLACK_S
        # Without a word it is down after 2 s of silence; that is the truth, and is told in time.
        assert well.told_within(lambda: manager.status.startswith(gone)) <= SILENCE_S + TRUTH_S + SLACK_S
        assert well.daemon.scrape().value("detectd_stream_up", stream="far") == 0


def test_beats_come_at_the_pace_that_was_asked_for(well):
    began_s = time.monotonic()
    assert well.manager.wait(lambda: sum(at_s > began_s for at_s in well.manager.times("WATCHDOG")) >= 7)
    times = [at_s for at_s in well.manager.times("WATCHDOG") if at_s > began_s]
    gaps_s = sorted(after - before for before, after in itertools.pairwise(times))
    assert WATCHDOG_S / 3 - 0.1 <= gaps_s[len(gaps_s) // 2] <= WATCHDOG_S / 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("engine", "the engine thread stands still"),
        ("ingest", "the ingest thread stands still"),
        ("publisher", "the publisher thread stands still"),
        ("audio", "audio is waiting and none is analysed"),
    ],
    ids=["engine", "ingest", "publisher", "audio"],
)
def test_what_hangs_is_told_and_the_watchdog_starves(well, fault, reason):
    manager = well.manager
    with Push(well.daemon.ingest) as push:
        # Every thread has something to do: a hang shows where work arrives.
        source = Source("far")
        push.send(source.next(np.zeros(800)))
        well.fault(fault)
        began_s = time.monotonic()
        seen = well.told_within(lambda: reason in well.health()[1])
        # Within 2 s of the fault; the publisher meets it at its next heartbeat only, up to a second later.
        assert seen <= TRUTH_S + SLACK_S + (fault == "publisher")
        assert until(lambda: reason in manager.status, 1)
        assert well.daemon.scrape().value("detectd_fault", part=fault) == 1
        assert well.health()[0] == 503
        told_s = time.monotonic()
        time.sleep(2 * WATCHDOG_S)
        assert [at_s for at_s in manager.times("WATCHDOG") if at_s > told_s] == []
    well.fault("")
    assert until(lambda: well.health() == (200, []), 5)
    assert until(lambda: [at_s for at_s in manager.times("WATCHDOG") if at_s > told_s], 5)
    assert until(lambda: f"unwell: {reason}" in well.daemon.stderr, 5)
    assert until(lambda: f"over: {reason}" in well.daemon.stderr, 5)
    assert began_s < told_s


def test_a_process_that_was_stopped_for_a_while_was_not_stuck(well):
    n_before = len(well.manager.messages)
    well.daemon.signal(signal.SIGSTOP)
    time.sleep(4)
    well.daemon.signal(signal.SIGCONT)
    end_s = time.monotonic() + 2
    while time.monotonic() < end_s:
        reasons = [reason for reason in well.health()[1] if "stands still" in reason or "waiting" in reason]
        assert reasons == []
        time.sleep(0.05)
    assert not [message for _, message in well.manager.messages[n_before:] if "still" in message.get("STATUS", "")]


@pytest.mark.parametrize("good", [True, False], ids=["good", "bad"])
def test_a_reload_is_announced_and_its_end_too(well, good):
    manager, text = well.manager, well.path.read_text()
    n_ready, n_reloading = len(manager.times("READY")), len(manager.times("RELOADING"))
    before_us = time.monotonic_ns() // 1000
    well.path.write_text(text if good else text + "nonsense = 1\n")
    try:
        well.daemon.signal(signal.SIGHUP)
        reloading_s = manager.wait_for("RELOADING", n=n_reloading + 1, timeout_s=10)
        ready_s = manager.wait_for("READY", n=n_ready + 1)
        assert reloading_s <= ready_s
        (message,) = [message for at_s, message in manager.messages if at_s == reloading_s]
        assert before_us <= int(message["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert until(lambda: well.daemon.scrape().value("detectd_config_last_reload_successful") == good)
        assert well.health() == (200, [])
    finally:
        well.path.write_text(text)
        if not good:
            well.daemon.signal(signal.SIGHUP)
            manager.wait_for("READY", n=n_ready + 2)


def test_stopping_is_said_before_the_end(tmp_path):
    with ManagerSocket(tmp_path / "notify") as manager:
        with running(tmp_path, config(OWN_AND_ANY), variables=manager.environment()) as daemon:
            manager.wait_for("READY")
            assert manager.times("STOPPING") == []
            code, _ = daemon.terminate()
            gone_s = time.monotonic()
        assert code == 0
        assert manager.wait_for("STOPPING") < gone_s
        words = [next(iter(message)) for _, message in manager.messages]
        assert words[-1] in {"STOPPING", "STATUS"}
        assert "WATCHDOG" not in words, "nobody asked for beats"

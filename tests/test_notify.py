"""What the service manager is told, on real sockets."""

import os
import socket
import subprocess
import sys
import time

import pytest
from daemon_process import ENVIRONMENT, until
from notify_socket import ManagerSocket

from detectd.monitor.notify import Notifier

NAMES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    address = tmp_path / "notify" if request.param == "path" else f"@detectd-test-{os.getpid()}"
    with ManagerSocket(address) as listening:
        yield listening


def said(manager, n):
    """The first n messages, in order."""
    assert manager.wait(lambda: len(manager.messages) >= n), manager.messages
    return [message for _, message in manager.messages[:n]]


def test_every_word_of_a_service_life(manager):
    notifier = Notifier(manager.address, watchdog_s=1)
    before_us = time.monotonic_ns() // 1000
    notifier.ready()
    notifier.status("3 of 4 streams up")
    notifier.watchdog()
    notifier.reloading()
    notifier.ready("as before")
    notifier.stopping()
    ready, status, beat, reloading, again, stopping = said(manager, 6)
    assert ready == {"READY": "1"}
    assert status == {"STATUS": "3 of 4 streams up"}
    assert beat == {"WATCHDOG": "1"}
    assert reloading["RELOADING"] == "1"
    assert before_us <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert again == {"READY": "1", "STATUS": "as before"}
    assert stopping == {"STOPPING": "1"}


def test_a_status_is_one_line_whatever_a_device_calls_itself(manager):
    notifier = Notifier(manager.address)
    notifier.status("yard: no 'Mic\nWATCHDOG=trigger'" + "ä" * 5000)
    (status,) = said(manager, 1)
    assert list(status) == ["STATUS"]
    assert len(status["STATUS"].encode()) <= 1024


@pytest.mark.parametrize(
    ("variables", "expected_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdogs_period_is_ours_only_if_it_is_meant_for_us(variables, expected_s):
    environ = {"NOTIFY_SOCKET": "@x", **variables}
    assert Notifier.from_environment(environ).watchdog_s == expected_s
    assert environ == {}


def test_no_child_inherits_the_variables(manager):
    code = (
        "import os, subprocess, sys\n"
        "from detectd.monitor.notify import Notifier\n"
        "notifier = Notifier.from_environment()\n"
        "subprocess.run(['env'])\n"
        "notifier.ready()\n"
    )
    environment = {**ENVIRONMENT, **manager.environment(watchdog_s=5)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert "PATH=" in done.stdout
    assert not [name for name in NAMES if f"{name}=" in done.stdout]
    assert said(manager, 1) == [{"READY": "1"}]


@pytest.mark.parametrize("address", ["", "vsock:2:1", "relative"])
def test_without_a_manager_nothing_happens(address):
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    assert not notifier.listened_to
    assert notifier.watchdog_s is None
    for call in (notifier.ready, notifier.reloading, notifier.stopping, notifier.watchdog):
        call()
    assert notifier.flush()


def test_a_full_queue_holds_nobody_up_and_loses_no_state(tmp_path):
    # A manager that reads nothing: the kernel takes a few datagrams and then no more.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as silent:
        silent.bind(str(tmp_path / "notify"))
        notifier = Notifier(str(tmp_path / "notify"))
        began_s = time.monotonic()
        for number in range(10_000):
            notifier.watchdog()
            notifier.status(f"filling {number}")
            if not notifier.flush():
                break
        assert not notifier.flush()
        for number in range(1000):
            notifier.status(f"status {number}")
            notifier.watchdog()
        notifier.reloading()
        notifier.ready("after all")
        assert time.monotonic() - began_s < 5
        silent.settimeout(0.2)
        came = []
        while True:
            try:
                came.append(silent.recv(65536).decode())
            except TimeoutError:
                break
            notifier.flush()
        assert [line.split("=")[0] for line in came[-3:]] == ["STATUS", "RELOADING", "READY"]
        assert came[-3] == "STATUS=status 999"
        assert came[-1] == "READY=1\nSTATUS=after all"


def test_a_socket_that_goes_away_and_comes_back(tmp_path):
    path = tmp_path / "notify"
    notifier = Notifier(str(path), watchdog_s=1)
    with ManagerSocket(path) as manager:
        notifier.ready()
        said(manager, 1)
    for number in range(100):
        notifier.status(f"nobody hears {number}")
        notifier.watchdog()
        notifier.ready()
    assert len(notifier._waiting) <= 16
    with ManagerSocket(path) as manager:
        notifier.status("back")
        # The kernel's own queue may be shorter than ours: the rest goes with the next turn.
        assert until(lambda: notifier.flush() and manager.status == "back")
        assert len(manager.messages) <= 16
        assert not manager.times("WATCHDOG"), "a beat is of its moment"

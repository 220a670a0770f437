"""A manager that does what systemd does with our unit: it restarts a daemon whose beats stay away, or that dies.

First one of our own, everywhere; then, where it can be had, systemd itself, as the manager of a user in a namespace of
its own, with the settings of detectd.service.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import test_units
from daemon_process import ENVIRONMENT, config, until
from notify_socket import ManagerSocket

WATCHDOG_S = 2.0
ABORT_S = 5.0
OWN = '[[stream]]\nid = "own"\nsource = "synthetic"\n'
FAULTY = [sys.executable, Path(__file__).parent / "faulty_daemon.py"]
FINAL = {int(code) for code in test_units.values_of("detectd.service", "RestartPreventExitStatus")[0].split()}


class Manager:
    """Restart=always, RestartPreventExitStatus=, WatchdogSec=: what those of the unit ask for."""

    def __init__(self, folder, text):
        self.folder = folder
        self.config = folder / "config.toml"
        self.config.write_text(text)
        self.fault = folder / "fault"
        self.ends = []
        """Exit code of every run so far; a signal's number below 0."""
        self.log = folder / "log"
        self._stop = threading.Event()
        self._process = None
        self.socket = ManagerSocket(folder / "notify")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.socket.__exit__()

    def kill(self):
        self._process.kill()

    @property
    def said(self):
        return self.log.read_text()

    def _run(self):
        while not self._stop.is_set() and not (self.ends and self.ends[-1] in FINAL):
            self.ends.append(self._one_run())
            self._stop.wait(0.5)

    def _one_run(self):
        n_before = len(self.socket.messages)
        variables = {**self.socket.environment(WATCHDOG_S), "DETECTD_TEST_FAULT": str(self.fault)}
        command = [*FAULTY, sys.executable, "-m", "detectd", "run", "--config", self.config]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log, env={**ENVIRONMENT, **variables})
        while self._process.poll() is None:
            # The watchdog is armed when the service is ready, and that counts as a beat.
            new = self.socket.messages[n_before:]
            beats_s = [at_s for at_s, words in new if words.keys() & {"READY", "WATCHDOG"}]
            if self._stop.is_set():
                self._process.terminate()
                return self._process.wait(20)
            if beats_s and time.monotonic() - beats_s[-1] > WATCHDOG_S:
                self._process.send_signal(signal.SIGABRT)
                try:
                    return self._process.wait(ABORT_S)
                except subprocess.TimeoutExpired:
                    self._process.kill()
            time.sleep(0.02)
        return self._process.wait()


@pytest.fixture
def manager(tmp_path):
    with Manager(tmp_path, config(OWN)) as running:
        yield running


def analysing(manager, n_ready):
    """Wait for a run: ready, and its stream up."""
    ready_s = manager.socket.wait_for("READY", n=n_ready)
    assert manager.socket.wait(
        lambda: any(at_s > ready_s and text.startswith("1 of 1 streams up") for at_s, text in manager.socket.statuses())
    )
    return ready_s


def test_a_stuck_engine_gets_the_process_restarted_and_says_where_it_hung(manager):
    analysing(manager, 1)
    stuck_s = time.monotonic()
    manager.fault.write_text("engine")
    assert until(lambda: manager.ends)
    assert manager.ends == [-signal.SIGABRT]
    # A third of a period may have passed since the last beat.
    assert WATCHDOG_S * 2 / 3 - 0.5 < time.monotonic() - stuck_s < 2 + WATCHDOG_S + 3
    manager.fault.unlink()
    analysing(manager, 2)
    assert manager.ends == [-signal.SIGABRT], "and it stays"
    assert "unwell: the engine thread stands still" in manager.said
    assert re.search(r"Fatal Python error: Aborted.*in hang", manager.said, re.DOTALL)


def test_a_killed_daemon_is_started_again_and_a_bad_configuration_is_not(manager):
    analysing(manager, 1)
    manager.kill()
    analysing(manager, 2)
    manager.config.write_text("nonsense = 1\n")
    manager.kill()
    assert until(lambda: len(manager.ends) == 3)
    time.sleep(2)
    assert manager.ends == [-signal.SIGKILL, -signal.SIGKILL, 2]
    assert len(manager.socket.times("READY")) == 2


BOOT = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system -m 755
mkdir -p /run/user/0 -m 700
# What the system's manager makes at boot, to put in the place of what is hidden.
mkdir -p /run/systemd/inaccessible/dir
touch /run/systemd/inaccessible/reg
mkfifo /run/systemd/inaccessible/fifo
mknod /run/systemd/inaccessible/chr c 0 0
mknod /run/systemd/inaccessible/blk b 0 0
/lib/systemd/systemd --user --log-level=info --log-target=console &
wait $!
"""
# Of an unprivileged service that only the system's manager can set up; what remains is tried as it stands.
SYSTEM_ONLY = "DynamicUser|StateDirectory|RuntimeDirectory|PrivateUsers|IPAddress|WantedBy"
# Would hide the folders that a test's Python and files lie in.
OF_PLACE = "ProtectHome|PrivateTmp"


class UserManager:
    """systemd --user in mount and process namespaces of its own."""

    def __init__(self, folder, unit):
        self.folder = folder
        units = folder / "home" / ".config/systemd/user"
        units.mkdir(parents=True)
        (units / "detectd.service").write_text(unit)
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "XDG_RUNTIME_DIR": "/run/user/0"}
        with (folder / "manager.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", BOOT],
                env=self._environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()

    @property
    def said(self):
        return (self.folder / "manager.log").read_text(errors="replace")

    def within(self, *command):
        """Run a command in there; returns its exit code and what it printed."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        done = subprocess.run(
            ["nsenter", f"--target={children[0]}", "--mount", "--pid", *command] if children else ["false"],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stdout.strip()

    def ctl(self, *arguments):
        return self.within("systemctl", "--user", "--no-pager", *arguments)

    def shows(self, name):
        return self.ctl("show", "--value", f"--property={name}", "detectd.service")[1]


@pytest.fixture
def systemd(tmp_path):
    if os.geteuid() or not (shutil.which("unshare") and Path("/lib/systemd/systemd").exists()):
        pytest.skip("needs root, unshare and /lib/systemd/systemd (Debian package systemd)")
    (tmp_path / "config.toml").write_text(config(OWN))
    start = f"{sys.executable} {FAULTY[1]} {sys.executable} -m detectd run --config {tmp_path}/config.toml"
    unit = (test_units.FOLDER / "detectd.service").read_text()
    unit = re.sub(rf"^({SYSTEM_ONLY}|{OF_PLACE}).*\n", "", unit, flags=re.MULTILINE)
    unit = unit.replace("WatchdogSec=15", "WatchdogSec=3")
    unit = re.sub(r"^ExecStart=.*$", f"ExecStart={start}", unit, flags=re.MULTILINE)
    unit = unit.replace(
        "[Service]\n",
        "[Service]\n"
        + "".join(
            f'Environment="{name}={value}"\n'
            for name, value in {
                "PYTHONPATH": ENVIRONMENT["PYTHONPATH"],
                "DETECTD_TEST_FAULT": tmp_path / "fault",
            }.items()
        )
        + f"ReadWritePaths={tmp_path}\nStandardError=append:{tmp_path}/log\n",
    )
    with UserManager(tmp_path, unit) as manager:
        if not until(lambda: manager.ctl("is-system-running")[1] in {"running", "degraded"}, 20):
            pytest.skip(f"systemd does not run here: {manager.said[-300:]}")
        yield manager


def test_systemd_itself_starts_reloads_restarts_and_gives_up_where_it_should(systemd, tmp_path):
    code, told = systemd.ctl("start", "detectd.service")
    assert code == 0, told + systemd.said + systemd.ctl("status", "detectd.service")[1]
    assert systemd.shows("ActiveState") == "active"
    assert until(lambda: systemd.shows("StatusText").startswith("1 of 1 streams up"))
    first = systemd.shows("MainPID")
    confined = systemd.within("grep", "-E", "^(Seccomp|NoNewPrivs|CapEff):", f"/proc/{first}/status")[1]
    assert confined.split() == ["CapEff:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2"]
    assert "detectd" in (tmp_path / "log").read_text().splitlines()[0], "no library had to complain"

    assert systemd.ctl("reload", "detectd.service")[0] == 0
    assert until(lambda: "reloaded" in (tmp_path / "log").read_text())
    assert until(lambda: systemd.shows("ActiveState") == "active")
    assert systemd.shows("MainPID") == first

    time.sleep(4)  # longer than the watchdog's period: it is fed
    assert systemd.shows("NRestarts") == "0"
    (tmp_path / "fault").write_text("engine")
    assert until(lambda: systemd.shows("NRestarts") == "1", 15)
    (tmp_path / "fault").unlink()
    assert until(lambda: systemd.shows("StatusText").startswith("1 of 1 streams up"))
    assert systemd.shows("MainPID") != first

    good = (tmp_path / "config.toml").read_text()
    (tmp_path / "config.toml").write_text("nonsense = 1\n")
    systemd.ctl("kill", "--signal=KILL", "detectd.service")
    assert until(lambda: systemd.shows("ActiveState") == "failed")
    assert systemd.shows("ExecMainStatus") == "2"
    time.sleep(2)
    assert (systemd.shows("ActiveState"), systemd.shows("NRestarts")) == ("failed", "2")

    (tmp_path / "config.toml").write_text(good)
    assert systemd.ctl("start", "detectd.service")[0] == 0
    assert systemd.ctl("stop", "detectd.service")[0] == 0
    assert (systemd.shows("ActiveState"), systemd.shows("Result")) == ("inactive", "success")

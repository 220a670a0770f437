"""The daemon as users run it: `python -m detectd run` on a generated config, held to one core."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterator

READY_S = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGESIZE")

Metrics = dict[str, dict[tuple[str, ...], float]]
"""Values by name, then by the values of the labels."""


class Daemon:
    """A running daemon."""

    def __init__(self, bundle: Path, folder: Path, core: int) -> None:
        self.core = core
        ports = _free_ports(4)
        self.ingest, self.events = (f"tcp://127.0.0.1:{port}" for port in ports[:2])
        self._metrics = f"http://127.0.0.1:{ports[3]}"
        config = folder / "config.toml"
        config.write_text(
            f'[service]\nstate_dir = "var"\n[ingest]\nbind = ["{self.ingest}"]\n'
            f'[publish]\nevents = "{self.events}"\nreplay = "tcp://127.0.0.1:{ports[2]}"\n'
            f'[metrics]\nbind = "127.0.0.1:{ports[3]}"\n'
            f'[[stream]]\nid = "load-*"\nsource = "zmq"\n'
            f'[[detector]]\nname = "bench"\nbundle = "{bundle.absolute()}"\nstreams = ["load-*"]\n'
        )
        self._log = folder / "daemon.log"
        with self._log.open("wb") as log, held_to(core):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "detectd", "run", "--config", config], stdout=log, stderr=log
            )
        self._wait_ready()

    def page(self) -> str:
        with urllib.request.urlopen(f"{self._metrics}/metrics", timeout=30) as answer:
            return str(answer.read(), "utf-8")

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def rss_bytes(self) -> int:
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * _PAGE

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        if code:
            raise SystemExit(f"the daemon ended with {code}:\n{self._log.read_text()[-2000:]}")

    def _wait_ready(self) -> None:
        until_s = time.monotonic() + READY_S
        while True:
            if self._process.poll() is not None:
                raise SystemExit(f"the daemon did not start:\n{self._log.read_text()[-2000:]}")
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{self._metrics}/healthz", timeout=1).close()
                return
            if time.monotonic() > until_s:
                self._process.kill()
                raise SystemExit(f"the daemon was not ready in {READY_S:.0f} s")
            time.sleep(0.05)


@contextlib.contextmanager
def held_to(core: int) -> Iterator[None]:
    """Children started within inherit the one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def core_busy_s(core: int) -> float:
    """CPU time that a core has spent on anything since the machine's start."""
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{core} "))
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def parsed(page: str) -> Metrics:
    metrics: Metrics = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            metrics.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return metrics


def _free_ports(n_ports: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n_ports)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]

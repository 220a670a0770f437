"""The daemon as a process of its own, on ports that the system picks."""

import collections
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

REPOSITORY = Path(__file__).parent.parent
BUNDLE = REPOSITORY / "bundles" / "spec-cnn.detectd"
SHIPPED_CONFIG = REPOSITORY / "config.toml"
# Importable from the checkout whatever folder a command runs in.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
READY_S = 60
STOP_S = 10

ENDPOINTS = """
[ingest]
bind = ["tcp://127.0.0.1:0"]
connect = {connect}
[publish]
events = "tcp://127.0.0.1:0"
replay = "tcp://127.0.0.1:0"
[metrics]
bind = "127.0.0.1:0"
"""


def config(streams, *, connect=(), **detector):
    """A configuration on free ports with one detector, `demo`; `streams` is the text of the stream tables."""
    quoted = str([str(endpoint) for endpoint in connect]).replace("'", '"')
    keys = {"name": '"demo"', "bundle": f'"{BUNDLE}"', "streams": '["*"]', **detector}
    table = "".join(f"{key} = {value}\n" for key, value in keys.items())
    return f"{ENDPOINTS.format(connect=quoted)}{streams}\n[[detector]]\n{table}"


def on_free_ports(path=SHIPPED_CONFIG):
    """The shipped configuration as it is, but for its ports and with its bundle where it lies."""
    text = path.read_text()
    assert not {"ingest", "publish", "metrics"} & tomllib.loads(text).keys()
    return ENDPOINTS.format(connect="[]") + text.replace('"bundles/', f'"{REPOSITORY}/bundles/')


class DaemonProcess:
    """`python -m detectd run`, ready when the constructor returns.

    Parameters
    ----------
    prefix : sequence
        A command that runs the daemon's own, given behind it.
    variables : mapping
        Of the environment, beside the usual ones.
    """

    def __init__(self, folder, text, *options, prefix=(), variables=None):
        path = Path(folder) / "config.toml"
        path.write_text(text)
        self.lines = []
        self._read = threading.Condition()
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "detectd", "run", "--config", path, *options],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**ENVIRONMENT, **(variables or {})},
        )
        self._reader = threading.Thread(target=self._follow)
        self._reader.start()
        try:
            self.wait_for_line("ready", READY_S)
        except BaseException:
            self.kill()
            raise
        self.ingest = self._said(r"audio in: (\S+)")
        self.events = self._said(r"events out: ([^;\s]+)")
        self.metrics = self._said(r"metrics: (\S+)")

    @property
    def stderr(self):
        return "".join(self.lines)

    def wait_for_line(self, text, timeout_s=20):
        with self._read:
            self._read.wait_for(lambda: text in self.stderr or self._process.poll() is not None, timeout_s)
        assert text in self.stderr, f"no {text!r} from the daemon, which said:\n{self.stderr}"

    def hang_up(self):
        """Ask for a reload."""
        self._process.send_signal(signal.SIGHUP)

    def terminate(self):
        """Send SIGTERM; returns exit code and seconds until the process was gone."""
        began_s = time.monotonic()
        self._process.terminate()
        code = self._process.wait(STOP_S)
        self._reader.join()
        self._process.stderr.close()
        return code, time.monotonic() - began_s

    def kill(self):
        """End the process if it still runs."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stderr.close()

    @property
    def replay(self):
        return self._said(r"replay: ([^;\s]+)")

    def signal(self, number):
        self._process.send_signal(number)

    @property
    def runs(self):
        return self._process.poll() is None

    def scrape(self):
        """The page of metrics: values by name and labels."""
        with urllib.request.urlopen(self.metrics, timeout=10) as answer:
            page = answer.read().decode()
        return Page(
            {
                (sample.name, *sorted(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(page)
                for sample in family.samples
            }
        )

    def _said(self, pattern):
        return re.search(pattern, self.stderr)[1]

    def _follow(self):
        for line in self._process.stderr:
            with self._read:
                self.lines.append(line)
                self._read.notify_all()
        with self._read:
            self._read.notify_all()


class Page(dict):
    """Metrics of one scrape."""

    def value(self, name, **labels):
        return self.get((name, *sorted(labels.items())), 0)

    def by_label(self, name, label):
        """Values of a metric with one label, or of one label where others are the same."""
        found = collections.Counter()
        for (found_name, *labels), value in self.items():
            if found_name == name:
                found[dict(labels)[label]] += value
        return found

    def unbalanced(self):
        """Streams whose books do not balance."""
        return [
            stream
            for stream in self.by_label("detectd_audio_samples_total", "stream")
            if self.audio("samples_total", stream)
            != self.audio("analysed_samples_total", stream)
            + self.audio("pending_samples", stream)
            + self.audio("overrun_samples_total", stream)
        ]

    def audio(self, name, stream, **labels):
        return self.value(f"detectd_audio_{name}", stream=stream, **labels)


@contextlib.contextmanager
def running(folder, text, *options, **how):
    """A daemon for the length of a block; it must come out of it alive, stop cleanly and have said nothing of a bug."""
    daemon = DaemonProcess(folder, text, *options, **how)
    try:
        yield daemon
        if daemon.runs:
            assert daemon.terminate()[0] == 0
        assert "Traceback" not in daemon.stderr
    finally:
        daemon.kill()
        print(daemon.stderr, file=sys.stderr)  # pytest shows it where a test has failed


def until(condition, timeout_s=20, every_s=0.02):
    """Wait for a condition; returns what it gave last, true or not."""
    end_s = time.monotonic() + timeout_s
    while not (found := condition()) and time.monotonic() < end_s:
        time.sleep(every_s)
    return found

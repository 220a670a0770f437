"""A real Prometheus: scrapes a real daemon, loads the alert rules of docs/alerts.yml and says itself what it holds."""

import json
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request

import pytest
from daemon_process import REPOSITORY, config, running, until
from plain_wire import Push, Source
from sounds import recording

ALERTS = REPOSITORY / "docs" / "alerts.yml"
ON_ANY = '[[stream]]\nid = "*"\nsource = "zmq"\n[[stream]]\nid = "own"\nsource = "synthetic"\n'
STARTS_S = 60

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus and promtool (Debian package prometheus) are not installed",
)
pytestmark = needs_prometheus


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Prometheus:
    """The server, scraping one target every second under the job name that the alerts know."""

    def __init__(self, folder, target):
        self.url = f"http://127.0.0.1:{free_port()}"
        shutil.copy(ALERTS, folder)
        settings = folder / "prometheus.yml"
        settings.write_text(
            f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n"
            f"rule_files: [{ALERTS.name}]\n"
            f"scrape_configs: [{{job_name: detectd, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
        command = ["prometheus", f"--config.file={settings}", f"--storage.tsdb.path={folder / 'tsdb'}"]
        command += [f"--web.listen-address={self.url.removeprefix('http://')}", "--log.level=warn"]
        with (folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()

    def ask(self, path, **parameters):
        """What an endpoint of its HTTP API answers; None while it does not."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}") as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def value(self, query):
        """The one value of an instant query; None if there is none."""
        data = self.ask("query", query=query)
        results = data["result"] if data else []
        return float(results[0]["value"][1]) if len(results) == 1 else None

    def firing(self):
        """Names of the alerts that fire or are about to."""
        data = self.ask("alerts") or {"alerts": []}
        return {alert["labels"]["alertname"] for alert in data["alerts"]}


def test_a_real_server_reads_every_series_and_the_alerts_stay_silent(tmp_path):
    with running(tmp_path, config(ON_ANY)) as daemon:
        address = urllib.parse.urlsplit(daemon.metrics).netloc
        with Prometheus(tmp_path, address) as server, Push(daemon.ingest) as push:
            assert until(lambda: server.value("up") == 1, STARTS_S), (tmp_path / "prometheus.log").read_text()
            source = Source("far")
            push.send(*[source.next(block) for block in recording(0, 2, 1).reshape(-1, 800)])
            samples = 'detectd_audio_samples_total{stream="far"}'
            assert until(lambda: server.value(samples) == 24_000)
            assert until(lambda: server.value('detectd_stream_up{stream="own"}') == 1)
            assert until(lambda: server.value('rate(detectd_audio_samples_total{stream="own"}[10s])') or 0)
            assert until(lambda: server.value('detectd_events_total{stream="far"}') == 1)
            assert server.value("detectd_config_last_reload_successful") == 1
            assert server.value("sum(detectd_fault)") == 0
            assert until(lambda: server.value("histogram_quantile(0.5, rate(detectd_inference_seconds_bucket[10s]))"))
            # Of one scrape: accepted = analysed + pending + overrun, of every stream.
            books = "detectd_audio_analysed_samples_total + detectd_audio_pending_samples"
            books += " + detectd_audio_overrun_samples_total - detectd_audio_samples_total"
            assert server.value(f"max(abs({books}))") == 0
            (target,) = server.ask("targets")["activeTargets"]
            assert (target["health"], target["lastError"]) == ("up", "")
            (group,) = server.ask("rules")["groups"]
            assert {rule["health"] for rule in group["rules"]} == {"ok"}
            # `far` ends without a word, which is a stream down; nothing else is wrong.
            assert until(lambda: server.firing() == {"DetectdStreamDown"})


def test_promtool_finds_nothing_wrong_with_a_daemons_page(tmp_path):
    with running(tmp_path, config(ON_ANY)) as daemon, urllib.request.urlopen(daemon.metrics, timeout=10) as answer:
        page = answer.read()
        done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("verb", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]], ids=" ".join)
def test_alerts_fire_when_they_should_and_not_else(tmp_path, verb):
    for path in (ALERTS, REPOSITORY / "tests" / "alerts_test.yml"):
        shutil.copy(path, tmp_path)
    done = subprocess.run(["promtool", *verb], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_every_alert_is_tried():
    told = (REPOSITORY / "tests" / "alerts_test.yml").read_text()
    alerts = [line.split()[-1] for line in ALERTS.read_text().splitlines() if "- alert:" in line]
    assert len(alerts) == 9
    for alert in alerts:
        assert told.count(f"alertname: {alert}") >= 2, f"{alert} silent and firing"

"""The page of metrics, read back with Prometheus' own parser (and promtool where there is one)."""

import shutil
import subprocess
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from detectd.monitor.exposition import FAMILIES, LINES_PER_HOLD, MetricsPage, StreamSnapshot
from detectd.monitor.metrics import BatchHistogram, Metrics

CONTRACT = {
    "detectd_build_info": "gauge",
    "detectd_bundle_info": "gauge",
    "detectd_stream_up": "gauge",
    "detectd_audio_samples": "counter",
    "detectd_audio_analysed_samples": "counter",
    "detectd_audio_pending_samples": "gauge",
    "detectd_audio_overrun_samples": "counter",
    "detectd_audio_gap_samples": "counter",
    "detectd_audio_rejected_samples": "counter",
    "detectd_audio_rejected_blocks": "counter",
    "detectd_audio_resyncs": "counter",
    "detectd_audio_last_sample_timestamp_seconds": "gauge",
    "detectd_windows": "counter",
    "detectd_windows_shed": "counter",
    "detectd_inference_seconds": "histogram",
    "detectd_detection_latency_seconds": "histogram",
    "detectd_score": "gauge",
    "detectd_events": "counter",
    "detectd_events_published": "counter",
    "detectd_config_last_reload_successful": "gauge",
    "detectd_config_last_reload_timestamp_seconds": "gauge",
    "detectd_start_timestamp_seconds": "gauge",
    "detectd_fault": "gauge",
    "detectd_capture_drift_ppm": "gauge",
    "detectd_capture_restarts": "counter",
}


def snapshot(stream_id="yard", **changes):
    values = {
        "up": True,
        "accepted": 100,
        "analysed": 70,
        "pending": 20,
        "overrun": 10,
        "gap": 3,
        "resyncs": 1,
        "rejected": {"crc": 5, "late": 7},
        "last_sample_utc_s": 1_763_824_636.123456,
        "scores": {"pump": -0.25},
        "events": {"pump": 2},
        "drift_ppm": -12.5,
        "recorder_restarts": 2,
    }
    return StreamSnapshot(id=stream_id, **{**values, **changes})


def parsed(page):
    return {family.name: family for family in text_string_to_metric_families(page.decode())}


def samples(page):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parsed(page).values()
        for sample in family.samples
    }


def full_page(streams):
    metrics = Metrics(CollectorRegistry())
    metrics.build_info.labels(version="0.1.0", python="3.11.7").set(1)
    metrics.bundle_info.labels(detector="pump", bundle="pump@0123456789ab", digest="0" * 64).set(1)
    metrics.rejected_blocks.labels(reason="magic").inc()
    metrics.windows.labels(detector="pump").inc(8)
    metrics.windows_shed.labels(detector="pump", reason="overload").inc()
    metrics.inference_seconds.labels(detector="pump").observe(0.003)
    metrics.detection_latency.observe([0.01, 0.02])
    metrics.events_published.inc()
    metrics.config_last_reload_successful.set(1)
    metrics.config_last_reload_timestamp.set(1_763_824_636.5)
    return MetricsPage(metrics.registry).render(streams)


def test_every_metric_of_the_contract_and_no_other():
    families = parsed(full_page([snapshot()]))
    assert {name: family.type for name, family in families.items()} == CONTRACT
    assert all(family.documentation for family in families.values())


def test_values_and_labels_of_a_stream():
    found = samples(full_page([snapshot("a/0"), snapshot("b", up=False, last_sample_utc_s=None)]))
    assert found["detectd_stream_up", ("stream", "a/0")] == 1
    assert found["detectd_stream_up", ("stream", "b")] == 0
    assert found["detectd_audio_rejected_samples_total", ("reason", "late"), ("stream", "a/0")] == 7
    assert found["detectd_audio_last_sample_timestamp_seconds", ("stream", "a/0")] == 1_763_824_636.123456
    assert ("detectd_audio_last_sample_timestamp_seconds", ("stream", "b")) not in found
    assert found["detectd_score", ("detector", "pump"), ("stream", "a/0")] == -0.25


@given(
    stream_id=st.text(min_size=1),
    accepted=st.integers(0, 2**63),
    score=st.floats(allow_nan=False),
)
def test_what_is_written_reads_back(stream_id, accepted, score):
    page = MetricsPage(CollectorRegistry())
    # Python's universal newlines split on more than Prometheus does: compare what the format itself calls a line.
    text = page.render([snapshot(stream_id, accepted=accepted, scores={"d": score})]).decode()
    escaped = stream_id.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    lines = text.split("\n")
    assert f'detectd_audio_samples_total{{stream="{escaped}"}} {accepted}' in lines
    prefix = f'detectd_score{{stream="{escaped}",detector="d"}} '
    (line,) = [line for line in lines if line.startswith(prefix)]
    assert float(line.removeprefix(prefix)) == score


def test_numpy_numbers_are_spelt_as_numbers():
    text = MetricsPage(CollectorRegistry()).render([snapshot(scores={"a": np.float32(0.5)}, gap=np.int64(3))]).decode()
    assert 'detectd_score{stream="yard",detector="a"} 0.5\n' in text
    assert "np." not in text


def test_a_stream_that_is_gone_loses_its_series():
    page = MetricsPage(CollectorRegistry())
    page.render([snapshot("old"), snapshot("new")])
    assert b"old" not in page.render([snapshot("new")])
    assert {key[1] for key in page._prefixes} == {"new"}


def test_many_streams_scraped_at_once_are_whole():
    streams = [snapshot(f"s{number}") for number in range(LINES_PER_HOLD)]
    page = MetricsPage(CollectorRegistry())
    pages = []
    threads = [threading.Thread(target=lambda: pages.append(page.render(streams))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pages)) == 1
    assert pages[0].count(b"\n") == 2 * len(FAMILIES) + 14 * len(streams)


@given(st.lists(st.floats(0, 20)), st.integers(0, 5))
def test_batch_histogram_counts_like_one_by_one(values, on_a_bound):
    bounds = (0.1, 1.0, 10.0)
    values = values + [1.0] * on_a_bound
    registry = CollectorRegistry()
    histogram = BatchHistogram("latency_seconds", "Latency.", bounds, registry)
    histogram.observe(values[:2])
    histogram.observe(values[2:])
    for bound in bounds:
        expected = sum(value <= bound for value in values)
        assert registry.get_sample_value("latency_seconds_bucket", {"le": repr(bound)}) == expected
    assert registry.get_sample_value("latency_seconds_bucket", {"le": "+Inf"}) == len(values)
    assert registry.get_sample_value("latency_seconds_count") == len(values)
    assert registry.get_sample_value("latency_seconds_sum") == pytest.approx(sum(values))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian package prometheus) is not installed")
def test_promtool_finds_nothing_wrong():
    page = full_page([snapshot("a/0"), snapshot("b")])
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")

"""A scrape of 15,000 per-stream series: how long it takes, and for how long it keeps other threads waiting.

The same series with the same values go through `detectd.monitor.exposition` and through prometheus_client, in turns,
in one run. A probe thread that sleeps 0.2 ms at a time stands for the engine: how late it wakes is how long the
interpreter was held, and all its lateness together is what a scrape costs the engine.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from detectd.monitor.exposition import FAMILIES, MetricsPage, StreamSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable

PROBE_SLEEP_S = 2e-4
DETECTORS = ("pump", "ship")
REASONS = ("crc", "late")


def snapshots(n_streams: int) -> list[StreamSnapshot]:
    return [
        StreamSnapshot(
            id=f"hydrophone-{number:04d}",
            up=True,
            accepted=10**9 + number,
            analysed=10**9,
            pending=number,
            overrun=0,
            gap=7,
            rejected=dict.fromkeys(REASONS, number),
            last_sample_utc_s=1_763_824_636.123 + number / 7,
            scores=dict.fromkeys(DETECTORS, -1.234567 / (number + 1)),
            events=dict.fromkeys(DETECTORS, 3),
        )
        for number in range(n_streams)
    ]


def client_registry(streams: list[StreamSnapshot]) -> CollectorRegistry:
    """The very same series as prometheus_client objects, values set."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    for family in FAMILIES:
        labels = ["stream", family.label] if family.label else ["stream"]
        kind = Gauge if family.kind == "gauge" else Counter
        metric = kind(family.name, family.help, labels, registry=registry)
        for stream in streams:
            for label, value in family.values(stream).items():
                child = metric.labels(stream.id, label) if family.label else metric.labels(stream.id)
                child.set(value) if isinstance(child, Gauge) else child.inc(value)
    return registry


def samples(page: bytes) -> set[tuple[object, ...]]:
    return {
        (sample.name, *sorted(sample.labels.items()), sample.value)
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Return how long `work` took, and how late the probe woke at worst and in all, in ms."""
    late_s = [0.0]
    running, stop = threading.Event(), threading.Event()

    def probe() -> None:
        running.set()
        while not stop.is_set():
            before = time.perf_counter()
            time.sleep(PROBE_SLEEP_S)
            late_s.append(time.perf_counter() - before - PROBE_SLEEP_S)

    thread = threading.Thread(target=probe)
    thread.start()
    running.wait()
    start = time.perf_counter()
    work()
    took_s = time.perf_counter() - start
    stop.set()
    thread.join()
    return {"scrape_ms": 1e3 * took_s, "longest_hold_ms": 1e3 * max(late_s), "probe_waited_ms": 1e3 * sum(late_s)}


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def run(n_streams: int, n_rounds: int) -> dict[str, object]:
    streams = snapshots(n_streams)
    page = MetricsPage(CollectorRegistry())
    registry = client_registry(streams)
    ours = samples(page.render(streams))
    assert ours == samples(generate_latest(registry)), "the two pages differ"
    ways: dict[str, Callable[[], object]] = {
        "nothing (the probe alone)": lambda: time.sleep(0.05),
        "detectd.monitor.exposition": lambda: page.render(streams),
        "prometheus_client": lambda: generate_latest(registry),
    }
    results: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(n_rounds):
        for name, work in ways.items():
            results[name].append(measured(work))
    return {
        "benchmark": "scrape",
        "series": len(ours),
        "streams": n_streams,
        "rounds": n_rounds,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "ways": {
            name: {figure: spread([row[figure] for row in rows]) for figure in rows[0]}
            for name, rows in results.items()
        },
    }


def table(result: dict[str, object]) -> str:
    lines = [f"{result['series']} series, {result['rounds']} rounds; median (least to most)", ""]
    ways: dict[str, dict[str, dict[str, float]]] = result["ways"]  # type: ignore[assignment]
    figures = next(iter(ways.values()))
    lines.append(f"{'':26}" + "".join(f"{figure:>27}" for figure in figures))
    for name, way in ways.items():
        cells = [f"{way[key]['median']:.2f} ({way[key]['min']:.2f} to {way[key]['max']:.2f})" for key in figures]
        lines.append(f"{name:26}" + "".join(f"{cell:>27}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="A scrape of many streams, against prometheus_client.")
    parser.add_argument("--streams", type=int, default=1072, help="14 series each")
    parser.add_argument("--quick", action="store_true", help="3 rounds, no file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    result = run(options.streams, 3 if options.quick else 30)
    text = json.dumps(result, indent=2) + "\n"
    target = Path(__file__).parent / "results" / "scrape.json"
    if not options.quick:
        target.parent.mkdir(exist_ok=True)
        target.write_text(text)
    print(text if options.json else table(result))


if __name__ == "__main__":
    main()

"""Streams per core in real time, the whole path, against the code a user would write today.

A real daemon (`python -m detectd run`) is held to one core. A generator on another core offers 44.1 kHz mono s16 in
blocks of 100 ms, 16 streams a message, in real time; a subscriber reads the events; metrics are scraped. The most
streams are looked for that the daemon keeps up with: nothing shed, overrun or left waiting, the p99 of its detection
latency within 0.5 s, and the sender's own count equal to accepted + gap + refused for every stream.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from whole_path.rival import Work, measure_rival
from whole_path.tape import BLOCK_S, RATE_HZ, STREAMS_A_MESSAGE, make_tape
from whole_path.trial import Bench, Outcome, percentiles, run_trial

from detectd.bundles.bundle import Bundle, load_bundle

ROOT = Path(__file__).parent.parent
HOP_S = 0.25
FIRST_STREAMS = 320
DISTURBED = 0.05
"""Share of the daemon's core in use by others that makes a failure prove nothing."""


@dataclass(frozen=True)
class Effort:
    """How often, how long, and on what ladder: the answer is known to one `step`."""

    repeats: int
    seconds: float
    rungs: int
    step: float
    rival_s: float


FULL, QUICK = Effort(3, 10.0, 5, 1.08, 2.0), Effort(1, 4.0, 3, 1.2, 1.0)


def main() -> None:
    options = _options()
    bundle = load_bundle(options.bundle)
    with tempfile.TemporaryDirectory(prefix="detectd-bench-") as folder:
        tape = Path(folder) / "tape.npy"
        np.save(tape, make_tape(options.tones or _demo_tones()))
        *_, daemon_core = sorted(os.sched_getaffinity(0))
        load_core = min(os.sched_getaffinity(0))
        if load_core == daemon_core:
            raise SystemExit("two cores are needed: one for the daemon, one for the load")
        os.sched_setaffinity(0, {load_core})
        window_s = bundle.manifest.views[0].spec.window_s
        result = run(Bench(options.bundle, window_s, tape, daemon_core, load_core), bundle, quick=options.quick)
    text = json.dumps(result, indent=2) + "\n"
    target = ROOT / "benchmarks" / "results" / "throughput.json"
    if not options.quick:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    print(text if options.json else table(result))


def run(bench: Bench, bundle: Bundle, *, quick: bool) -> dict[str, Any]:
    effort = QUICK if quick else FULL
    _say("a first look")
    streams = _predicted(run_trial(bench, FIRST_STREAMS, effort.seconds))
    climbs: list[list[Outcome]] = []
    loads: dict[str, list[Outcome]] = {"50 %": [], "80 %": []}
    most: list[int] = []
    rivals: list[dict[str, float]] = []
    for repeat in range(effort.repeats):
        _say(f"rival, repeat {repeat + 1} of {effort.repeats}")
        rivals.append(measure_rival(_work(bundle, effort.rival_s, bench.daemon_core)))
        climbs.append(_climb(bench, streams, effort))
        streams = _most(climbs[-1]) or climbs[-1][-1].n_streams
        for name, share in (("50 %", 0.5), ("80 %", 0.8)):
            loads[name].append(_told(run_trial(bench, int(share * streams), effort.seconds)))
        most.append(_most([*climbs[-1], *(outcomes[-1] for outcomes in loads.values())]))
    return {
        "benchmark": "throughput",
        "quick": quick,
        "machine": {"platform": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()},
        "audio": {"rate_hz": RATE_HZ, "block_s": BLOCK_S, "streams_a_message": STREAMS_A_MESSAGE, "format": "s16"},
        "bundle": _described(bundle),
        "streams_per_core": _spread(most),
        "loads": {name: _summed(outcomes) for name, outcomes in loads.items()},
        "rival": _rival(rivals),
        "core_used_by_others": _spread([run.core_used_by_others for run in chain.from_iterable(climbs)]),
        "ratio": _spread([n / (max(rates.values()) * HOP_S) for n, rates in zip(most, rivals, strict=True)]),
        "runs": [outcome.to_dict() for outcome in chain.from_iterable(climbs)],
        "load_runs": {name: [outcome.to_dict() for outcome in outcomes] for name, outcomes in loads.items()},
    }


def _climb(bench: Bench, streams: int, effort: Effort) -> list[Outcome]:
    """Steps up from `streams` while the daemon keeps up, or down until it does."""
    runs = [_tried(bench, streams, effort.seconds)]
    step = effort.step if runs[0].kept_up else 1 / effort.step
    while len(runs) < effort.rungs and (runs[-1].kept_up == runs[0].kept_up):
        runs.append(_tried(bench, int(runs[-1].n_streams * step), effort.seconds))
    return runs


def _tried(bench: Bench, streams: int, seconds: float) -> Outcome:
    """One rung; once more where it failed while other programs were on the daemon's core."""
    outcome = _told(run_trial(bench, streams, seconds))
    if not outcome.kept_up and outcome.core_used_by_others > DISTURBED:
        _say("once more: other programs were on the daemon's core")
        outcome = _told(run_trial(bench, streams, seconds))
    return outcome


def _most(runs: list[Outcome]) -> int:
    return max((run.n_streams for run in runs if run.kept_up), default=0)


def _predicted(first: Outcome) -> int:
    return int(0.9e6 / _told(first).cpu_us_per_stream_s)


def _told(outcome: Outcome) -> Outcome:
    verdict = "kept up" if outcome.kept_up else "; ".join(outcome.faults)
    _say(
        f"{outcome.n_streams} streams: {verdict}; {outcome.cpu_us_per_stream_s:.0f} us per stream-second, core"
        f" {outcome.core_used:.0%} used, {outcome.core_used_by_others:.0%} by others,"
        f" detection latency {outcome.detection_latency_s}, event latency {percentiles(outcome.event_latency_s)}"
    )
    return outcome


def _work(bundle: Bundle, seconds: float, core: int) -> Work:
    threshold = bundle.manifest.threshold
    return Work(bundle.manifest.views[0].spec, threshold.on, threshold.off, seconds, core)


def _described(bundle: Bundle) -> dict[str, Any]:
    return {"name": bundle.manifest.name, "digest": bundle.digest, "evaluation": bundle.manifest.evaluation}


def _summed(outcomes: list[Outcome]) -> dict[str, Any]:
    latencies = [percentiles(outcome.event_latency_s) for outcome in outcomes]
    return {
        "streams": _spread([outcome.n_streams for outcome in outcomes]),
        "cpu_us_per_stream_s": _spread([outcome.cpu_us_per_stream_s for outcome in outcomes]),
        "rss_kib_per_stream": _spread([outcome.rss_kib_per_stream for outcome in outcomes]),
        "event_latency_p50_s": _spread([latency.get("p50", float("nan")) for latency in latencies]),
        "event_latency_p99_s": _spread([latency.get("p99", float("nan")) for latency in latencies]),
        "events_timed": sum(int(latency["n"]) for latency in latencies),
        "faults": [fault for outcome in outcomes for fault in outcome.faults],
        "books": [outcome.books for outcome in outcomes],
    }


def _rival(rivals: list[dict[str, float]]) -> dict[str, Any]:
    return {
        "what": "librosa.stft of the whole window at 44.1 kHz, torch, thresholds; audio from memory, which flatters it",
        "windows_per_s": {name: _spread([rates[name] for rates in rivals]) for name in rivals[0]},
        "streams_per_core": _spread([max(rates.values()) * HOP_S for rates in rivals]),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def table(result: dict[str, Any]) -> str:
    bundle = result["bundle"]
    held_out = bundle["evaluation"].get("held_out", bundle["evaluation"])
    accuracy = ", ".join(f"{key} {value:.4g}" for key, value in held_out.items() if isinstance(value, float))
    rows = [("streams per core, whole path", result["streams_per_core"], 0)]
    for name, load in result["loads"].items():
        rows += [
            (f"at {name} load: streams", load["streams"], 0),
            ("  CPU us per stream-second", load["cpu_us_per_stream_s"], 0),
            ("  RSS KiB per stream", load["rss_kib_per_stream"], 0),
            ("  window in -> event, p50 ms", _scaled(load["event_latency_p50_s"], 1000), 1),
            ("  window in -> event, p99 ms", _scaled(load["event_latency_p99_s"], 1000), 1),
        ]
    rows += [(f"rival, {name}: windows/s", spread, 0) for name, spread in result["rival"]["windows_per_s"].items()]
    rows += [
        ("rival at its best: streams per core", result["rival"]["streams_per_core"], 0),
        ("ratio", result["ratio"], 1),
    ]
    rows.append(("% of the daemon's core that others took", _scaled(result["core_used_by_others"], 100), 0))
    lines = [f"bundle {bundle['name']}, {bundle['digest']}", f"  its accuracy, from its manifest: {accuracy}", ""]
    lines.append(f"{'':44}{'median':>10}{'least':>10}{'most':>10}")
    for name, spread, digits in rows:
        lines.append(f"{name:44}" + "".join(f"{spread[key]:>10.{digits}f}" for key in ("median", "min", "max")))
    faults = sorted({fault for load in result["loads"].values() for fault in load["faults"]})
    return "\n".join([*lines, "", "rival: " + result["rival"]["what"], *(f"at a load: {fault}" for fault in faults)])


def _scaled(spread: dict[str, float], factor: float) -> dict[str, float]:
    return {key: value * factor for key, value in spread.items()}


def _demo_tones() -> tuple[float, ...]:
    config = tomllib.loads((ROOT / "config.toml").read_text())
    return tuple(next(stream["tones_hz"] for stream in config["stream"] if "tones_hz" in stream))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Streams per core in real time, against librosa and torch.")
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "spec-cnn.detectd")
    parser.add_argument("--tones", type=lambda text: tuple(map(float, text.split(","))), help="of the bundle, in Hz")
    parser.add_argument("--quick", action="store_true", help="one repeat, under two minutes, no file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

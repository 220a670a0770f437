"""How well binary detectors detect: the reference benchmark with the limit beside it, and real recordings.

`python benchmarks/detection.py [--quick]` trains and tests everything; `--bundle PATH` tests one finished bundle on
fresh clips of its own signature and times its graph, so that accuracy and speed are those of one digest.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import real, reference
from accuracy.limit import auc_limit, db_from_limit

from detectd.bundles.scoring import open_detector_bundle
from detectd.dsp.synth import Signature
from training.data import cut_windows

ROOT = Path(__file__).resolve().parent.parent
SNRS_DB = (-16.0, -14.0, -13.0, -12.0)
BACKBONES = ("spec-cnn", "lenet")
N_TONES = 5
SPEED_BATCH = 16


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    began = time.monotonic()
    if options.bundle:
        report = {"bundle": bundle_report(options.bundle, options.seeds)}
        print_bundle(report["bundle"])
    else:
        report = {
            "reference": list(reference_rows(options)),
            "recordings": list(recording_rows(options)),
        }
        print_reference(report["reference"])
        print_recordings(report["recordings"])
    report |= {
        "took_s": round(time.monotonic() - began, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        say(f"written: {options.json}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="-13 dB and the propeller only, smaller test sets")
    parser.add_argument("--seeds", type=int, default=3, help="signatures (default 3)")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of real recordings")
    parser.add_argument("--bundle", type=Path, help="test this finished bundle instead")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.json is None:
        name = "detection-bundle" if options.bundle else "detection-quick" if options.quick else "detection"
        options.json = ROOT / "benchmarks" / "results" / f"{name}.json"
    return options


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def cells(options: argparse.Namespace) -> list[tuple[int, float]]:
    """Numbers of tones and SNRs: all SNRs for the usual number; one SNR for the fewest and the most."""
    if options.quick:
        return [(N_TONES, -13.0)]
    return [*((N_TONES, snr_db) for snr_db in SNRS_DB), (1, -13.0), (10, -13.0)]


def reference_rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    n_test = 400 if options.quick else 1000
    for n_tones, snr_db in cells(options):
        results: list[reference.Result] = []
        for seed in range(options.seeds):
            say(f"reference: {n_tones} tones, {snr_db:g} dB, signature {seed + 1} of {options.seeds}")
            results += reference.run(n_tones, snr_db, seed, BACKBONES, n_test=n_test)
        for detector in dict.fromkeys(result.detector for result in results):
            yield summary([result for result in results if result.detector == detector])


def summary(results: list[reference.Result]) -> dict[str, Any]:
    """Mean, spread and worst over signatures."""
    first = results[0]
    aucs = [result.auc for result in results]
    # Of a finite test set an AUC of 1 says only that it is nearer to 1 than half a pair of clips.
    ceiling = 1 - 0.5 / (first.n_test / 2) ** 2
    return {
        "detector": first.detector,
        "n_tones": first.n_tones,
        "snr_db": first.snr_db,
        "signatures": len(results),
        "accuracy": spread([result.accuracy for result in results]),
        "auc": spread(aucs),
        "auc_limit": auc_limit(first.snr_db, first.n_tones, reference.DURATION_S),
        "db_from_limit": db_from_limit(
            min(statistics.mean(aucs), ceiling), first.snr_db, first.n_tones, reference.DURATION_S
        ),
        "train_s": round(statistics.mean(result.train_s for result in results), 1),
        "runs": [asdict(result) for result in results],
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "sd": statistics.pstdev(values), "worst": min(values)}


def recording_rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    missing = [
        name for name in ("motor-tones", "field-sounds", "forest-background") if not (options.data / name).is_dir()
    ]
    if missing:
        say(f"recordings: skipped, {options.data} has no {', '.join(missing)} (--data names another folder)")
        return
    tasks = [[real.propeller(options.data)]]
    if not options.quick:
        tasks += [real.one_class_of(options.data, label) for label in ("helicopter", "chainsaw")]
    for folds in tasks:
        whole = len(folds) == 1 and not options.quick
        for backbone in BACKBONES if whole else BACKBONES[:1]:
            results = []
            for fold, task in enumerate(folds):
                for seed in range(options.seeds if whole else 1):
                    say(f"recordings: {task.name}, {backbone}, fold {fold + 1} of {len(folds)}, seed {seed}")
                    results += real.run(task, backbone, seed)
            yield from by_detector(results, with_template=backbone == BACKBONES[0])


def by_detector(results: list[real.RealResult], *, with_template: bool) -> Iterator[dict[str, Any]]:
    for detector in dict.fromkeys(result.detector for result in results):
        of_it = [result for result in results if result.detector == detector]
        if detector != reference.TEMPLATE or with_template:
            yield {
                "task": of_it[0].task,
                "detector": detector,
                "accuracy": spread([result.accuracy for result in of_it]),
                "auc": spread([result.auc for result in of_it]),
                "runs": [asdict(result) for result in of_it],
            }


def bundle_report(path: Path, seeds: int) -> dict[str, Any]:
    """Accuracy on fresh clips of the bundle's own signature and window length, and microseconds a window."""
    scorer = open_detector_bundle(path)
    manifest = scorer.bundle.manifest
    known = manifest.training.get("synthetic", {}).get("signature")
    if known is None:
        raise SystemExit(f"{path}: its manifest names no synthetic signature to test it on")
    signature, window_s = Signature(tuple(known["tones_hz"])), manifest.window_s
    rows = []
    for snr_db in (*SNRS_DB, -10.0, -8.0):
        found = []
        for seed in range(seeds):
            say(f"bundle: {snr_db:g} dB, set {seed + 1} of {seeds}")
            rng = np.random.default_rng([2**31 + seed, round(-10 * snr_db)])
            clips = reference.corpus(signature, snr_db, 400, rng, window_s)
            found.append(reference.figures_of(scorer, cut_windows(clips, manifest.views[0].spec)))
        rows.append(
            {
                "snr_db": snr_db,
                "accuracy": spread([figures.accuracy for figures in found]),
                "auc": spread([figures.auc for figures in found]),
                "auc_limit": auc_limit(snr_db, len(signature.tones_hz), window_s),
            }
        )
    shape = (SPEED_BATCH, *manifest.views[0].spec.shape)
    windows = np.abs(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    times = [timed(lambda: scorer.score([windows])) / SPEED_BATCH * 1e6 for _ in range(200)]
    return {
        "ident": scorer.bundle.ident,
        "digest": scorer.bundle.digest,
        "window_s": window_s,
        "rows": rows,
        "us_per_window": {"median": statistics.median(times), "best": min(times), "batch": SPEED_BATCH},
    }


def timed(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def print_reference(rows: list[dict[str, Any]]) -> None:
    print(
        f"\nReference benchmark, 500 clips of 1 s, {rows[0]['signatures']} signatures; "
        "accuracy at the bundle's own threshold"
    )
    for (n_tones, snr_db), of_cell in groupby(rows, key=lambda row: (row["n_tones"], row["snr_db"])):
        cell = list(of_cell)
        print(f"\n{n_tones} tones at {snr_db:g} dB; limit of AUC {cell[0]['auc_limit']:.4f}")
        print(f"  {'':22}{'accuracy (sd, worst)':24}{'AUC (sd, worst)':26}{'dB from limit':15}train s")
        for row in cell:
            print(f"  {row['detector']:22}{shown(row['accuracy'], 3):24}{shown(row['auc'], 4):26}"
                  f"{row['db_from_limit']:<15.1f}{row['train_s']:.1f}")  # fmt: skip


def print_recordings(rows: list[dict[str, Any]]) -> None:
    if rows:
        print("\nRecordings; accuracy at the bundle's threshold, spread over seeds or folds")
    for row in rows:
        print(f"  {row['task']:12}{row['detector']:22}{shown(row['accuracy'], 3):24}{shown(row['auc'], 4)}")


def print_bundle(report: dict[str, Any]) -> None:
    speed = report["us_per_window"]
    print(
        f"\n{report['ident']}: windows of {report['window_s']:g} s, "
        f"{speed['median']:.1f} us a window at batch {speed['batch']}"
    )
    for row in report["rows"]:
        print(f"  {row['snr_db']:6g} dB   accuracy {shown(row['accuracy'], 3):24}AUC {shown(row['auc'], 4):26}"
              f"limit {row['auc_limit']:.4f}")  # fmt: skip


def shown(values: dict[str, float], digits: int) -> str:
    return f"{values['mean']:.{digits}f} ({values['sd']:.{digits}f}, {values['worst']:.{digits}f})"


if __name__ == "__main__":
    main()

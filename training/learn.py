"""From clips of two classes to a bundle: split, train, calibrate, export, check."""

import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from detectd import __version__
from detectd.bundles.bundle import Bundle, save_bundle
from detectd.bundles.manifest import Manifest, Threshold, View
from detectd.bundles.scoring import open_detector_bundle
from detectd.dsp.spec import FeatureSpec
from training import calibrate
from training.baseline import template_scores
from training.data import Clip, Windows, cut_windows, data_digest
from training.export import golden_bytes, to_onnx
from training.fit import FitOptions, FitResult, fit_network, score_windows
from training.interrupt import stop_on_interrupt
from training.models import BACKBONES
from training.split import held_out

_PACKAGES = ("numpy", "onnx", "onnxruntime", "scipy", "torch")
_SIDES = {"positive": True, "negative": False}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to make of the clips; `notes` go into the manifest's `training` as they are."""

    out: Path
    backbone: str
    label: str
    spec: FeatureSpec
    logarithm: bool
    options: FitOptions
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Learnt:
    """What came of it; `figures` and `baseline` are of held-out clips."""

    bundle: Bundle
    figures: calibrate.Figures
    baseline: calibrate.Figures
    result: FitResult


@dataclass(frozen=True, slots=True)
class Parts:
    """Clips and their windows, trained on and held out; `out` says which clips are held out, shape (n_clips,)."""

    clips: list[Clip]
    out: NDArray[np.bool_]
    train: Windows
    held_out: Windows


def learn(clips: list[Clip], plan: Plan) -> Learnt:
    """Train, calibrate, export and check one bundle.

    Raises
    ------
    DetectdError
    """
    parts = _split(clips, plan)
    # One thread: the networks are too small to gain from more, and sums keep their order.
    torch.set_num_threads(1)
    torch.manual_seed(plan.options.seed)
    network = BACKBONES[plan.backbone](*plan.spec.shape, logarithm=plan.logarithm)
    with stop_on_interrupt() as stop:  # to the end: what training found is not lost to a late Ctrl-C
        result = fit_network(network, parts.train, parts.held_out, plan.options, stop)
        scores, positive = parts.held_out.clip_scores(score_windows(network, parts.held_out.pictures))
        threshold = calibrate.thresholds(scores, positive)
        figures = calibrate.figures(scores, positive, threshold.on)
        baseline = _baseline(parts)
        training = _provenance(plan, parts, result)
        bundle = _write(network, plan, threshold, _evaluation(figures, baseline), training)
    return Learnt(bundle, figures, baseline, result)


def _write(
    network: nn.Module, plan: Plan, threshold: Threshold, evaluation: dict[str, Any], training: dict[str, Any]
) -> Bundle:
    view = View("picture", "backbone.onnx", plan.spec)
    manifest = Manifest(
        name=plan.out.stem,
        kind="binary",
        label=plan.label,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        views=(view,),
        threshold=threshold,
        evaluation=evaluation,
        training=training,
    )
    files = {"backbone.onnx": to_onnx(network, plan.spec), "golden.npz": golden_bytes(network, view)}
    bundle = save_bundle(plan.out, manifest, files)
    open_detector_bundle(plan.out)
    return bundle


def _split(clips: list[Clip], plan: Plan) -> Parts:
    out = held_out(clips, plan.options.seed)
    train = [clip for clip, is_out in zip(clips, out, strict=True) if not is_out]
    rest = [clip for clip, is_out in zip(clips, out, strict=True) if is_out]
    return Parts(clips, out, cut_windows(train, plan.spec), cut_windows(rest, plan.spec))


def _baseline(parts: Parts) -> calibrate.Figures:
    scores, positive = parts.held_out.clip_scores(template_scores(parts.train, parts.held_out))
    return calibrate.figures(scores, positive, calibrate.best_threshold(scores, positive))


def _evaluation(figures: calibrate.Figures, baseline: calibrate.Figures) -> dict[str, Any]:
    return {
        "held_out": asdict(figures),
        "held_out_template_without_network": asdict(baseline),
        "note": "clip scores of recordings not trained on; they also chose the epoch and the threshold",
    }


def _provenance(plan: Plan, parts: Parts, result: FitResult) -> dict[str, Any]:
    of = {name: [clip for clip in parts.clips if clip.positive is value] for name, value in _SIDES.items()}
    return {
        "method": "binary",
        "backbone": plan.backbone,
        "logarithm": plan.logarithm,
        "options": asdict(plan.options),
        "result": asdict(result),
        "clips": {name: len(clips) for name, clips in of.items()},
        "recordings": {name: len({clip.segment.session for clip in clips}) for name, clips in of.items()},
        "held_out_clips": int(parts.out.sum()),
        "windows": {"train": len(parts.train), "held_out": len(parts.held_out)},
        "data_sha256": {name: data_digest(clips) for name, clips in of.items()},
        "versions": {"detectd": __version__, "python": platform.python_version()}
        | {name: version(name) for name in _PACKAGES},
        **plan.notes,
    }

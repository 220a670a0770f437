"""`fit binary`: from positives and negatives to a bundle, in one straight line."""

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detectd import __version__
from detectd.bundle import Bundle, save_bundle
from detectd.errors import DetectdError
from detectd.manifest import Manifest, View
from detectd.scoring import open_detector_bundle
from detectd.spec import FeatureSpec
from training import calibrate, choose
from training.baseline import template_scores
from training.checks import check_copies, check_enough, check_sides, long_enough
from training.data import Clip, Skipped, Windows, cut_windows, data_digest, read_clips
from training.export import golden_bytes, to_onnx
from training.fit import FitOptions, FitResult, fit_network, score_windows
from training.interrupt import stop_on_interrupt
from training.models import AUTO, BACKBONES
from training.recordings import find_segments
from training.split import held_out

Say = Callable[[str], None]
_PACKAGES = ("numpy", "onnx", "onnxruntime", "scipy", "torch")


@dataclass(frozen=True, slots=True)
class BinaryRequest:
    """What the user asked for; None means: choose from the data."""

    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    backgrounds: tuple[str, ...]
    out: Path
    backbone: str = "auto"
    label: str | None = None
    window_s: float | None = None
    band_hz: tuple[float, float] | None = None
    options: FitOptions = field(default_factory=FitOptions)


@dataclass(frozen=True, slots=True)
class Learnt:
    """What came of it."""

    bundle: Bundle
    figures: calibrate.Figures
    baseline: calibrate.Figures
    result: FitResult


@dataclass(frozen=True, slots=True)
class _Parts:
    """Clips and windows, trained on and held out."""

    clips: list[Clip]
    out: NDArray[np.bool_]
    train: Windows
    held_out: Windows


def fit_binary(request: BinaryRequest, say: Say) -> Learnt:
    """Train, calibrate, export and check one bundle.

    Parameters
    ----------
    say : callable
        Takes lines for the user: what was chosen and what was left out.

    Raises
    ------
    DetectdError
    """
    check_out(request.out)
    if request.window_s is not None:
        choose.check_window(request.window_s)
    skipped = Skipped()
    clips = _read(request, skipped)
    spec, clips = _spec(request, clips, skipped, say)
    for line in skipped.summary():
        say(line)
    check_enough(clips)
    parts = _split(clips, spec, request.options.seed)
    name = AUTO["binary"] if request.backbone == "auto" else request.backbone
    # One thread: the networks are too small to gain from more, and sums keep their order.
    torch.set_num_threads(1)
    torch.manual_seed(request.options.seed)
    network = BACKBONES[name](*spec.shape)
    with stop_on_interrupt() as stop:
        result = fit_network(network, parts.train, parts.held_out, request.options, stop)
        scores, positive = parts.held_out.clip_scores(score_windows(network, parts.held_out.pictures))
        threshold = calibrate.thresholds(scores, positive)
        figures = calibrate.figures(scores, positive, threshold.on)
        baseline = _baseline(parts)
        view = View("picture", "backbone.onnx", spec)
        manifest = Manifest(
            name=request.out.stem,
            kind="binary",
            label=request.label or _label(clips) or request.out.stem,
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            views=(view,),
            threshold=threshold,
            evaluation=_evaluation(figures, baseline),
            training=_provenance(request, name, parts, result, len(skipped.lines) + skipped.n_copies),
        )
        files = {"backbone.onnx": to_onnx(network, spec), "golden.npz": golden_bytes(network, view)}
        bundle = save_bundle(request.out, manifest, files)
        open_detector_bundle(request.out)
    return Learnt(bundle, figures, baseline, result)


def check_out(out: Path) -> None:
    """Refuse a place where no bundle can be written, before the work rather than after.

    Raises
    ------
    DetectdError
    """
    if out.suffix != ".detectd" or not out.stem:
        raise DetectdError(f"--out {out}: expected a name ending in .detectd")
    if not out.parent.is_dir():
        raise DetectdError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.exists() and not (out / "manifest.json").is_file():
        raise DetectdError(f"--out {out}: is there and is no bundle; choose another name")


def _read(request: BinaryRequest, skipped: Skipped) -> list[Clip]:
    positives = find_segments(request.positives)
    negatives = find_segments([*request.negatives, *request.backgrounds])
    check_sides(positives, negatives)
    clips = []
    for segments, positive in ((positives, True), (negatives, False)):
        read = read_clips(segments, positive, skipped)
        if not read:
            raise DetectdError(
                f"none of the {len(segments)} {'positive' if positive else 'negative'} files can be used; "
                f"the first: {skipped.lines[-1] if skipped.lines else segments[0]}"
            )
        clips += read
    check_copies(clips)
    return clips


def _spec(request: BinaryRequest, clips: list[Clip], skipped: Skipped, say: Say) -> tuple[FeatureSpec, list[Clip]]:
    if request.window_s is None:
        window = choose.choose_window(clips)
        say(window.reason)
        window_s = window.value[0]
    else:
        window_s = request.window_s
    clips = long_enough(clips, window_s, skipped)
    if request.band_hz is None:
        band = choose.choose_band(clips, window_s)
        say(band.reason)
        band_hz = band.value[0], band.value[1]
    else:
        choose.check_band(clips, *request.band_hz)
        band_hz = request.band_hz
    return choose.picture_spec(band_hz, window_s), clips


def _split(clips: list[Clip], spec: FeatureSpec, seed: int) -> _Parts:
    out = held_out(clips, seed)
    train = [clip for clip, is_out in zip(clips, out, strict=True) if not is_out]
    rest = [clip for clip, is_out in zip(clips, out, strict=True) if is_out]
    return _Parts(clips, out, cut_windows(train, spec), cut_windows(rest, spec))


def _baseline(parts: _Parts) -> calibrate.Figures:
    scores, positive = parts.held_out.clip_scores(template_scores(parts.train, parts.held_out))
    return calibrate.figures(scores, positive, calibrate.best_threshold(scores, positive))


def _label(clips: list[Clip]) -> str | None:
    """Return the label that all positives of a CSV share, if they do."""
    labels = {clip.segment.label for clip in clips if clip.positive}
    return labels.pop()[:100] if len(labels) == 1 else None


def _evaluation(figures: calibrate.Figures, baseline: calibrate.Figures) -> dict[str, Any]:
    return {
        "held_out": asdict(figures),
        "held_out_template_without_network": asdict(baseline),
        "note": "clip scores of recordings not trained on; they also chose the epoch and the threshold",
    }


def _provenance(
    request: BinaryRequest, backbone: str, parts: _Parts, result: FitResult, n_skipped: int
) -> dict[str, Any]:
    sides = {"positive": True, "negative": False}
    return {
        "method": "binary",
        "backbone": backbone,
        "options": asdict(request.options),
        "result": asdict(result),
        "clips": {side: sum(c.positive is value for c in parts.clips) for side, value in sides.items()},
        "recordings": {
            side: len({c.segment.session for c in parts.clips if c.positive is value}) for side, value in sides.items()
        },
        "held_out_clips": int(parts.out.sum()),
        "skipped_files": n_skipped,
        "windows": {"train": len(parts.train), "held_out": len(parts.held_out)},
        "data_sha256": {
            side: data_digest(c for c in parts.clips if c.positive is value) for side, value in sides.items()
        },
        "versions": {"detectd": __version__, "python": platform.python_version()}
        | {name: version(name) for name in _PACKAGES},
    }

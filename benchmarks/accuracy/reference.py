"""The reference benchmark: a signature of K tones in white noise against other signatures, 1 s clips at 44.1 kHz."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detectd.bundles.scoring import Scorer, open_detector_bundle
from detectd.dsp.synth import Signature, clip, random_negative, random_signature
from training import calibrate
from training.baseline import template_scores
from training.binary import BinaryRequest, fit_clips
from training.data import Clip, Windows, cut_windows, make_clip
from training.fit import FitOptions
from training.recordings import Segment
from training.split import held_out

RATE_HZ = 44_100
DURATION_S = 1.0
TEMPLATE = "template (no network)"


@dataclass(frozen=True)
class Result:
    """One detector on one test set, at its own threshold."""

    detector: str
    n_tones: int
    snr_db: float
    seed: int
    accuracy: float
    auc: float
    n_test: int
    train_s: float


def corpus(
    signature: Signature, snr_db: float, n_clips: int, rng: np.random.Generator, duration_s: float = DURATION_S
) -> list[Clip]:
    """Half positives, half negatives."""
    clips = []
    for number in range(n_clips):
        positive = number < n_clips // 2
        content = signature if positive else random_negative(rng)
        samples = clip(content, snr_db, duration_s, RATE_HZ, rng)
        clips.append(make_clip(Segment(Path(f"clip-{number}"), f"clip-{number}"), samples, RATE_HZ, positive))
    return clips


def run(
    n_tones: int, snr_db: float, seed: int, backbones: tuple[str, ...], n_train: int = 500, n_test: int = 1000
) -> list[Result]:
    """Train each backbone on one corpus and test all on another; the template besides."""
    signature = random_signature(n_tones, np.random.default_rng([seed, n_tones]))
    rng = np.random.default_rng([seed, n_tones, round(-10 * snr_db)])
    train, test = corpus(signature, snr_db, n_train, rng), corpus(signature, snr_db, n_test, rng)
    results = []
    for backbone in backbones:
        began = time.monotonic()
        scorer = trained(train, backbone, seed)
        train_s = time.monotonic() - began
        if not results:  # the band is chosen from the clips: the same for every backbone
            windows = cut_windows(test, scorer.bundle.manifest.views[0].spec)
        found = figures_of(scorer, windows)
        results.append(Result(backbone, n_tones, snr_db, seed, found.accuracy, found.auc, n_test, train_s))
    found = template_figures(train, windows, scorer, seed)
    results.append(Result(TEMPLATE, n_tones, snr_db, seed, found.accuracy, found.auc, n_test, 0.0))
    return results


def trained(clips: list[Clip], backbone: str, seed: int) -> Scorer:
    """A bundle as `detectd-train fit binary` makes it, opened as the daemon opens it."""
    with tempfile.TemporaryDirectory() as folder:
        request = BinaryRequest((), (), (), Path(folder) / "x.detectd", backbone, options=FitOptions(seed=seed))
        fit_clips(request, clips, lambda _line: None)
        return open_detector_bundle(request.out)


def figures_of(scorer: Scorer, windows: Windows) -> calibrate.Figures:
    """Clip scores at the bundle's own threshold."""
    return calibrate.figures(*windows.clip_scores(_scores(scorer, windows)), scorer.bundle.manifest.threshold.on)


def _scores(scorer: Scorer, windows: Windows) -> NDArray[np.float32]:
    return scorer.score([windows.pictures])


def template_figures(train: list[Clip], test: Windows, scorer: Scorer, seed: int) -> calibrate.Figures:
    """The baseline on the very features, split and threshold rule of the networks."""
    spec = scorer.bundle.manifest.views[0].spec
    usable = [clip for clip in train if clip.duration_s >= spec.window_s - 1e-6]
    out = held_out(usable, seed)
    known = cut_windows([clip for clip, is_out in zip(usable, out, strict=True) if not is_out], spec)
    rest = cut_windows([clip for clip, is_out in zip(usable, out, strict=True) if is_out], spec)
    threshold = calibrate.best_threshold(*rest.clip_scores(template_scores(known, rest)))
    return calibrate.figures(*test.clip_scores(template_scores(known, test)), threshold)

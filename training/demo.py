"""Make the shipped bundles: `python -m training.demo bundles`, which is what `make bundles` runs.

A fixed signature, so that the shipped config can play it. Trained to be left alone with a live stream: half of the
negatives are noise alone, the others hold other signatures, near misses of this one among them, at every level that
the target may have. Then it listens to an hour of noise that it never heard, and fails where there is an alarm.
"""

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from detectd.bundles.scoring import Scorer, open_detector_bundle
from detectd.dsp.synth import Signature, clip, random_negative, reference_power_for, white_noise
from training.binary import BinaryRequest, fit_clips
from training.data import Clip, cut_windows, make_clip
from training.recordings import Segment

SIGNATURE = Signature((137.0, 291.0, 418.0, 655.0, 871.0))
SNR_DB = (-10.0, 6.0)
"""Uniformly from; the demo plays the signature at -8 dB."""
RATE_HZ = 44_100
WINDOW_S = 2.0
BAND_HZ = (8.0, 992.0)
"""The reference benchmark's, so that other signatures are seen whole."""
N_POSITIVE = 1500
NEAR_MISS_HZ = (8.0, 32.0)
NOISE_S = 3600


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--seed", default=0, show_default=True)
@click.option("--clips", "n_positive", default=N_POSITIVE, show_default=True)
@click.option("--noise-s", default=NOISE_S, show_default=True, help="Seconds of unheard noise to pass.")
def main(folder: Path, seed: int, n_positive: int, noise_s: int) -> None:
    """Train FOLDER/spec-cnn.detectd and let it listen to noise."""
    out = folder / "spec-cnn.detectd"
    notes = {"signature": {"tones_hz": list(SIGNATURE.tones_hz), "snr_db": list(SNR_DB), "rate_hz": RATE_HZ}}
    request = BinaryRequest(
        (), (), (), out, label="demo signature", window_s=WINDOW_S, band_hz=BAND_HZ, notes={"synthetic": notes}
    )
    clips = list(demo_clips(n_positive, np.random.default_rng([seed, 0])))
    learnt = fit_clips(request, clips, lambda line: click.echo(line, err=True))
    scorer = open_detector_bundle(out)
    highest = highest_in_noise(scorer, noise_s, np.random.default_rng([seed, 1]))
    on = learnt.bundle.manifest.threshold.on
    click.echo(
        f"{learnt.bundle.ident}: held-out accuracy {learnt.figures.accuracy:.4f}, AUC {learnt.figures.auc:.5f}; "
        f"highest score in {noise_s} s of noise {highest:.3g}, threshold {on:.3g}"
    )
    if highest >= on:
        raise click.ClickException("noise alone reaches the threshold; do not ship this bundle")


def demo_clips(n_positive: int, rng: np.random.Generator) -> Iterator[Clip]:
    """Positives, and twice as many negatives: noise alone, near misses, other signatures."""
    for number in range(3 * n_positive):
        positive = number < n_positive
        content = SIGNATURE if positive else _negative(number, rng)
        samples = clip(content, rng.uniform(*SNR_DB), WINDOW_S, RATE_HZ, rng)
        yield make_clip(Segment(Path(f"synthetic-{number}"), f"synthetic-{number}"), samples, RATE_HZ, positive)


def _negative(number: int, rng: np.random.Generator) -> Signature | None:
    match number % 4:
        case 0:
            return near_miss(SIGNATURE, rng)
        case 1:
            return random_negative(rng)
        case _:
            return None


def near_miss(signature: Signature, rng: np.random.Generator) -> Signature:
    """Move one tone by 8-32 Hz."""
    tones = np.array(signature.tones_hz)
    tones[rng.integers(len(tones))] += rng.uniform(*NEAR_MISS_HZ) * rng.choice([-1, 1])
    return Signature(tuple(tones.tolist()))


def highest_in_noise(scorer: Scorer, seconds: int, rng: np.random.Generator) -> float:
    """Highest score of windows every quarter second of white noise."""
    spec = scorer.bundle.manifest.views[0].spec
    highest = -np.inf
    for minute in range(0, seconds, 60):
        noise = white_noise(60 * RATE_HZ, RATE_HZ, rng, reference_power_for(0.0, RATE_HZ))
        segment = Segment(Path(f"noise-{minute}"), f"noise-{minute}")
        windows = cut_windows([make_clip(segment, noise, RATE_HZ, positive=False)], spec)
        highest = max(highest, float(scorer.score([windows.pictures]).max()))
    return highest


if __name__ == "__main__":
    main()

"""`synth`: a corpus after the paper's description, as folders of WAV files and a manifest.csv."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from detectd.dsp.synth import Signature, clip, random_negative
from detectd.errors import DetectdError
from training.progress import Progress

COLUMNS = ("path", "start_s", "end_s", "label", "tones_hz", "snr_db")
BACKGROUND_CLIP_S = 10.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to write.

    Attributes
    ----------
    signature : Signature
        The target in every positive clip.
    snr_db : float
        Of all clips with tones (`detectd.dsp.synth`).
    n_clips : int
        Half of them positive, half negative.
    duration_s : float
        Of each.
    background_s : float
        Noise alone, in clips of 10 s.
    """

    signature: Signature
    snr_db: float
    n_clips: int
    duration_s: float
    background_s: float
    rate_hz: int
    seed: int


def write_corpus(out: Path, recipe: Recipe) -> dict[str, int]:
    """Write the corpus; returns the number of clips by folder.

    Clips are 16-bit WAV at -26 dBFS: at least 10 dB below clipping, far above the steps of 16 bits.

    Raises
    ------
    DetectdError
        If `out` holds anything, or cannot be written.
    """
    n_background = round(recipe.background_s / BACKGROUND_CLIP_S)
    counts = {"positive": (recipe.n_clips + 1) // 2, "negative": recipe.n_clips // 2, "background": n_background}
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DetectdError(f"{out}: is not empty; choose a new folder")
        rows = _write_clips(out, recipe, counts)
        with (out / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(rows)
    except OSError as error:
        raise DetectdError(f"{out}: cannot be written ({error.strerror or error})") from error
    return counts


def _write_clips(out: Path, recipe: Recipe, counts: dict[str, int]) -> list[list[str]]:
    rng = np.random.default_rng(recipe.seed)
    progress = Progress(f"writing {out}", sum(counts.values()))
    rows: list[list[str]] = []
    for label, count in counts.items():
        (out / label).mkdir(parents=True)
        for number in range(count):
            path = Path(label) / f"{label}-{number:05d}.wav"
            tones_hz, duration_s = _write_clip(out / path, label, recipe, rng)
            listed = " ".join(f"{tone:.3f}" for tone in tones_hz)
            rows.append([path.as_posix(), "0", f"{duration_s:g}", label, listed, f"{recipe.snr_db:g}"])
            progress.update(len(rows))
    progress.finish(f"{len(rows)} clips")
    return rows


def _write_clip(path: Path, label: str, recipe: Recipe, rng: np.random.Generator) -> tuple[tuple[float, ...], float]:
    signature = {"positive": recipe.signature, "negative": random_negative(rng)}.get(label)
    duration_s = BACKGROUND_CLIP_S if label == "background" else recipe.duration_s
    samples: NDArray[np.float32] = clip(signature, recipe.snr_db, duration_s, recipe.rate_hz, rng)
    soundfile.write(path, samples, recipe.rate_hz, subtype="PCM_16")
    return (signature.tones_hz if signature else ()), duration_s

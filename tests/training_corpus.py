"""Small corpora on disk, and detectd-train as a real process."""

import subprocess
import sys

import numpy as np
import soundfile

from detectd.dsp.synth import Signature, clip, random_negative

RATE_HZ = 8000
SIGNATURE = Signature((200.0, 440.0, 710.0))
TRAIN = [sys.executable, "-m", "training.cli"]


def write_corpus(folder, n_clips=24, snr_db=-5.0, duration_s=1.0, seed=0, rate_hz=RATE_HZ):
    """n_clips WAV files of each class, in folder/positive and folder/negative."""
    rng = np.random.default_rng(seed)
    for label in ("positive", "negative"):
        (folder / label).mkdir(parents=True)
        for number in range(n_clips):
            signature = SIGNATURE if label == "positive" else random_negative(rng)
            samples = clip(signature, snr_db, duration_s, rate_hz, rng)
            soundfile.write(folder / label / f"{number:03d}.wav", samples, rate_hz, subtype="PCM_16")
    return folder


def train(*arguments, cwd=None, timeout=120):
    return subprocess.run(
        [*TRAIN, *map(str, arguments)], cwd=cwd, timeout=timeout, capture_output=True, text=True, check=False
    )


def fit(folder, out, *more):
    return train(
        "fit", "binary", "--positive", folder / "positive", "--negative", folder / "negative", "--out", out, *more
    )


def one_line_error(done):
    """The message of a command that refused, which must be one line on stderr and nothing on stdout."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stderr.rstrip().endswith(line)
    return line

"""The code a user would write today, on the same work: librosa over the whole window, torch, the same thresholds.

It is given what flatters it: float audio that lies in memory (no network, no decoding, no accounting), nothing to
report, and the best of several batch sizes.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from whole_path.tape import RATE_HZ

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from detectd.dsp.spec import FeatureSpec

BATCHES = (1, 16, 32)


@dataclass(frozen=True)
class Work:
    """What to do: windows of this picture, judged by these thresholds, for so long with each batch size."""

    spec: FeatureSpec
    on: float
    off: float
    seconds: float
    core: int


def measure_rival(work: Work) -> dict[str, float]:
    """Windows per second by batch size, measured in a process of its own on one core."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_run, args=(work, theirs))
    process.start()
    theirs.close()
    rates: dict[str, float] = mine.recv()
    process.join()
    return rates


def _run(work: Work, pipe: Connection) -> None:
    os.sched_setaffinity(0, {work.core})
    import librosa  # noqa: PLC0415  # heavy, and only this process needs it
    import torch  # noqa: PLC0415

    from training.models.spec_cnn import SpecCnn  # noqa: PLC0415

    torch.set_num_threads(1)
    spec = work.spec
    model = SpecCnn(spec.n_frames, spec.n_bins, logarithm=False).eval()  # without the logarithm: the cheaper one
    n_fft, hop = round(spec.frame_s * RATE_HZ), round(spec.frame_hop_s * RATE_HZ)
    first = round(spec.frequencies_hz[0] * n_fft / RATE_HZ)
    rng = np.random.default_rng(0)
    windows = 0.05 * rng.standard_normal((max(BATCHES), round(spec.window_s * RATE_HZ)), dtype=np.float32)
    is_on = [False] * len(windows)

    def picture(window: np.ndarray) -> np.ndarray:
        transform = librosa.stft(window, n_fft=n_fft, hop_length=hop, center=False)
        band: np.ndarray = np.abs(transform[first : first + spec.n_bins]).T
        return band

    def turn(batch: int) -> None:
        pictures = np.stack([picture(window) for window in windows[:batch]])
        with torch.inference_mode():
            scores = model(torch.from_numpy(pictures)).tolist()
        for stream, score in enumerate(scores):
            is_on[stream] = score >= (work.off if is_on[stream] else work.on)

    rates = {}
    for batch in BATCHES:
        turn(batch)
        n_turns, began_s = 0, time.perf_counter()
        while (took_s := time.perf_counter() - began_s) < work.seconds:
            turn(batch)
            n_turns += 1
        rates[f"batch {batch}"] = n_turns * batch / took_s
    pipe.send(rates)

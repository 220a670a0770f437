"""The strong baseline without a network: how much the mean picture looks like the difference of the class means."""

import numpy as np
from numpy.typing import NDArray

from training.data import Windows

Floats = NDArray[np.float32]


def template_scores(train: Windows, windows: Windows) -> Floats:
    """Score windows, shape (n,), by a class-mean template on the mean picture, level and spread taken out."""
    known = _mean_pictures(train.pictures)
    template = known[train.positive].mean(axis=0) - known[~train.positive].mean(axis=0)
    scores: Floats = _mean_pictures(windows.pictures) @ template
    return scores


def _mean_pictures(pictures: Floats) -> Floats:
    """(n, n_frames, n_bins) -> (n, n_bins), each with mean 0 and spread 1."""
    means = pictures.mean(axis=1)
    centred = means - means.mean(axis=1, keepdims=True)
    normalised: Floats = centred / (centred.std(axis=1, keepdims=True) + np.float32(1e-12))
    return normalised

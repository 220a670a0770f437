"""From held-out scores to thresholds and figures of merit. Plain numpy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectd.bundles.manifest import Threshold

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Figures:
    """How well scores tell two classes apart at a threshold; `accuracy` is balanced (the mean over both classes)."""

    accuracy: float
    auc: float
    true_positive_rate: float
    false_positive_rate: float
    n_positive: int
    n_negative: int


def auc(scores: Floats, positive: Bools) -> float:
    """Area under the ROC curve = chance that a positive scores above a negative, ties counting half."""
    negatives = np.sort(scores[~positive])
    below = np.searchsorted(negatives, scores[positive], "left")
    not_above = np.searchsorted(negatives, scores[positive], "right")
    return float((below + not_above).mean() / 2 / len(negatives))


def figures(scores: Floats, positive: Bools, threshold: float) -> Figures:
    """Figures of merit of clip scores at a threshold; a score at the threshold counts as found."""
    found = scores >= threshold
    hits, alarms = float(found[positive].mean()), float(found[~positive].mean())
    return Figures(
        accuracy=(hits + 1 - alarms) / 2,
        auc=auc(scores, positive),
        true_positive_rate=hits,
        false_positive_rate=alarms,
        n_positive=int(positive.sum()),
        n_negative=int((~positive).sum()),
    )


def best_threshold(scores: Floats, positive: Bools) -> float:
    """Middle of the interval of thresholds with the highest balanced accuracy; the widest where there are several."""
    values = np.unique(scores).astype(np.float64)
    if len(values) == 1:
        return float(values[0])
    # A threshold in (values[i], values[i+1]] finds exactly the scores from values[i+1] up. The ends, which find all or
    # nothing, are never wanted.
    hits = 1 - np.searchsorted(np.sort(scores[positive]), values[1:], "left") / positive.sum()
    passes = np.searchsorted(np.sort(scores[~positive]), values[1:], "left") / (~positive).sum()
    accuracy = hits + passes
    best = np.isclose(accuracy, accuracy.max(), rtol=0, atol=1e-12)
    # Neighbouring intervals of equal accuracy can't be: between them stands a clip that is right on one side only.
    widths = np.where(best, np.diff(values), -1)
    i = int(np.argmax(widths))
    return float((values[i] + values[i + 1]) / 2)


def thresholds(scores: Floats, positive: Bools) -> Threshold:
    """`on` and `off` from held-out clip scores.

    `off` is the 90 % quantile of the negatives, so that an event ends soon after its sound does, but lies below `on` by
    a tenth to a quarter of the distance from `on` to the median negative: never so near that noise ends an event, never
    so low that noise holds it open.
    """
    on = best_threshold(scores, positive)
    negatives = scores[~positive]
    distance = max(on - float(np.median(negatives)), 1e-3 * max(1.0, abs(on)))
    off = float(np.clip(np.quantile(negatives, 0.9), on - distance / 4, on - distance / 10))
    method = (
        "on: best balanced accuracy of held-out clips, middle of the interval; "
        "off: 90 % of held-out negatives, a tenth to a quarter of the way from on to their median"
    )
    return Threshold(on, off, method)

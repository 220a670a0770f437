"""Hold out whole recordings: never a window, nor a clip of a recording that is trained on."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detectd.errors import DetectdError
from training.checks import side
from training.data import Clip

HELD_OUT_SHARE = 0.2


def held_out(clips: Sequence[Clip], seed: int, share: float = HELD_OUT_SHARE) -> NDArray[np.bool_]:
    """Choose recordings until about `share` of each class's seconds are held out.

    At least one recording of each class is held out and at least one is kept. A recording with clips of both classes
    goes one way with all of them.

    Returns
    -------
    bool array, shape (n_clips,)

    Raises
    ------
    DetectdError
        If recordings hold both classes in such a way that no split leaves both on both sides.
    """
    sessions = np.array([clip.segment.session for clip in clips])
    seconds = np.array([clip.duration_s for clip in clips])
    positive = np.array([clip.positive for clip in clips])
    rng = np.random.default_rng(seed)
    out: set[str] = set()
    kept: set[str] = set()
    for of_class in (positive, ~positive):
        names = np.unique(sessions[of_class])
        rng.shuffle(names)
        wanted = share * seconds[of_class].sum()
        got = float(seconds[of_class & np.isin(sessions, list(out))].sum())
        free = [str(name) for name in names if name not in out and name not in kept]
        for name in free[: len(free) if kept.intersection(names.tolist()) else -1]:
            length = float(seconds[of_class & (sessions == name)].sum())
            # Taken while that brings the share nearer to what is wanted.
            if got == 0 or got + length / 2 <= wanted:
                out.add(name)
                got += length
        kept |= {str(name) for name in names} - out
    chosen = np.isin(sessions, list(out))
    for of_class in (positive, ~positive):
        if not chosen[of_class].any() or chosen[of_class].all():
            raise DetectdError(
                f"no split by recording leaves {side(bool(positive[of_class][0]))} clips on both sides; "
                "give recordings that hold one class only"
            )
    return chosen

"""Golden clips: what a bundle gave where it was made, recomputed where it is loaded.

Digests say that the files are those that were written; this says that features, graph and runtime still give the same
numbers. Besides the bundle's own clips every load hears three sounds that no training set holds, and wants a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from detectd.bundles.manifest import View
from detectd.dsp.features import windows_of
from detectd.errors import BundleError

Floats = NDArray[np.float32]
ScoreWindows = Callable[[Sequence[Floats]], Floats]

SCORE_RTOL = 1e-4
SCORE_ATOL = 1e-5
"""As torch against ONNX Runtime: other processors order their sums differently."""
FEATURE_TOLERANCE = 1e-5
"""Of the largest feature of the clip."""

MAX_CLIPS = 16
MAX_CLIP_S = 120.0
MAX_WINDOWS = 32
MAX_TRANSFORM_POINTS = 2**24
"""Of the clips' windows together: what the features take well under a second for."""
MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 192_000


def golden_arrays(
    views: Sequence[View], clips: Sequence[Floats], rate_hz: int, score: ScoreWindows
) -> dict[str, NDArray[np.generic]]:
    """Arrays of golden.npz.

    Parameters
    ----------
    views : sequence of View
    clips : sequence of float32 arrays, shape (n,)
        Each at least one window long; a few seconds in all.
    rate_hz : int
    score : callable
        One float32 array ``(batch, *spec.shape)`` a view to scores ``(batch,)``; best the model in the framework that
        trained it, so that loading also checks the export.
    """
    arrays: dict[str, NDArray[np.generic]] = {"rate_hz": np.array(rate_hz, np.int64)}
    for index, clip in enumerate(clips):
        windows = _windows(views, clip, rate_hz)
        arrays[f"clip_{index}"] = np.asarray(clip, np.float32)
        arrays[f"scores_{index}"] = np.asarray(score(windows), np.float32)
        for view, features in zip(views, windows, strict=True):
            arrays[f"features_{view.name}_{index}"] = features
    return arrays


def check_golden(views: Sequence[View], arrays: Mapping[str, NDArray[np.generic]], score: ScoreWindows) -> None:
    """Recompute golden.npz and compare.

    Raises
    ------
    BundleError
        If it lacks an array, or features or scores differ by more than the tolerance.
    """
    rate_hz = _rate(arrays)
    clips = _clips(views, arrays, rate_hz)
    wanted = {"rate_hz"}
    for index, clip in enumerate(clips):
        windows = _windows(views, clip, rate_hz)
        for view, features in zip(views, windows, strict=True):
            name = f"features_{view.name}_{index}"
            stored = _stored(arrays, name, features.shape)
            _compare(name, features, stored, 0.0, FEATURE_TOLERANCE * float(np.abs(stored).max(initial=0.0)))
            wanted.add(name)
        name = f"scores_{index}"
        _compare(name, score(windows), _stored(arrays, name, (len(windows[0]),)), SCORE_RTOL, SCORE_ATOL)
        wanted |= {name, f"clip_{index}"}
    strangers = sorted(arrays.keys() - wanted)
    if strangers:
        raise BundleError(f"golden.npz: {strangers[0]} belongs to no clip and view")


def extreme_windows(views: Sequence[View]) -> Iterator[tuple[str, list[Floats]]]:
    """Windows of silence, a full-scale square wave and one click, each with its name.

    Features are finite for finite audio, so a score that is not finite is the graph's doing.
    """
    rate_hz = max(MIN_RATE_HZ, *(view.spec.min_rate_hz for view in views))
    time = np.arange(math.ceil(views[0].spec.window_s * rate_hz))
    yield "silence", _windows(views, np.zeros(len(time), np.float32), rate_hz)
    yield "a full-scale square wave", _windows(views, np.where(time // 16 % 2, 1.0, -1.0).astype(np.float32), rate_hz)
    yield "one click", _windows(views, (time == len(time) // 2).astype(np.float32), rate_hz)


def _windows(views: Sequence[View], clip: Floats, rate_hz: int) -> list[Floats]:
    """Windows end to end, one array a view; as many as all views have."""
    windows = [windows_of(clip, rate_hz, view.spec, view.spec.window_s)[0] for view in views]
    n_windows = min(len(of_view) for of_view in windows)
    if not n_windows:
        raise BundleError("golden.npz: a clip is shorter than one window")
    return [np.ascontiguousarray(of_view[:n_windows]) for of_view in windows]


def _rate(arrays: Mapping[str, NDArray[np.generic]]) -> int:
    rate = arrays.get("rate_hz")
    if rate is None or rate.shape != () or rate.dtype.kind not in "iu" or not MIN_RATE_HZ <= int(rate) <= MAX_RATE_HZ:
        raise BundleError(f"golden.npz: rate_hz is {rate}, expected one integer in {MIN_RATE_HZ}..{MAX_RATE_HZ}")
    return int(rate)


def _clips(views: Sequence[View], arrays: Mapping[str, NDArray[np.generic]], rate_hz: int) -> list[Floats]:
    n_clips = sum(name.startswith("clip_") for name in arrays)
    if not 1 <= n_clips <= MAX_CLIPS:
        raise BundleError(f"golden.npz: {n_clips} clips, expected 1 to {MAX_CLIPS}")
    lowest = max(view.spec.min_rate_hz for view in views)
    if rate_hz < lowest:
        raise BundleError(f"golden.npz: rate_hz is {rate_hz}, its features need at least {lowest}")
    clips = [_stored(arrays, f"clip_{index}", None) for index in range(n_clips)]
    seconds = sum(len(clip) for clip in clips) / rate_hz
    if seconds > MAX_CLIP_S:
        raise BundleError(f"golden.npz: {seconds:.0f} s of audio, at most {MAX_CLIP_S:g} s are accepted")
    n_windows = sum(int(len(clip) / rate_hz / views[0].spec.window_s) for clip in clips)
    points = max(view.spec.n_frames * view.spec.n_fft for view in views)
    if n_windows > min(MAX_WINDOWS, MAX_TRANSFORM_POINTS // points):
        raise BundleError(f"golden.npz: {n_windows} windows of {points} transform points, which is too much to check")
    return clips


def _stored(arrays: Mapping[str, NDArray[np.generic]], name: str, shape: tuple[int, ...] | None) -> Floats:
    array = arrays.get(name)
    if array is None:
        raise BundleError(f"golden.npz: {name} is missing")
    if array.dtype != np.float32 or (array.ndim != 1 if shape is None else array.shape != shape):
        raise BundleError(f"golden.npz: {name} is {array.dtype} {array.shape}, expected float32 {shape or '(n,)'}")
    return array.astype(np.float32, copy=False)


def _compare(name: str, found: Floats, stored: Floats, rtol: float, atol: float) -> None:
    # Written so that NaN fails.
    if not (np.abs(found - stored) <= atol + rtol * np.abs(stored)).all():
        worst = float(np.max(np.abs(found - stored)))
        raise BundleError(
            f"golden.npz: {name} differs by up to {worst:.3g} from what it was made with; "
            "this machine or this detectd does not compute what was trained"
        )

"""Score windows with a bundle: ONNX graphs, then what its kind makes of their outputs.

Every score is a float, higher = more like the target. Nothing here knows of thresholds, streams or time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from detectd import __version__
from detectd.bundles.bundle import Bundle, load_bundle, of_bundle
from detectd.bundles.golden import check_golden, extreme_windows
from detectd.errors import BundleError
from detectd.onnx_guard.graph import MAX_BATCH

Floats = NDArray[np.float32]
Labels = NDArray[np.intp]
Head = Callable[[list[Floats]], tuple[Floats, Labels | None]]
"""One graph output ``(batch, ...)`` a view to scores ``(batch,)`` and, for few-shot, indices into `Scorer.labels`."""

LOWEST_SCORE = float(np.finfo(np.float32).min)
"""What a score that is no number becomes: finite, and never an alarm of presence."""


class Scorer:
    """A loaded bundle, ready to score.

    Attributes
    ----------
    bundle : Bundle
    labels : tuple of str
        What may be found; one for binary and one-class.
    non_finite : int
        Scores so far that were no finite number and became `LOWEST_SCORE`.

    Raises
    ------
    BundleError
        If this detectd cannot score that kind, or ONNX Runtime refuses a graph.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.labels: tuple[str, ...] = (bundle.manifest.label,)
        self.non_finite = 0
        self._head = _head(bundle)
        self._runs = [
            (_session(bundle, view.graph), [view.output_name], view.input_name) for view in bundle.manifest.views
        ]

    def score(self, windows: Sequence[Floats]) -> Floats:
        """Score windows.

        Parameters
        ----------
        windows : sequence of C-contiguous float32 arrays, shape (batch, *spec.shape)
            One a view, in the manifest's order.

        Returns
        -------
        float32 array, shape (batch,)
            Finite.
        """
        return self.score_labelled(windows)[0]

    def probe(self, windows: Sequence[Floats]) -> Floats:
        """Score windows of a bundle that nothing has been heard of yet.

        Raises
        ------
        BundleError
            If ONNX Runtime cannot run a graph.
        """
        try:
            return self.score(windows)
        except Exception as error:  # noqa: BLE001  # the runtime's exceptions share no base class of their own
            raise BundleError(
                f"its graph fails in ONNX Runtime {onnxruntime.__version__}: {_first_line(error)}"
            ) from None

    def score_labelled(self, windows: Sequence[Floats]) -> tuple[Floats, Labels | None]:
        """Score windows as `score` does, and say which of `labels` each is most like; None where there is only one."""
        parts = [self._chunk(windows, first) for first in range(0, len(windows[0]), MAX_BATCH)]
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return np.empty(0, np.float32), None
        labels = [label for _, label in parts if label is not None]
        return np.concatenate([values for values, _ in parts]), np.concatenate(labels) if labels else None

    def _chunk(self, windows: Sequence[Floats], first: int) -> tuple[Floats, Labels | None]:
        outputs = [
            session.run(names, {source: of_view[first : first + MAX_BATCH]})[0]
            for (session, names, source), of_view in zip(self._runs, windows, strict=True)
        ]
        values, labels = self._head(outputs)
        finite = np.isfinite(values)
        if not finite.all():
            self.non_finite += int(np.count_nonzero(~finite))
            values = np.where(finite, values, np.float32(LOWEST_SCORE))
        return values, labels


def open_detector_bundle(path: str | Path) -> Scorer:
    """Load a bundle, make it ready and check that it still computes what it was made with.

    Raises
    ------
    BundleError
    """
    bundle = load_bundle(path)
    try:
        scorer = Scorer(bundle)
        check_golden(bundle.manifest.views, bundle.arrays["golden.npz"], scorer.probe)
        for name, windows in extreme_windows(bundle.manifest.views):
            scorer.probe(windows)
            _check_finite(scorer, name)
    except BundleError as error:
        raise of_bundle(path, error) from None
    return scorer


def _check_finite(scorer: Scorer, name: str) -> None:
    if scorer.non_finite:
        raise BundleError(f"its score of {name} is not a finite number; train it again")


def _head(bundle: Bundle) -> Head:
    """Choose what turns graph outputs into scores; the one place that tells kinds apart."""
    manifest = bundle.manifest
    if manifest.kind != "binary":
        raise BundleError(f"kind {manifest.kind!r} cannot be scored by detectd {__version__}, which scores: binary")
    for view in manifest.views:
        if view.output != "score":
            raise BundleError(f"view {view.name!r} gives an {view.output}, kind 'binary' needs a score")
    if manifest.head is not None:
        raise BundleError(f"a head for kind 'binary' cannot be scored by detectd {__version__}; upgrade detectd")
    return _sum_of([view.weight for view in manifest.views])


def _sum_of(weights: Sequence[float]) -> Head:
    """Weighted sum of the views' scores."""
    factors = [np.float32(weight) for weight in weights]

    def head(outputs: list[Floats]) -> tuple[Floats, Labels | None]:
        total = outputs[0] if factors[0] == 1 else outputs[0] * factors[0]
        for output, factor in zip(outputs[1:], factors[1:], strict=True):
            total = total + output * factor
        return total, None

    return head


def _session(bundle: Bundle, graph: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # One core a session, and none of it burnt waiting: the engine gets its parallelism from batches and workers.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; warnings about a graph are for those who made it
    try:
        return onnxruntime.InferenceSession(bundle.graphs[graph], options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  # the runtime's exceptions share no base class of their own
        raise BundleError(
            f"{graph} is refused by ONNX Runtime {onnxruntime.__version__}: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

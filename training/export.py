"""From a trained network to a bundle that the daemon accepts."""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from detectd.bundles.arrays import npz_bytes
from detectd.bundles.golden import golden_arrays
from detectd.bundles.manifest import View
from detectd.dsp.spec import FeatureSpec
from detectd.dsp.synth import Signature, clip
from detectd.errors import BundleError
from training.fit import score_windows

OPSET = 18
INPUT, OUTPUT = "windows", "score"
RTOL, ATOL = 1e-4, 1e-5
_CHECKED_BATCHES = (1, 3, 8)
_GOLDEN_SNRS_DB = (20.0, -5.0, -20.0)


def to_onnx(network: nn.Module, spec: FeatureSpec) -> bytes:
    """Export a network to one ONNX file with a dynamic batch, and compare what it computes with torch.

    Raises
    ------
    BundleError
        If ONNX Runtime and torch disagree.
    """
    network.eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The tracing exporter: torch calls it old, but it needs no further package, takes a tenth of a second and
        # emits just the operators written in the model.
        warnings.simplefilter("ignore", DeprecationWarning)
        path = Path(folder) / "backbone.onnx"
        torch.onnx.export(
            network,
            (torch.zeros(2, *spec.shape),),
            path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
            dynamo=False,
        )
        graph = path.read_bytes()
    _compare(network, graph, spec)
    return graph


def _compare(network: nn.Module, graph: bytes, spec: FeatureSpec) -> None:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for batch in _CHECKED_BATCHES:
        pictures = np.abs(rng.standard_normal((batch, *spec.shape), dtype=np.float32))
        (found,) = session.run([OUTPUT], {INPUT: pictures})
        expected = score_windows(network, pictures)
        if found.shape != (batch,) or not np.allclose(found, expected, rtol=RTOL, atol=ATOL):
            raise BundleError(f"the exported graph differs from torch: {found} instead of {expected}")


def golden_bytes(network: nn.Module, view: View) -> bytes:
    """Bytes of golden.npz: clips of tones in noise with torch's own scores.

    Synthetic clips, not the user's: a bundle may be given away where its recordings may not.
    """
    spec = view.spec
    rate_hz = max(8000, spec.min_rate_hz)

    def score(windows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        return score_windows(network, windows[0])

    return npz_bytes(golden_arrays([view], _golden_clips(spec, rate_hz), rate_hz, score))


def _golden_clips(spec: FeatureSpec, rate_hz: int) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    clips = []
    for snr_db in _GOLDEN_SNRS_DB:
        lines_hz = rng.choice(spec.frequencies_hz, 3) + rng.uniform(1.0, 2.0)
        clips.append(clip(Signature(tuple(lines_hz)), snr_db, spec.window_s, rate_hz, rng))
    return clips

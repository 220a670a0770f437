"""A real bundle, small enough to make in a test: mean over time, one dense layer."""

import dataclasses
import hashlib
import json

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from detectd.bundles.arrays import npz_bytes
from detectd.bundles.bundle import save_bundle
from detectd.bundles.golden import golden_arrays
from detectd.bundles.manifest import Manifest, Threshold, View
from detectd.dsp.spec import FeatureSpec

RATE_HZ = 8000
STFT = FeatureSpec("stft", 20.0, 900.0, 2000, 1.0, frame_s=0.25, frame_hop_s=0.125)
LINE = FeatureSpec("line", 20.0, 900.0, 2000, 1.0, zero_pad=2, floor_hz=100.0)


def model(nodes, inputs, outputs, constants=(), opset=18, **more):
    """A serialised model; shapes are tuples, constants arrays by name."""
    info = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in part.items()]
        for part in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in dict(constants).items()]
    graph = helper.make_graph(nodes, "g", *info, initializer=tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **more)
    return made.SerializeToString()


def weights(spec):
    return np.random.default_rng(3).standard_normal(spec.shape[-1]).astype(np.float32) / 10


def dense_graph(spec):
    """Scores (batch,) by the weights of `weights`; a picture is averaged over time first."""
    over_time = (
        [helper.make_node("ReduceMean", ["windows", "one"], ["mean"], keepdims=0)] if len(spec.shape) == 2 else []
    )
    nodes = [*over_time, helper.make_node("MatMul", ["mean" if over_time else "windows", "weights"], ["score"])]
    constants = {"weights": weights(spec)} | ({"one": np.array([1])} if over_time else {})
    return model(nodes, {"windows": ("batch", *spec.shape)}, {"score": ("batch",)}, constants)


def dense_scores(spec, windows):
    """The same by numpy, in float64."""
    rows = windows.mean(1, dtype=np.float64) if windows.ndim == 3 else windows.astype(np.float64)
    return rows @ weights(spec).astype(np.float64)


def clips():
    rng = np.random.default_rng(5)
    time = np.arange(2 * RATE_HZ) / RATE_HZ
    return [
        (0.1 * np.sin(2 * np.pi * hz * time) + 0.02 * rng.standard_normal(len(time))).astype(np.float32)
        for hz in (100, 440)
    ]


def manifest(views, **changes):
    made = Manifest(
        name="tiny",
        kind="binary",
        label="hum",
        created="2026-01-31T12:00:00Z",
        views=tuple(views),
        threshold=Threshold(1.0, 0.5, "by hand"),
        evaluation={"auc": 0.5},
        training={"seed": 3},
    )
    return dataclasses.replace(made, **changes)


def picture_view(**changes):
    return dataclasses.replace(View("picture", "backbone.onnx", STFT), **changes)


def tiny_files(views=None):
    """Content of the bundle by file name."""
    views = views or [picture_view()]
    golden = golden_arrays(
        views,
        clips(),
        RATE_HZ,
        lambda windows: sum(
            view.weight * dense_scores(view.spec, of_view) for view, of_view in zip(views, windows, strict=True)
        ),
    )
    return {view.graph: dense_graph(view.spec) for view in views} | {"golden.npz": npz_bytes(golden)}


def make_tiny(path, views=None, files=None, **changes):
    views = views or [picture_view()]
    return save_bundle(path, manifest(views, **changes), files or tiny_files(views))


def rewrite(path, change):
    """Change manifest.json's table by a function and put the digest right: what an attacker can always do."""
    table = json.loads((path / "manifest.json").read_bytes())
    change(table)
    seal(path, json.dumps(table).encode())


def seal(path, listing):
    (path / "manifest.json").write_bytes(listing)
    (path / "manifest.sha256").write_text(hashlib.sha256(listing).hexdigest() + "\n")


def put(path, name, data):
    """Replace a file and its entry in the manifest."""
    (path / name).write_bytes(data)
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewrite(path, lambda table: table["files"].__setitem__(name, entry))

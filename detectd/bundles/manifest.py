"""manifest.json: what a bundle says about itself. Pure: text in, checked values out, and back."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from detectd.bundles.json_table import Table, read_json
from detectd.dsp.spec import FeatureSpec
from detectd.errors import BundleError

Kind = Literal["binary", "one-class", "few-shot"]
Holds = Literal["score", "embedding"]

SCHEMA = 1
SINGLE_GRAPH = "backbone.onnx"
VIEW_NAMES = ("picture", "line", "texture")
CONTENT_NAMES = (
    SINGLE_GRAPH,
    *(f"{view}.onnx" for view in VIEW_NAMES),
    "head.npz",
    "head.pkl",
    "references.npz",
    "golden.npz",
)
"""Every file a manifest may list."""

MAX_FILE_BYTES = 64 * 2**20
MAX_EMBEDDING = 65_536
MAX_TRANSFORM_POINTS = 2**22
"""Of one window: frames times transform length, whatever the band keeps of them."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")


@dataclass(frozen=True, slots=True)
class View:
    """One way of looking at a window: its features, the graph that reads them and what comes out.

    Attributes
    ----------
    name : {'picture', 'line', 'texture'}
    graph : str
        File name: ``backbone.onnx`` for the only view of a bundle, else ``NAME.onnx``.
    spec : FeatureSpec
    weight : float
        Factor of this view's score in the sum over views.
    input_name, output_name : str
        Tensors of the graph: float32 ``(batch, *spec.shape)`` in, float32 ``(batch, *output_shape)`` out.
    output : {'score', 'embedding'}
    output_shape : tuple of int
        Without the batch axis: ``()`` for a score, ``(size,)`` for an embedding.
    """

    name: str
    graph: str
    spec: FeatureSpec
    weight: float = 1.0
    input_name: str = "windows"
    output_name: str = "score"
    output: Holds = "score"
    output_shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Threshold:
    """An event starts at a score of `on` and lasts while scores reach `off`; ``off <= on``."""

    on: float
    off: float
    method: str


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size in bytes and SHA-256 (64 lower-case hex digits) of one listed file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole of manifest.json.

    Notes
    -----
    `tail`, `calibration`, `evaluation` and `training` are tables whose content belongs to whoever reads them; here
    they are only known to be JSON with finite numbers. Unknown keys are accepted at the top level, because what
    changes a score shows in the golden check and what changes a meaning raises `SCHEMA`; everywhere else they are
    refused, because a view, threshold or file entry only half understood would be used wrongly.
    """

    name: str
    kind: Kind
    label: str
    created: str
    views: tuple[View, ...]
    threshold: Threshold
    head: dict[str, Any] | None = None
    tail: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    evaluation: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    files: dict[str, FileEntry] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def window_s(self) -> float:
        """Length in seconds of one window; the same in all views."""
        return self.views[0].spec.window_s

    def with_files(self, files: dict[str, FileEntry]) -> Manifest:
        """Make a copy that lists `files`."""
        return replace(self, files=files)


def parse_manifest(data: bytes) -> Manifest:
    """Read and check the bytes of manifest.json.

    Raises
    ------
    BundleError
        Naming the key, what it holds and what is expected.
    """
    table = Table(read_json(data))
    schema = table.take("schema", int)
    if schema != SCHEMA:
        raise BundleError(f"schema {schema}, this detectd reads schema {SCHEMA}; install the detectd it was made for")
    manifest = Manifest(
        name=table.matching("name", _NAME, "letters, digits, '.', '_' or '-', at most 64"),
        kind=table.choice("kind", get_args(Kind)),
        label=table.text("label", 100),
        created=table.matching("created", _TIME, "a UTC time such as 2026-01-31T12:00:00Z"),
        views=tuple(_view(Table(item, f"views[{i}]")) for i, item in enumerate(table.take("views", list))),
        threshold=_threshold(Table(table.take("threshold", dict), "threshold")),
        head=table.optional("head"),
        tail=table.optional("tail"),
        calibration=table.optional("calibration"),
        evaluation=table.take("evaluation", dict),
        training=table.take("training", dict),
        files=_files(table.take("files", dict)),
    )
    _check_views(manifest)
    return manifest


def manifest_bytes(manifest: Manifest) -> bytes:
    """Bytes of manifest.json: the same manifest always gives the same bytes.

    Raises
    ------
    BundleError
        If it holds what `parse_manifest` would refuse.
    """
    table: dict[str, Any] = {
        "schema": manifest.schema,
        "name": manifest.name,
        "kind": manifest.kind,
        "label": manifest.label,
        "created": manifest.created,
        "views": [_view_table(view) for view in manifest.views],
        "threshold": {
            "on": manifest.threshold.on,
            "off": manifest.threshold.off,
            "method": manifest.threshold.method,
        },
        "head": manifest.head,
        "tail": manifest.tail,
        "calibration": manifest.calibration,
        "evaluation": manifest.evaluation,
        "training": manifest.training,
        "files": {name: {"size": entry.size, "sha256": entry.sha256} for name, entry in manifest.files.items()},
    }
    try:
        text = json.dumps(table, indent=2, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BundleError(f"manifest.json cannot hold this manifest: {error}") from error
    data = f"{text}\n".encode("ascii")
    parse_manifest(data)
    return data


def _view_table(view: View) -> dict[str, Any]:
    return {
        "name": view.name,
        "graph": view.graph,
        "weight": view.weight,
        "features": view.spec.to_dict(),
        "input": {"name": view.input_name, "shape": ["batch", *view.spec.shape]},
        "output": {"name": view.output_name, "shape": ["batch", *view.output_shape], "holds": view.output},
    }


def _view(table: Table) -> View:
    table.only("name", "graph", "weight", "features", "input", "output")
    source = Table(table.take("input", dict), f"{table.where}input")
    result = Table(table.take("output", dict), f"{table.where}output")
    source.only("name", "shape")
    result.only("name", "shape", "holds")
    holds: Holds = result.choice("holds", get_args(Holds))
    try:
        spec = FeatureSpec.from_dict(table.take("features", dict))
    except (BundleError, OverflowError) as error:
        raise BundleError(f"{table.where}features: {error}") from None
    if spec.n_frames * spec.n_fft > MAX_TRANSFORM_POINTS:
        raise BundleError(
            f"{table.where}features: {spec.n_frames} transforms of {spec.n_fft} points a window are too many"
        )
    if source.take("shape", list) != ["batch", *spec.shape]:
        raise source.wrong("shape", f"{['batch', *spec.shape]}, which is what its features give")
    return View(
        name=table.choice("name", VIEW_NAMES),
        graph=table.text("graph", 64),
        spec=spec,
        weight=table.number("weight"),
        input_name=source.text("name", 64),
        output_name=result.text("name", 64),
        output=holds,
        output_shape=_output_shape(result, holds),
    )


def _output_shape(table: Table, holds: Holds) -> tuple[int, ...]:
    shape = table.take("shape", list)
    sizes = shape[1:]
    if shape[:1] != ["batch"] or not all(type(size) is int and 0 < size <= MAX_EMBEDDING for size in sizes):
        raise table.wrong("shape", f"'batch', then sizes of 1 to {MAX_EMBEDDING}")
    if len(sizes) != (0 if holds == "score" else 1):
        raise table.wrong("shape", "['batch'] for a score, ['batch', size] for an embedding")
    return tuple(sizes)


def _check_views(manifest: Manifest) -> None:
    names = [view.name for view in manifest.views]
    if not 1 <= len(names) == len(set(names)):
        raise BundleError(f"views are {names}, expected at least one and none twice")
    for view in manifest.views:
        expected = SINGLE_GRAPH if len(names) == 1 else f"{view.name}.onnx"
        if view.graph != expected:
            raise BundleError(f"view {view.name!r} has graph {view.graph!r}, expected {expected!r}")
        if view.spec.window_s != manifest.window_s:
            raise BundleError(
                f"view {view.name!r} has window_s {view.spec.window_s:g}, {names[0]!r} {manifest.window_s:g}"
            )


def _threshold(table: Table) -> Threshold:
    table.only("on", "off", "method")
    threshold = Threshold(on=table.number("on"), off=table.number("off"), method=table.text("method", 200))
    if threshold.off > threshold.on:
        raise BundleError(f"threshold.off {threshold.off:g} is above threshold.on {threshold.on:g}")
    return threshold


def _files(values: dict[str, Any]) -> dict[str, FileEntry]:
    files = {}
    for name, entry in values.items():
        if name not in CONTENT_NAMES:
            raise BundleError(f"files lists {name[:80]!r}, expected only {', '.join(CONTENT_NAMES)}")
        table = Table(entry, f"files.{name}")
        table.only("size", "sha256")
        size = table.take("size", int)
        if not 0 <= size <= MAX_FILE_BYTES:
            raise table.wrong("size", f"0 to {MAX_FILE_BYTES} bytes")
        files[name] = FileEntry(size, table.matching("sha256", _DIGEST, "64 lower-case hex digits"))
    return files

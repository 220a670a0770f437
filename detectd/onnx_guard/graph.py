"""Decide whether an ONNX graph from somebody else may be given to ONNX Runtime, and say what it costs.

Everything is worked out from the bytes, in milliseconds and before the runtime sees them: what it is made of
(`onnx_proto`), and the shape of every tensor (`onnx_shapes`, `onnx_layers`) for every batch the daemon will use.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from detectd.errors import BundleError
from detectd.onnx_guard.layers import OPERATORS, multiply_adds
from detectd.onnx_guard.proto import FLOAT, Graph, ValueInfo, parse_model
from detectd.onnx_guard.shapes import Value, require

MAX_BATCH = 32
"""Most windows in one call of a graph: 8 to 32 measured fastest, larger ones slower. Bounds below are for this many."""

MAX_MODEL_BYTES = 64 * 2**20
MAX_NODES = 1024
MAX_ELEMENTS = 2**25
"""Of one tensor."""
MAX_TOTAL_ELEMENTS = 2**27
"""Of all tensors that are computed: 512 MB, if none gave its memory back."""
MAX_MULTIPLY_ADDS = 2**32
"""Seconds of one core at worst; a daemon that keeps up with thousands of streams uses a hundredth."""

OPSETS = range(13, 22)
"""Below, axes and pads were written otherwise; above, no exporter of ours writes and no rule was checked."""

Sizes = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class GraphSummary:
    """What a graph takes, gives, consists of and costs; None in a shape is the batch size.

    Attributes
    ----------
    inputs, outputs : dict of str to shape
    operators : dict of str to int
        How often each stands in it.
    opset : int
    n_parameters : int
    multiply_adds : int
        For one window; for what is no matrix product, values read or written.
    """

    inputs: dict[str, Sizes]
    outputs: dict[str, Sizes]
    operators: dict[str, int]
    opset: int
    n_parameters: int
    multiply_adds: int

    def expect(self, inputs: Mapping[str, tuple[int, ...]], outputs: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse other inputs than these and a lack of these outputs; shapes are without the batch axis.

        Raises
        ------
        BundleError
        """
        for what, wanted, found in (("input", inputs, self.inputs), ("output", outputs, self.outputs)):
            for name, shape in wanted.items():
                if found.get(name) != (None, *shape):
                    has = ", ".join(f"{key!r} {_shown(value)}" for key, value in found.items())
                    raise BundleError(f"its {what}s are {has[:200]}, expected {name!r} {_shown((None, *shape))}")
        if len(self.inputs) > len(inputs):
            raise BundleError(f"{len(self.inputs)} inputs, expected {len(inputs)}")


def check_graph(data: bytes) -> GraphSummary:
    """Check a serialised ONNX model.

    Raises
    ------
    BundleError
        If it is anything but one graph of known operators on constants within the file, or could need more memory or
        time than the bounds of this module for any batch up to `MAX_BATCH`.
    """
    if len(data) > MAX_MODEL_BYTES:
        raise BundleError(f"a model of {len(data)} bytes, at most {MAX_MODEL_BYTES} are accepted")
    try:
        graph = parse_model(data)
        _check_structure(graph)
        one, many = _Trace(graph, 1), _Trace(graph, MAX_BATCH)
        for batch in range(2, MAX_BATCH) if _computes_with_batch(graph, one, many) else ():
            _Trace(graph, batch)
        _check_declared(graph, one, many)
        return _summary(graph, one, many)
    except (ValueError, TypeError, IndexError, KeyError, ArithmeticError) as error:
        # What no rule foresaw: refused like the rest, since others wrote the bytes.
        raise BundleError(f"not a graph that can be checked ({type(error).__name__}: {error})") from error


def _check_structure(graph: Graph) -> None:
    if graph.opset not in OPSETS:
        raise BundleError(f"opset {graph.opset}, expected {OPSETS[0]} to {OPSETS[-1]}; export with opset_version=18")
    require(len(graph.nodes) <= MAX_NODES, f"{len(graph.nodes)} operators, at most {MAX_NODES} are accepted")
    edges = sum(len(node.inputs) + len(node.outputs) for node in graph.nodes)
    require(edges <= 8 * MAX_NODES, f"operators of {edges} inputs and outputs, at most {8 * MAX_NODES} are accepted")
    strangers = sorted({node.op[:40] for node in graph.nodes} - OPERATORS.keys())
    require(not strangers, f"operator {', '.join(strangers)[:200]}: not accepted")
    made = [tensor.name for tensor in graph.constants] + [info.name for info in graph.inputs]
    made += [name for node in graph.nodes for name in node.outputs if name]
    twice = [name for name, count in Counter(made).items() if count > 1 or not name]
    require(not twice, f"tensor {twice[0][:40] if twice else ''!r} is made twice or has no name")
    require(1 <= len(graph.inputs) <= 4 and 1 <= len(graph.outputs) <= 4, "expected 1 to 4 inputs and outputs")
    for info in graph.inputs:
        require(info.dtype == FLOAT, f"input {info.name[:40]!r} is not float32")
        sizes = info.shape or ()
        require(
            sizes[:1] == (None,) and all(sizes[1:]),
            f"input {info.name[:40]!r} is {_shown(sizes)}, expected (batch, ...)",
        )


class _Trace:
    """Shapes of all tensors for one batch size."""

    def __init__(self, graph: Graph, batch: int) -> None:
        self.total = 0
        self.multiply_adds = 0
        self.values: dict[str, Value] = {}
        for tensor in graph.constants:
            self._add(tensor.name, Value(tensor.dtype, tensor.shape, tensor.ints, tensor.bounds))
        for info in graph.inputs:
            self._add(info.name, Value(FLOAT, tuple(size or batch for size in info.shape or ())))
        for index, node in enumerate(graph.nodes):
            try:
                inputs = [self.values[name] if name else None for name in node.inputs]
                outputs = OPERATORS[node.op].outputs(node, inputs)
                for name, value in zip(node.outputs, outputs, strict=False):
                    self._add(name, value)
                self.multiply_adds += multiply_adds(node, inputs, outputs)
            except KeyError as error:
                raise BundleError(
                    f"operator {index} ({node.op}): input {str(error)[:40]} is not made before it"
                ) from None
            except BundleError as error:
                raise BundleError(f"operator {index} ({node.op}), batch of {batch}: {error}") from None
        require(self.multiply_adds <= MAX_MULTIPLY_ADDS, f"{self.multiply_adds} multiply-adds for {batch} windows")

    def _add(self, name: str, value: Value) -> None:
        elements = math.prod(value.shape)
        require(len(value.shape) <= 8, f"a tensor of rank {len(value.shape)}")
        require(elements > 0 or value.ints is not None, f"a tensor of shape {value.shape}, which is empty")
        require(
            elements <= MAX_ELEMENTS, f"a tensor of shape {value.shape}: at most {MAX_ELEMENTS} elements are accepted"
        )
        self.total += elements
        require(self.total <= MAX_TOTAL_ELEMENTS, f"tensors of more than {MAX_TOTAL_ELEMENTS} elements together")
        self.values[name] = value


_MONOTONE = {
    *("Shape", "Gather", "Concat", "Squeeze", "Unsqueeze", "Identity", "Cast", "Reshape", "Transpose"),
    *("ConstantOfShape", "Expand"),
}
"""Operators that can only make a shape grow with the batch, or shrink, from one end of its range to the other."""


def _computes_with_batch(graph: Graph, one: _Trace, many: _Trace) -> bool:
    """Tell whether some batch between could need more than both 1 and `MAX_BATCH` do, as (33 - b) * b does."""

    def differs(name: str) -> bool:
        first, last = one.values[name].ints, many.values[name].ints
        return first is not None and last is not None and not np.array_equal(first, last)

    return any(node.op not in _MONOTONE and any(map(differs, filter(None, node.inputs))) for node in graph.nodes)


def _check_declared(graph: Graph, one: _Trace, many: _Trace) -> None:
    """Refuse declared shapes that are not true: the runtime plans its memory by them."""
    for info in (*graph.declared, *graph.outputs):
        for trace in (one, many):
            shape = trace.values[info.name].shape if info.name in trace.values else None
            fits = (
                shape is None
                or info.shape is None
                or (
                    len(shape) == len(info.shape)
                    and all(said in (None, size) for said, size in zip(info.shape, shape, strict=True))
                )
            )
            require(fits, f"tensor {info.name[:40]!r} is declared {_shown(info.shape or ())[:80]} and is {shape}")


def _summary(graph: Graph, one: _Trace, many: _Trace) -> GraphSummary:
    return GraphSummary(
        inputs={info.name: info.shape or () for info in graph.inputs},
        outputs={info.name: _output(info, one, many) for info in graph.outputs},
        operators=dict(sorted(Counter(node.op for node in graph.nodes).items())),
        opset=graph.opset,
        n_parameters=sum(math.prod(tensor.shape) for tensor in graph.constants if tensor.dtype == FLOAT),
        multiply_adds=round(many.multiply_adds / MAX_BATCH),
    )


def _output(info: ValueInfo, one: _Trace, many: _Trace) -> Sizes:
    """Shape of an output as it comes out, whatever the file declares."""
    value, shape = many.values.get(info.name), one.values[info.name].shape if info.name in one.values else ()
    if value is None or value.dtype != FLOAT or info.dtype != FLOAT:
        raise BundleError(f"output {info.name[:40]!r} is not made, or is not float32")
    if shape[:1] != (1,) or value.shape != (MAX_BATCH, *shape[1:]):
        raise BundleError(f"output {info.name[:40]!r} is {shape} for 1 window and {value.shape} for {MAX_BATCH}")
    return (None, *shape[1:])


def _shown(shape: Sizes) -> str:
    return f"({', '.join('batch' if size is None else str(size) for size in shape)})"

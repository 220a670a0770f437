"""More operators a bundle's graph may use: those that move values about, and the layers of a network.

Rules as in `detectd.onnx_guard.shapes`; `multiply_adds` says what a node costs.
"""

from __future__ import annotations

import math

import numpy as np

from detectd.onnx_guard.proto import INT64, Node
from detectd.onnx_guard.shapes import (
    BASIC_OPERATORS,
    Inputs,
    Operator,
    Shape,
    Value,
    axes_of,
    axis_of,
    broadcast,
    given,
    known,
    real,
    require,
)


def _reshaped(value: Value, shape: Shape) -> list[Value]:
    require(math.prod(shape) == math.prod(value.shape), f"shape {value.shape} to {shape}")
    ints = None if value.ints is None else value.ints.reshape(shape)
    return [Value(value.dtype, shape, ints, value.bounds)]


def _reshape(node: Node, inputs: Inputs) -> list[Value]:
    value, wanted = given(inputs, 0), known(inputs, 1)
    require(not node.flag("allowzero") and len(wanted) <= 8, "allowzero or a rank above 8")
    require(wanted.count(-1) <= 1 and min(wanted, default=0) >= -1, f"to shape {wanted}")
    require(all(size or axis < len(value.shape) for axis, size in enumerate(wanted)), f"to shape {wanted}")
    sizes = [size or value.shape[axis] for axis, size in enumerate(wanted)]
    if -1 in sizes:
        rest = -math.prod(sizes)
        sizes[sizes.index(-1)] = math.prod(value.shape) // rest if rest else 0
    return _reshaped(value, tuple(sizes))


def _flatten(node: Node, inputs: Inputs) -> list[Value]:
    value = given(inputs, 0)
    axis = node.integer("axis", 1)
    require(-len(value.shape) <= axis <= len(value.shape), f"axis {axis}")
    axis += len(value.shape) if axis < 0 else 0
    return _reshaped(value, (math.prod(value.shape[:axis]), math.prod(value.shape[axis:])))


def _squeeze(node: Node, inputs: Inputs) -> list[Value]:
    value = given(inputs, 0)
    axes = axes_of(node, inputs, len(value.shape))
    if axes is None:
        axes = [axis for axis, size in enumerate(value.shape) if size == 1]
    return _reshaped(value, tuple(size for axis, size in enumerate(value.shape) if axis not in axes))


def _unsqueeze(node: Node, inputs: Inputs) -> list[Value]:
    value = given(inputs, 0)
    n_axes = len(known(inputs, 1))
    axes = axes_of(node, inputs, len(value.shape) + n_axes) or []
    rest = iter(value.shape)
    return _reshaped(value, tuple(1 if axis in axes else next(rest) for axis in range(len(value.shape) + n_axes)))


def _transpose(node: Node, inputs: Inputs) -> list[Value]:
    value = given(inputs, 0)
    order = node.integers("perm") or tuple(reversed(range(len(value.shape))))
    require(sorted(order) == list(range(len(value.shape))), f"perm {order}")
    ints = None if value.ints is None else value.ints.transpose(order)
    return [Value(value.dtype, tuple(value.shape[axis] for axis in order), ints, value.bounds)]


def _expand(_: Node, inputs: Inputs) -> list[Value]:
    value, wanted = given(inputs, 0), known(inputs, 1)
    require(min(wanted, default=0) >= 0, f"to shape {wanted}")
    return [Value(value.dtype, broadcast(value.shape, tuple(wanted)))]


def _tile(_: Node, inputs: Inputs) -> list[Value]:
    value, repeats = given(inputs, 0), known(inputs, 1)
    require(len(repeats) == len(value.shape) and min(repeats, default=1) >= 1, f"repeats {repeats}")
    return [Value(value.dtype, tuple(size * times for size, times in zip(value.shape, repeats, strict=True)))]


def _concat(node: Node, inputs: Inputs) -> list[Value]:
    values = [given(inputs, index) for index in range(len(inputs))]
    require(bool(values), "no input")
    rank = len(values[0].shape)
    axis = axis_of(node.integer("axis", 0), rank)
    rests = {value.shape[:axis] + value.shape[axis + 1 :] for value in values}
    require(len(rests) == 1 and all(len(value.shape) == rank for value in values), "shapes do not fit")
    shape = (*values[0].shape[:axis], sum(value.shape[axis] for value in values), *values[0].shape[axis + 1 :])
    ints = [value.ints for value in values if value.ints is not None]
    return [Value(values[0].dtype, shape, np.concatenate(ints) if len(ints) == len(values) and rank == 1 else None)]


def _slice(_: Node, inputs: Inputs) -> list[Value]:
    value, starts, ends = given(inputs, 0), known(inputs, 1), known(inputs, 2)
    axes = known(inputs, 3) if len(inputs) > 3 and inputs[3] else list(range(len(starts)))
    steps = known(inputs, 4) if len(inputs) > 4 and inputs[4] else [1] * len(starts)
    require(len(starts) == len(ends) == len(axes) == len(steps), "starts, ends, axes and steps differ in length")
    cuts = [slice(None)] * len(value.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        where = axis_of(axis, len(cuts))
        # ONNX and Python differ only in a backward slice that starts before the axis.
        require(step > 0 or (step < 0 and start >= -value.shape[where]), f"start {start} with step {step}")
        cuts[where] = slice(start, end, step)
    shape = tuple(len(range(size)[cut]) for size, cut in zip(value.shape, cuts, strict=True))
    return [Value(value.dtype, shape, None if value.ints is None else value.ints[tuple(cuts)])]


def _split(node: Node, inputs: Inputs) -> list[Value]:
    value = given(inputs, 0)
    axis = axis_of(node.integer("axis", 0), len(value.shape))
    size, n_parts = value.shape[axis], len(node.outputs)
    if len(inputs) > 1 and inputs[1] is not None:
        sizes = known(inputs, 1)
    else:
        part = -(-size // max(n_parts, 1))
        sizes = [max(0, min(part, size - part * index)) for index in range(n_parts)]
    require(node.integer("num_outputs", n_parts) == n_parts, "num_outputs is not the number of its outputs")
    require(len(sizes) == n_parts and sum(sizes) == size and min(sizes) >= 1, f"{size} into {sizes}")
    return [Value(value.dtype, (*value.shape[:axis], part, *value.shape[axis + 1 :])) for part in sizes]


def _gather(node: Node, inputs: Inputs) -> list[Value]:
    value, indices = given(inputs, 0), given(inputs, 1)
    axis = axis_of(node.integer("axis", 0), len(value.shape))
    shape = value.shape[:axis] + indices.shape + value.shape[axis + 1 :]
    bounds = indices.bounds
    if indices.ints is not None and indices.ints.size:
        bounds = int(indices.ints.min()), int(indices.ints.max())
    # Else a bundle could pass every check and fail on a sound that its maker chose.
    require(bounds is not None, "indices that are not known before it runs")
    low, high = bounds or (0, 0)
    require(-value.shape[axis] <= low and high < value.shape[axis], f"index {low} or {high} of {value.shape[axis]}")
    if value.ints is None or indices.ints is None:
        return [Value(value.dtype, shape)]
    return [Value(value.dtype, shape, np.take(value.ints, indices.ints, axis))]


def _pad(node: Node, inputs: Inputs) -> list[Value]:
    value, pads = given(inputs, 0), known(inputs, 1)
    rank = len(value.shape)
    axes = [axis_of(axis, rank) for axis in known(inputs, 3)] if len(inputs) > 3 and inputs[3] else list(range(rank))
    require(len(pads) == 2 * len(axes) == 2 * len(set(axes)), f"{len(pads)} pads for {len(axes)} axes")
    require(len(inputs) < 3 or inputs[2] is None or inputs[2].shape in ((), (1,)), "a padding value that is no scalar")
    mode = node.attributes.get("mode", b"constant")
    require(mode in (b"constant", b"edge", b"reflect") and min(pads, default=0) >= 0, "its mode, or a negative pad")
    sizes = list(value.shape)
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        require(mode != b"reflect" or max(before, after) < sizes[axis], "a reflection longer than the axis")
        sizes[axis] += before + after
    return [Value(value.dtype, tuple(sizes))]


def _top_k(node: Node, inputs: Inputs) -> list[Value]:
    value, count = real(given(inputs, 0)), known(inputs, 1)
    axis = axis_of(node.integer("axis", -1), len(value.shape))
    node.flag("largest", 1)
    node.flag("sorted", 1)
    require(len(count) == 1 and 1 <= count[0] <= value.shape[axis], f"{count} of {value.shape[axis]}")
    shape = (*value.shape[:axis], count[0], *value.shape[axis + 1 :])
    return [Value(value.dtype, shape), Value(INT64, shape, None, (0, value.shape[axis] - 1))]


def _kernel(node: Node, spatial: Shape, kernel: Shape) -> list[int]:
    """Sizes that a kernel sliding over `spatial` gives."""
    rank = len(spatial)
    strides = node.integers("strides", (1,) * rank) or ()
    dilations = node.integers("dilations", (1,) * rank) or ()
    pads = node.integers("pads", (0,) * 2 * rank) or ()
    require(node.attributes.get("auto_pad", b"NOTSET") == b"NOTSET", "auto_pad; write the pads out")
    require(1 <= rank <= 3 and len(kernel) == len(strides) == len(dilations) == rank, "ranks do not fit")
    require(len(pads) == 2 * rank and min(pads) >= 0, f"pads {pads}")
    require(min(*kernel, *strides, *dilations, 1) == 1, "a kernel, stride or dilation below 1")
    sizes = []
    for axis, size in enumerate(spatial):
        room = size + pads[axis] + pads[axis + rank] - dilations[axis] * (kernel[axis] - 1) - 1
        require(room >= 0, f"a kernel of {kernel[axis]} over {size} values")
        count = room // strides[axis] + 1
        if node.flag("ceil_mode") and room % strides[axis] and count * strides[axis] < size + pads[axis]:
            count += 1  # a last, incomplete place of the kernel, unless it would lie in the padding alone
        sizes.append(count)
    return sizes


def _conv(node: Node, inputs: Inputs) -> list[Value]:
    value, weights = real(given(inputs, 0)), given(inputs, 1)
    require(len(value.shape) == len(weights.shape) >= 3, "ranks do not fit")
    group = node.integer("group", 1)
    n_filters = weights.shape[0]
    require(group >= 1 and n_filters % group == 0 and weights.shape[1] * group == value.shape[1], "channels do not fit")
    require(
        node.integers("kernel_shape", weights.shape[2:]) == weights.shape[2:], "kernel_shape is not that of its weights"
    )
    require(len(inputs) < 3 or inputs[2] is None or inputs[2].shape == (n_filters,), "bias does not fit")
    return [Value(value.dtype, (value.shape[0], n_filters, *_kernel(node, value.shape[2:], weights.shape[2:])))]


def _pool(node: Node, inputs: Inputs) -> list[Value]:
    value, kernel = real(given(inputs, 0)), node.integers("kernel_shape") or ()
    sizes = _kernel(node, value.shape[2:], kernel)
    pads = node.integers("pads", (0,) * 2 * len(kernel)) or ()
    require(all(pad < size for pad, size in zip(pads, kernel + kernel, strict=True)), "a pad as long as the kernel")
    node.flag("count_include_pad")
    return [Value(value.dtype, (*value.shape[:2], *sizes))]


def _global_pool(_: Node, inputs: Inputs) -> list[Value]:
    value = real(given(inputs, 0))
    require(len(value.shape) >= 3, f"rank {len(value.shape)}")
    return [Value(value.dtype, value.shape[:2] + (1,) * (len(value.shape) - 2))]


def _normalise(node: Node, inputs: Inputs) -> list[Value]:
    value = real(given(inputs, 0))
    require(len(value.shape) >= 2, "expected (batch, channel, ...)")
    require(all(given(inputs, index).shape == value.shape[1:2] for index in range(1, 5)), "constants do not fit")
    require(not node.flag("training_mode"), "training mode")
    return [Value(value.dtype, value.shape)]


def _matmul(_: Node, inputs: Inputs) -> list[Value]:
    left, right = real(given(inputs, 0)), real(given(inputs, 1))
    require(bool(left.shape) and bool(right.shape), "a scalar")
    a = left.shape if len(left.shape) > 1 else (1, *left.shape)
    b = right.shape if len(right.shape) > 1 else (*right.shape, 1)
    require(a[-1] == b[-2], f"shapes {left.shape} and {right.shape}")
    rows = a[-2:-1] if len(left.shape) > 1 else ()
    columns = b[-1:] if len(right.shape) > 1 else ()
    return [Value(left.dtype, broadcast(a[:-2], b[:-2]) + rows + columns)]


def _gemm(node: Node, inputs: Inputs) -> list[Value]:
    a, b = real(given(inputs, 0)), real(given(inputs, 1))
    require(len(a.shape) == len(b.shape) == 2, "expected two matrices")
    rows, inner = a.shape[::-1] if node.flag("transA") else a.shape
    inner_b, columns = b.shape[::-1] if node.flag("transB") else b.shape
    require(inner == inner_b, f"shapes {a.shape} and {b.shape}")
    bias = inputs[2] if len(inputs) > 2 else None
    require(bias is None or broadcast(bias.shape, (rows, columns)) == (rows, columns), "bias does not fit")
    return [Value(a.dtype, (rows, columns))]


def _lstm(node: Node, inputs: Inputs) -> list[Value]:
    value, weights, recurrent = (real(given(inputs, index)) for index in range(3))
    require(len(value.shape) == 3, "expected (time, batch, feature)")
    n_steps, n_rows, n_features = value.shape
    n_hidden = node.integer("hidden_size", 0)
    ways = {b"forward": 1, b"reverse": 1, b"bidirectional": 2}
    n_ways = ways[node.attributes.get("direction", b"forward")]
    require(weights.shape == (n_ways, 4 * n_hidden, n_features), "input weights do not fit")
    require(recurrent.shape == (n_ways, 4 * n_hidden, n_hidden), "recurrent weights do not fit")
    state = (n_ways, n_rows, n_hidden)
    expected = {3: (n_ways, 8 * n_hidden), 5: state, 6: state, 7: (n_ways, 3 * n_hidden)}
    for index, extra in enumerate(inputs[3:], start=3):
        require(extra is None or extra.shape == expected.get(index), f"input {index} does not fit or is not accepted")
    shapes = [(n_steps, n_ways, n_rows, n_hidden), state, state]
    return [Value(value.dtype, shape) for shape in shapes[: len(node.outputs)]]


_TOP_K_COST = 64
"""Multiply-adds that sorting one value is worth, measured."""
_WINDOW = "auto_pad dilations kernel_shape pads strides"
OPERATORS: dict[str, Operator] = {
    **BASIC_OPERATORS,
    "Reshape": Operator(_reshape, 2, 2, "allowzero"),
    "Flatten": Operator(_flatten, attributes="axis"),
    "Squeeze": Operator(_squeeze, 1, 2),
    "Unsqueeze": Operator(_unsqueeze, 2, 2),
    "Transpose": Operator(_transpose, attributes="perm"),
    "Expand": Operator(_expand, 2, 2),
    "Tile": Operator(_tile, 2, 2),
    "Concat": Operator(_concat, 1, 256, "axis"),
    "Slice": Operator(_slice, 3, 5),
    "Split": Operator(_split, 1, 2, "axis num_outputs"),
    "Gather": Operator(_gather, 2, 2, "axis"),
    "Pad": Operator(_pad, 2, 4, "mode"),
    "TopK": Operator(_top_k, 2, 2, "axis largest sorted"),
    "Conv": Operator(_conv, 2, 3, f"{_WINDOW} group"),
    "MaxPool": Operator(_pool, attributes=f"{_WINDOW} ceil_mode"),
    "AveragePool": Operator(_pool, attributes=f"{_WINDOW} ceil_mode count_include_pad"),
    "GlobalAveragePool": Operator(_global_pool),
    "GlobalMaxPool": Operator(_global_pool),
    "BatchNormalization": Operator(_normalise, 5, 5, "epsilon momentum training_mode"),
    "MatMul": Operator(_matmul, 2, 2),
    "Gemm": Operator(_gemm, 2, 3, "alpha beta transA transB"),
    "LSTM": Operator(_lstm, 3, 8, "direction hidden_size"),
}
"""All that a graph may consist of."""


def multiply_adds(node: Node, inputs: Inputs, outputs: list[Value]) -> int:
    """Cost of one node; for what is no matrix product, the values it reads or writes."""
    result = math.prod(outputs[0].shape)
    if node.op == "Conv":
        return result * math.prod(given(inputs, 1).shape[1:])
    if node.op in ("MaxPool", "AveragePool"):
        return result * math.prod(node.integers("kernel_shape") or ())
    if node.op == "MatMul":
        return result * given(inputs, 0).shape[-1]
    if node.op == "Gemm":
        return math.prod(given(inputs, 0).shape) * outputs[0].shape[1]
    if node.op == "LSTM":
        n_steps, n_rows, _ = given(inputs, 0).shape
        return n_steps * n_rows * (math.prod(given(inputs, 1).shape) + math.prod(given(inputs, 2).shape))
    if node.op == "TopK":
        return _TOP_K_COST * math.prod(given(inputs, 0).shape)
    return max(result, *(math.prod(value.shape) for value in inputs if value is not None), 0)

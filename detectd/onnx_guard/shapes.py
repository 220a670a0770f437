"""The operators a bundle's graph may use, each as the rule that gives the shapes of its outputs.

A graph of a hundred bytes can ask for terabytes (Expand, Pad, an outer product, a Concat of itself forty times over),
so shapes are worked out before ONNX Runtime sees it. An operator without a rule here is refused, and so is one whose
shapes depend on more than constants and the batch size. Rules also refuse what kernels are known to take badly, such
as integer division by a value nobody knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from detectd.errors import BundleError
from detectd.onnx_guard.proto import BOOL, DOUBLE, FLOAT, INT32, INT64, MAX_KNOWN, Node, Tensor

Shape = tuple[int, ...]

_LARGEST_INT = 2**31 - 1
"""Of a number that shapes are computed with: int32 and int64 kernels agree up to here."""


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of a tensor: element type, shape and, where they follow from shapes and constants, its integers.

    `ints` are all of them, `bounds` the least and greatest where they are many.
    """

    dtype: int
    shape: Shape
    ints: NDArray[np.int64] | None = None
    bounds: tuple[int, int] | None = None


Inputs = Sequence[Value | None]
Rule = Callable[[Node, Inputs], list[Value]]


@dataclass(frozen=True, slots=True)
class Operator:
    """What is accepted of an operator: its rule, how many inputs, and the attributes, separated by spaces.

    Kernels do not check what no exporter writes: a Split into 2 parts with 3 outputs ends the process.
    """

    rule: Rule
    least: int = 1
    most: int = 1
    attributes: str = ""

    def outputs(self, node: Node, inputs: Inputs) -> list[Value]:
        """Check the node's form and return its outputs, one for each name it gives."""
        require(self.least <= len(inputs) <= self.most, f"{len(inputs)} inputs, expected {self.least} to {self.most}")
        strangers = sorted(node.attributes.keys() - set(self.attributes.split()))
        require(not strangers, f"attribute {', '.join(strangers)[:80]}: not accepted")
        outputs = self.rule(node, inputs)
        require(0 < len(node.outputs) <= len(outputs), f"{len(node.outputs)} outputs, expected {len(outputs)}")
        return outputs


def require(condition: bool, text: str) -> None:
    """Refuse a graph unless `condition`."""
    if not condition:
        raise BundleError(text)


def given(inputs: Inputs, index: int) -> Value:
    """Return the input at `index`, which must be there."""
    value = inputs[index] if index < len(inputs) else None
    if value is None:
        raise BundleError(f"input {index} is missing")
    return value


def known(inputs: Inputs, index: int) -> list[int]:
    """Return the integers of a scalar or list that must follow from constants and shapes."""
    ints = given(inputs, index).ints
    if ints is None or ints.ndim > 1:
        raise BundleError(f"input {index} is not known before it runs")
    return [int(item) for item in ints.ravel()]


def axis_of(axis: int, rank: int) -> int:
    """Return an axis counted from the front."""
    require(-rank <= axis < rank, f"axis {axis} of {rank}")
    return axis % rank


def axes_of(node: Node, inputs: Inputs, rank: int) -> list[int] | None:
    """Return the axes of an input (since opset 13 or 18) or an attribute (before)."""
    axes = known(inputs, 1) if len(inputs) > 1 and inputs[1] is not None else node.integers("axes")
    if axes is None:
        return None
    counted = [axis_of(axis, rank) for axis in axes]
    require(len(set(counted)) == len(counted), "an axis stands twice")
    return counted


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape that numpy's rules give."""
    sizes = []
    for column in zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1):
        wide = {size for size in column if size != 1}
        require(len(wide) <= 1, f"shapes {', '.join(map(str, shapes))} do not fit")
        sizes.append(wide.pop() if wide else 1)
    return tuple(sizes[::-1])


def real(value: Value) -> Value:
    """Return a floating-point input; integer arithmetic on data is not accepted."""
    require(value.dtype in (FLOAT, DOUBLE), "arithmetic on integers that are not known before it runs")
    return value


def _small(ints: NDArray[np.int64]) -> NDArray[np.int64]:
    fits = (ints >= -_LARGEST_INT) & (ints <= _LARGEST_INT)
    require(ints.size <= MAX_KNOWN and bool(fits.all()), "numbers too large for a shape")
    return ints


def _known_result(dtype: int, ints: NDArray[np.int64]) -> list[Value]:
    return [Value(dtype, ints.shape, _small(ints))]


def _unary(_: Node, inputs: Inputs) -> list[Value]:
    value = real(given(inputs, 0))
    return [Value(value.dtype, value.shape)]


def _identity(_: Node, inputs: Inputs) -> list[Value]:
    return [given(inputs, 0)]


def _clip(_: Node, inputs: Inputs) -> list[Value]:
    value = real(given(inputs, 0))
    require(all(bound is None or bound.shape == () for bound in inputs[1:]), "a bound is no scalar")
    return [Value(value.dtype, value.shape)]


def _softmax(node: Node, inputs: Inputs) -> list[Value]:
    value = real(given(inputs, 0))
    axis_of(node.integer("axis", -1), len(value.shape))
    return [Value(value.dtype, value.shape)]


def _divide(dividend: NDArray[np.int64], divisor: NDArray[np.int64]) -> NDArray[np.int64]:
    require(bool((divisor != 0).all()), "division by zero")
    quotient: NDArray[np.int64] = np.abs(dividend) // np.abs(divisor)
    return np.sign(dividend) * np.sign(divisor) * quotient  # towards zero, as in C


def _arithmetic(compute: Callable[..., NDArray[np.int64]]) -> Rule:
    def rule(_: Node, inputs: Inputs) -> list[Value]:
        values = [given(inputs, index) for index in range(2)]
        shape = broadcast(*(value.shape for value in values))
        contents = [_small(value.ints) for value in values if value.ints is not None]
        if len(contents) == len(values) and values[0].dtype != BOOL:
            return _known_result(values[0].dtype, compute(*contents))
        return [Value(real(values[0]).dtype, shape)]

    return rule


def _several(_: Node, inputs: Inputs) -> list[Value]:
    values = [real(given(inputs, index)) for index in range(len(inputs))]
    require(bool(values), "no input")
    return [Value(values[0].dtype, broadcast(*(value.shape for value in values)))]


def _compare(compute: Callable[..., NDArray[np.bool_]]) -> Rule:
    def rule(_: Node, inputs: Inputs) -> list[Value]:
        one, other = given(inputs, 0), given(inputs, 1)
        if one.ints is not None and other.ints is not None:
            broadcast(one.shape, other.shape)
            return _known_result(BOOL, compute(one.ints, other.ints).astype(np.int64))
        return [Value(BOOL, broadcast(one.shape, other.shape))]

    return rule


def _where(_: Node, inputs: Inputs) -> list[Value]:
    test, one, other = (given(inputs, index) for index in range(3))
    shape = broadcast(test.shape, one.shape, other.shape)
    if test.ints is not None and one.ints is not None and other.ints is not None:
        return _known_result(one.dtype, np.where(test.ints != 0, one.ints, other.ints))
    return [Value(one.dtype, shape)]


def _reduce(node: Node, inputs: Inputs) -> list[Value]:
    value = given(inputs, 0)
    axes = axes_of(node, inputs, len(value.shape))
    if not axes:
        axes = [] if node.flag("noop_with_empty_axes") else list(range(len(value.shape)))
    keep = node.flag("keepdims", 1)
    if value.ints is not None and node.op == "ReduceProd" and value.ints.ndim == 1:
        product = math.prod(int(item) for item in value.ints)
        require(abs(product) <= _LARGEST_INT, "numbers too large for a shape")
        return [Value(value.dtype, (1,) if keep else (), np.full((1,) if keep else (), product, np.int64))]
    sizes = [1 if axis in axes else size for axis, size in enumerate(value.shape) if keep or axis not in axes]
    return [Value(real(value).dtype, tuple(sizes))]


def _shape(node: Node, inputs: Inputs) -> list[Value]:
    shape = given(inputs, 0).shape
    ints = np.array(shape[node.integer("start", 0) : node.attributes.get("end")], np.int64)
    return [Value(INT64, ints.shape, ints)]


def _constant(node: Node, _: Inputs) -> list[Value]:
    require(len(node.attributes) == 1, "expected one attribute")
    ((name, value),) = node.attributes.items()
    if name == "value" and isinstance(value, Tensor):
        return [Value(value.dtype, value.shape, value.ints, value.bounds)]
    if name in ("value_int", "value_ints"):
        return _known_result(INT64, np.array(value, np.int64))
    require(name in ("value_float", "value_floats"), f"attribute {name!r}")
    return [Value(FLOAT, np.shape(value))]


def _constant_of_shape(node: Node, inputs: Inputs) -> list[Value]:
    shape = tuple(known(inputs, 0))
    require(min(shape, default=0) >= 0, f"shape {shape}")
    fill = node.attributes.get("value", Tensor("", FLOAT, (1,)))
    require(isinstance(fill, Tensor) and math.prod(fill.shape) == 1, "value is no tensor of one element")
    if fill.ints is not None and math.prod(shape) <= MAX_KNOWN:
        return [Value(fill.dtype, shape, np.full(shape, fill.ints.ravel()[0], np.int64))]
    return [Value(fill.dtype, shape)]


def _cast(node: Node, inputs: Inputs) -> list[Value]:
    value, target = given(inputs, 0), node.integer("to", 0)
    require(target in (FLOAT, DOUBLE, INT32, INT64, BOOL), f"to element type {target}")
    ints = value.ints if target == INT64 and value.dtype in (INT32, INT64) else None
    return [Value(target, value.shape, ints)]


_FLOATS = (*("Relu", "Sigmoid", "Tanh", "Softplus", "Erf", "Exp", "Log", "Sqrt", "Abs", "Neg", "Reciprocal", "Floor"),)
_REDUCTIONS = (
    *("ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin", "ReduceProd"),
    *("ReduceLogSumExp", "ReduceSumSquare"),
)
BASIC_OPERATORS: dict[str, Operator] = {
    **{name: Operator(_unary) for name in _FLOATS},
    **{name: Operator(_reduce, 1, 2, "axes keepdims noop_with_empty_axes") for name in _REDUCTIONS},
    "LeakyRelu": Operator(_unary, attributes="alpha"),
    "Elu": Operator(_unary, attributes="alpha"),
    "HardSigmoid": Operator(_unary, attributes="alpha beta"),
    "Identity": Operator(_identity),
    "Clip": Operator(_clip, 1, 3),
    "Softmax": Operator(_softmax, attributes="axis"),
    "LogSoftmax": Operator(_softmax, attributes="axis"),
    "Add": Operator(_arithmetic(np.add), 2, 2),
    "Sub": Operator(_arithmetic(np.subtract), 2, 2),
    "Mul": Operator(_arithmetic(np.multiply), 2, 2),
    "Div": Operator(_arithmetic(_divide), 2, 2),
    "Pow": Operator(_several, 2, 2),
    "Max": Operator(_several, 1, 64),
    "Min": Operator(_several, 1, 64),
    "Equal": Operator(_compare(np.equal), 2, 2),
    "Greater": Operator(_compare(np.greater), 2, 2),
    "GreaterOrEqual": Operator(_compare(np.greater_equal), 2, 2),
    "Less": Operator(_compare(np.less), 2, 2),
    "LessOrEqual": Operator(_compare(np.less_equal), 2, 2),
    "Where": Operator(_where, 3, 3),
    "Shape": Operator(_shape, attributes="start end"),
    "Constant": Operator(_constant, 0, 0, "value value_int value_ints value_float value_floats"),
    "ConstantOfShape": Operator(_constant_of_shape, attributes="value"),
    "Cast": Operator(_cast, attributes="to"),
}
"""Operators that work element by element or on shapes."""

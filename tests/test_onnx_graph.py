"""The guard in front of ONNX Runtime: what it computes must be what the runtime does, and what is bad must not pass."""

import time
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import STFT, dense_graph, model

from detectd.errors import BundleError
from detectd.onnx_guard.graph import MAX_BATCH, check_graph
from detectd.onnx_guard.layers import OPERATORS

ROWS, COLUMNS = 6, 8
RNG = np.random.default_rng(7)


def floats(*shape):
    return (RNG.standard_normal(shape) / 4).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


def node(op, *inputs, outputs=("y",), **attributes):
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def graph_of(nodes, constants=None, shape=(ROWS, COLUMNS), outputs=("y",), **more):
    """A model with one input x of shape (batch, *shape); the outputs' shapes are left for the runtime to find."""
    made = model(nodes, {"x": ("batch", *shape)}, dict.fromkeys(outputs, ("batch",)), constants or {}, **more)
    proto = onnx.ModelProto.FromString(made)
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    return proto.SerializeToString()


def run(graph, batch, shape=(ROWS, COLUMNS)):
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.abs(floats(batch, *shape))})


IMAGE = (4, 12, 10)
ONE_BY_ONE = (
    *("Relu", "LeakyRelu", "Elu", "Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Erf", "Exp", "Log", "Sqrt", "Abs"),
    *("Neg", "Reciprocal", "Floor", "Identity", "Softmax", "LogSoftmax"),
)
REDUCTIONS = (
    *("ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin", "ReduceLogSumExp"),
    *("ReduceSumSquare", "ReduceProd"),
)
CASES = {
    **{op: ([node(op, "x")], {}, (ROWS, COLUMNS)) for op in ONE_BY_ONE},
    **{
        op: ([node(op, "x", "c")], {"c": floats(ROWS, 1)}, (ROWS, COLUMNS))
        for op in ("Add", "Sub", "Mul", "Div", "Pow")
    },
    **{op: ([node(op, "x", "c", "x")], {"c": floats(COLUMNS)}, (ROWS, COLUMNS)) for op in ("Max", "Min")},
    **{
        op: ([node(op, "x", "c", outputs=["b"]), node("Cast", "b", to=1)], {"c": floats(1, COLUMNS)}, (ROWS, COLUMNS))
        for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    },
    **{op: ([node(op, "x", "axes", keepdims=0)], {"axes": ints(-1)}, (ROWS, COLUMNS)) for op in REDUCTIONS},
    "ReduceMean kept": ([node("ReduceMean", "x", "axes")], {"axes": ints(1, 2)}, (ROWS, COLUMNS)),
    "Where": (
        [node("Less", "x", "c", outputs=["b"]), node("Where", "b", "x", "c")],
        {"c": floats(1, COLUMNS)},
        (ROWS, COLUMNS),
    ),
    "Clip": ([node("Clip", "x", "low", "high")], {"low": floats(), "high": np.float32([1])[0].reshape(())}, (3,)),
    "Constant": ([node("Constant", outputs=["c"], value_floats=[1.0, 2.0]), node("Mul", "x", "c")], {}, (3, 2)),
    "ConstantOfShape": (
        [
            node("Shape", "x", outputs=["s"]),
            node("ConstantOfShape", "s", outputs=["z"]),
            node("Concat", "x", "z", axis=2),
        ],
        {},
        (ROWS, COLUMNS),
    ),
    "Shape arithmetic": (
        [
            node("Shape", "x", outputs=["s"]),
            node("Gather", "s", "two", outputs=["n"]),
            node("Mul", "n", "three", outputs=["m"]),
            node("Div", "m", "four", outputs=["q"]),
            node("Sub", "q", "one", outputs=["e"]),
            node("Slice", "x", "one", "e", "two"),
        ],
        {"one": ints(1), "two": ints(2), "three": ints(3), "four": ints(4)},
        (ROWS, COLUMNS),
    ),
    "Shape product": (
        [
            node("Shape", "x", outputs=["s"], start=1),
            node("ReduceProd", "s", outputs=["n"]),
            node("Concat", "minus", "n", outputs=["to"], axis=0),
            node("Reshape", "x", "to"),
        ],
        {"minus": ints(-1)},
        (ROWS, COLUMNS),
    ),
    "Shape choice": (
        [
            node("Equal", "wish", "minus", outputs=["free"]),
            node("Shape", "x", outputs=["s"]),
            node("Where", "free", "s", "wish", outputs=["to"]),
            node("Expand", "x", "to"),
        ],
        {"wish": ints(-1, 5, -1), "minus": ints(-1, -1, -1)},
        (1, COLUMNS),
    ),
    "Reshape": ([node("Reshape", "x", "to")], {"to": ints(0, -1, 4)}, (ROWS, COLUMNS)),
    "Flatten": ([node("Flatten", "x", axis=-2)], {}, (ROWS, COLUMNS)),
    "Squeeze": ([node("Squeeze", "x", "axes")], {"axes": ints(-1)}, (ROWS, 1)),
    "Unsqueeze": ([node("Unsqueeze", "x", "axes")], {"axes": ints(-1, 1)}, (ROWS, COLUMNS)),
    "Transpose": ([node("Transpose", "x", perm=[0, 2, 1])], {}, (ROWS, COLUMNS)),
    "Tile": ([node("Tile", "x", "by")], {"by": ints(1, 2, 3)}, (ROWS, COLUMNS)),
    "Concat": ([node("Concat", "x", "x", "x", axis=-1)], {}, (ROWS, COLUMNS)),
    "Slice": (
        [node("Slice", "x", "from", "to", "axes", "steps")],
        {"from": ints(-2, 1), "to": ints(-(2**62), 2**62), "axes": ints(-1, 1), "steps": ints(-3, 2)},
        (ROWS, COLUMNS),
    ),
    "Split": (
        [node("Split", "x", outputs=["a", "b", "c"], axis=2, num_outputs=3), node("Concat", "b", "c", "c", axis=-1)],
        {},
        (ROWS, COLUMNS),
    ),
    "Split sizes": ([node("Split", "x", "by", outputs=["a", "y"], axis=1)], {"by": ints(2, 4)}, (ROWS, COLUMNS)),
    "Gather": ([node("Gather", "x", "at", axis=1)], {"at": np.array([[0, -1], [5, 2]])}, (ROWS, COLUMNS)),
    "Gather many": ([node("Gather", "x", "at", axis=2)], {"at": np.arange(900) % COLUMNS}, (ROWS, COLUMNS)),
    "Pad": ([node("Pad", "x", "by", "", "axes")], {"by": ints(1, 2, 3, 4), "axes": ints(-1, 1)}, (ROWS, COLUMNS)),
    "Pad reflected": ([node("Pad", "x", "by", mode="reflect")], {"by": ints(0, 1, 2, 0, 3, 4)}, (ROWS, COLUMNS)),
    "TopK": ([node("TopK", "x", "k", outputs=["y", "i"], axis=1)], {"k": ints(3)}, (ROWS, COLUMNS)),
    "Conv": (
        [node("Conv", "x", "w", "b", strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2], group=2)],
        {"w": floats(6, 2, 3, 2), "b": floats(6)},
        IMAGE,
    ),
    "Conv 1-D": ([node("Conv", "x", "w", kernel_shape=[5], strides=[3])], {"w": floats(2, ROWS, 5)}, (ROWS, 40)),
    "MaxPool": ([node("MaxPool", "x", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1])], {}, IMAGE),
    "MaxPool ceil": ([node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], {}, IMAGE),
    "MaxPool ceil into its padding": (
        [node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 3], pads=[1, 1, 1, 2], ceil_mode=1)],
        {},
        IMAGE,
    ),
    "AveragePool": ([node("AveragePool", "x", kernel_shape=[2, 5], strides=[1, 3])], {}, IMAGE),
    "GlobalAveragePool": ([node("GlobalAveragePool", "x")], {}, IMAGE),
    "GlobalMaxPool": ([node("GlobalMaxPool", "x")], {}, IMAGE),
    "BatchNormalization": (
        [node("BatchNormalization", "x", "a", "b", "c", "d")],
        {"a": floats(4), "b": floats(4), "c": floats(4), "d": np.abs(floats(4))},
        IMAGE,
    ),
    "MatMul": ([node("MatMul", "x", "w")], {"w": floats(COLUMNS, 3)}, (ROWS, COLUMNS)),
    "MatMul vector": ([node("MatMul", "x", "w")], {"w": floats(COLUMNS)}, (ROWS, COLUMNS)),
    "MatMul square": ([node("Transpose", "x", outputs=["t"], perm=[0, 2, 1]), node("MatMul", "x", "t")], {}, (6, 8)),
    "Gemm": ([node("Gemm", "x", "w", "b", transB=1)], {"w": floats(3, COLUMNS), "b": floats(3)}, (COLUMNS,)),
    "LSTM": (
        [
            node("Transpose", "x", outputs=["t"], perm=[1, 0, 2]),
            node("LSTM", "t", "w", "r", "b", outputs=["", "h"], hidden_size=5),
            node("Transpose", "h", outputs=["y"], perm=[1, 0, 2]),
        ],
        {"w": floats(1, 20, COLUMNS), "r": floats(1, 20, 5), "b": floats(1, 40)},
        (ROWS, COLUMNS),
    ),
    "LSTM both ways": (
        [
            node("Transpose", "x", outputs=["t"], perm=[1, 0, 2]),
            node("LSTM", "t", "w", "r", outputs=["o"], hidden_size=5, direction="bidirectional"),
            node("Transpose", "o", outputs=["y"], perm=[2, 0, 1, 3]),
        ],
        {"w": floats(2, 20, COLUMNS), "r": floats(2, 20, 5)},
        (ROWS, COLUMNS),
    ),
}


QUIET = onnxruntime.SessionOptions()
QUIET.log_severity_level = 4
SMALL = graph_of(
    [
        node("Unsqueeze", "x", "one", outputs=["i"]),
        node("Conv", "i", "w", "b", outputs=["c"], strides=[2, 1], pads=[1, 0, 0, 1]),
        node("Relu", "c", outputs=["r"]),
        node("MaxPool", "r", outputs=["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "p", outputs=["f"]),
        node("Gemm", "f", "d", outputs=["g"], transB=1),
        node("Gather", "g", "at", outputs=["h"], axis=1),
        node("ReduceMean", "h", "one", keepdims=0),
    ],
    {"one": ints(1), "w": floats(2, 1, 2, 2), "b": floats(2), "d": floats(3, 8), "at": ints(0, -1)},
)


@pytest.mark.parametrize("case", CASES)
def test_every_shape_is_the_one_the_runtime_gives(case):
    nodes, constants, shape = CASES[case]
    graph = graph_of(nodes, constants, shape)
    given_shape = run(graph, 3, shape)[0].shape
    assert check_graph(graph).outputs == {"y": (None, *given_shape[1:])}
    assert given_shape[0] == 3


def test_no_operator_is_accepted_without_such_a_case():
    covered = {step.op_type for nodes, _, _ in CASES.values() for step in nodes}
    assert covered == OPERATORS.keys()


def test_summary_says_what_a_graph_is_and_costs():
    graph = graph_of([node("Gemm", "x", "w", transB=1)], {"w": floats(3, COLUMNS)}, (COLUMNS,))
    summary = check_graph(graph)
    assert summary.inputs == {"x": (None, COLUMNS)}
    assert summary.operators == {"Gemm": 1}
    assert (summary.opset, summary.n_parameters, summary.multiply_adds) == (18, 24, 24)


def deep(n):
    """Each node twice the size of the last."""
    names = ["x", *(f"v{i}" for i in range(n - 1)), "y"]
    return [node("Concat", a, a, outputs=[b], axis=1) for a, b in pairwise(names)]


AMPLIFIERS = {
    "doubled forty times": (deep(40), {}),
    "large over and over": (
        [
            node("Pad", "x", "by", outputs=["v0"]),
            *(node("Relu", f"v{i}", outputs=[f"v{i + 1}"]) for i in range(7)),
            node("ReduceMax", "v7", "axes"),
        ],
        {"by": ints(0, 0, 0, 0, 100_000, 0), "axes": ints(1)},
    ),
    "expanded": ([node("Expand", "x", "to")], {"to": ints(10**6, 1, 1, 1)}),
    "expanded by more than counts": ([node("Expand", "x", "to")], {"to": ints(2**62, 2**62, 1, 1)}),
    "padded": ([node("Pad", "x", "by")], {"by": ints(0, 0, 10**9, 0, 0, 10**9)}),
    "tiled": ([node("Tile", "x", "by")], {"by": ints(1, 10**6, 10**6)}),
    "filled": ([node("ConstantOfShape", "to", outputs=["z"]), node("Add", "x", "z")], {"to": ints(10**5, 10**5, 1, 1)}),
    "an outer product": (
        [node("MatMul", "a", "b", outputs=["c"]), node("ReduceSum", "c", outputs=["d"]), node("Add", "x", "d")],
        {"a": floats(20_000, 1), "b": floats(1, 20_000)},
    ),
    "an outer sum": ([node("Add", "a", "b", outputs=["c"])], {"a": floats(20_000, 1), "b": floats(1, 20_000)}),
    "gathered": (
        [node("Gather", "x", "at", axis=2), node("Relu", "x", outputs=["z"])],
        {"at": np.zeros((1000, 1000), int)},
    ),
    "conv padding": (
        [node("Unsqueeze", "x", "one", outputs=["i"]), node("Conv", "i", "w", pads=[0, 10**9, 0, 10**9])],
        {"one": ints(1), "w": floats(1, 1, 1, 1)},
    ),
    "sized by the batch": (
        [
            node("Shape", "x", outputs=["s"]),
            node("Gather", "s", "zero", outputs=["n"]),
            node("Sub", "many", "n", outputs=["m"]),  # nothing at a batch of 32, thirty-one at one
            node("Mul", "m", "big", outputs=["k"]),
            node("Max", "x", outputs=["f"]),
            node("Concat", "k", "fixed", outputs=["to"], axis=0),
            node("ConstantOfShape", "to", outputs=["z"]),
            node("ReduceSum", "z", outputs=["d"]),
            node("Add", "x", "d"),
        ],
        {"zero": ints(0), "many": ints(MAX_BATCH + 1), "big": ints(10**4), "fixed": ints(1000)},
    ),
    "sorted over and over": (
        [
            node("TopK", "x", "k", outputs=["v0", "i0"]),
            *(node("TopK", f"v{i}", "k", outputs=[f"v{i + 1}", f"i{i + 1}"]) for i in range(38)),
            node("Pad", "v38", "by", outputs=["p"]),
            *(node("TopK", "p", "k", outputs=[f"w{i}", f"j{i}"]) for i in range(800)),
            node("Identity", "w799"),
        ],
        {"k": ints(8), "by": ints(0, 0, 0, 0, 1000, 0)},
    ),
    "many multiply-adds": (
        [
            node("MatMul", "a", "a", outputs=["b0"]),
            *(node("MatMul", f"b{i}", "a", outputs=[f"b{i + 1}"]) for i in range(9)),
            node("ReduceSum", "b9", outputs=["d"]),
            node("Add", "x", "d"),
        ],
        {"a": floats(1000, 1000)},
    ),
}


@pytest.mark.parametrize("case", AMPLIFIERS)
def test_small_graphs_that_need_much_are_refused_at_once(case):
    graph = graph_of(*AMPLIFIERS[case])
    began = time.perf_counter()
    with pytest.raises(BundleError, match=r"at most|multiply-adds|numbers too large|elements together"):
        check_graph(graph)
    assert time.perf_counter() - began < 1.0


BAD = {
    "Loop": ([node("Loop", "", "", "x", body=helper.make_graph([], "b", [], []))], {}, "a subgraph: not accepted"),
    "If": ([node("If", "x", then_branch=helper.make_graph([], "b", [], []))], {}, "a subgraph: not accepted"),
    "an operator we never emit": ([node("NonZero", "x")], {}, "operator NonZero: not accepted"),
    "a sequence": ([node("SequenceConstruct", "x")], {}, "SequenceConstruct: not accepted"),
    "a custom domain": ([node("Relu", "x", domain="evil")], {}, "domain 'evil'"),
    "ORT's own domain": ([node("Gelu", "x", domain="com.microsoft")], {}, "domain 'com.microsoft'"),
    "an input from nowhere": ([node("Relu", "gone")], {}, "'gone' is not made before it"),
    "a cycle": ([node("Relu", "z"), node("Relu", "y", outputs=["z"])], {}, "'z' is not made before it"),
    "a name made twice": ([node("Relu", "x"), node("Abs", "x")], {}, "'y' is made twice"),
    "integer division": (
        [node("Cast", "x", outputs=["i"], to=7), node("Div", "i", "i", outputs=["j"]), node("Cast", "j", to=1)],
        {},
        "arithmetic on integers",
    ),
    "division by zero": (
        [node("Shape", "x", outputs=["s"]), node("Div", "s", "z", outputs=["to"]), node("Reshape", "x", "to")],
        {"z": ints(0)},
        "division by zero",
    ),
    "a shape out of data": (
        [node("Cast", "x", outputs=["to"], to=7), node("Reshape", "x", "to")],
        {},
        "not known before",
    ),
    "an index out of data": (
        [node("Cast", "x", outputs=["at"], to=7), node("Gather", "x", "at")],
        {},
        "not known before",
    ),
    "an index out of range": ([node("Gather", "x", "at", axis=1)], {"at": np.full(1000, ROWS)}, "index 6"),
    "a kernel too long": ([node("Conv", "x", "w")], {"w": floats(1, ROWS, 9)}, "a kernel of 9 over 8 values"),
    "stride 0": ([node("Conv", "x", "w", strides=[0])], {"w": floats(1, ROWS, 2)}, "stride or dilation below 1"),
    "a negative pad": ([node("Conv", "x", "w", pads=[-1, 0])], {"w": floats(1, ROWS, 2)}, r"pads \(-1, 0\)"),
    "group 0": ([node("Conv", "x", "w", group=0)], {"w": floats(1, ROWS, 2)}, "channels do not fit"),
    "nothing left": ([node("Slice", "x", "a", "a", "a")], {"a": ints(1)}, "which is empty"),
    "NaN weights": ([node("Mul", "x", "w")], {"w": np.float32([np.nan])}, "'w' holds NaN"),
    "half precision": ([node("Mul", "x", "w")], {"w": np.float16([1])}, "element type 10"),
    "a reflection too long": (
        [node("Pad", "x", "by", mode="reflect")],
        {"by": ints(0, 0, 8, 0, 0, 0)},
        "a reflection longer",
    ),
    "three parts out of two": (
        [node("Split", "x", outputs=["y", "b", "c"], axis=2, num_outputs=2)],
        {},
        "num_outputs is not the number of its outputs",
    ),
    "too many inputs": ([node("Relu", "x", "x")], {}, "2 inputs, expected 1 to 1"),
    "too many outputs": ([node("Relu", "x", outputs=["y", "z"])], {}, "2 outputs, expected 1"),
    "an attribute of another operator": ([node("Relu", "x", axis=1)], {}, "attribute axis: not accepted"),
    "a flag that is none": (
        [node("ReduceMax", "x", "a", keepdims=7)],
        {"a": ints(1)},
        "keepdims is 7, expected 0 or 1",
    ),
    "activations": (
        [node("LSTM", "x", "w", "r", hidden_size=1, activations=["Relu"] * 3)],
        {"w": floats(1, 4, COLUMNS), "r": floats(1, 4, 1)},
        "field 9 of a attribute",
    ),
    "training mode": (
        [node("BatchNormalization", "x", "w", "w", "w", "w", training_mode=1)],
        {"w": floats(ROWS)},
        "training mode",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_plain_graph_is_refused_with_its_reason(case):
    nodes, constants, reason = BAD[case]
    with pytest.raises(BundleError, match=reason):
        check_graph(graph_of(nodes, constants))


def changed(change, graph=None):
    proto = onnx.ModelProto.FromString(graph or dense_graph(STFT))
    change(proto)
    return proto.SerializeToString()


def external(proto, location=True):
    tensor = proto.graph.initializer[0]
    if location:
        tensor.data_location = TensorProto.EXTERNAL
    else:
        tensor.external_data.add(key="location", value="/etc/passwd")
    tensor.ClearField("raw_data")


def huge_dims(proto):
    proto.graph.initializer[0].dims[:] = [2**40, 2**40]


CHANGES = {
    "external location": (external, "holds external data"),
    "external data": (lambda proto: external(proto, location=False), "external data: not accepted"),
    "huge dims": (huge_dims, r"has shape \(1099511627776, 1099511627776\) and 884 bytes"),
    "negative dims": (lambda p: p.graph.initializer[0].dims.__setitem__(0, -5), "has shape"),
    "local functions": (lambda p: p.functions.add(name="f", domain="f"), "local functions: not accepted"),
    "training": (lambda p: p.training_info.add(), "training information: not accepted"),
    "sparse": (lambda p: p.graph.sparse_initializer.add(), "sparse tensors: not accepted"),
    "quantisation": (lambda p: p.graph.quantization_annotation.add(), "field 14 of a graph: not accepted"),
    "opset 7": (lambda p: setattr(p.opset_import[0], "version", 7), "opset 7, expected 13 to 21"),
    "opset 40": (lambda p: setattr(p.opset_import[0], "version", 40), "opset 40"),
    "a second domain": (lambda p: p.opset_import.add(domain="com.microsoft", version=1), "the standard domain alone"),
    "IR version 99": (lambda p: setattr(p, "ir_version", 99), "IR version 99"),
    "no graph": (lambda p: p.ClearField("graph"), "expected 1 to 4 inputs"),
    "fixed batch": (
        lambda p: p.graph.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_value", 1),
        r"is \(1, 7, 221\), expected \(batch",
    ),
    "free bins": (
        lambda p: p.graph.input[0].type.tensor_type.shape.dim[2].__setattr__("dim_param", "n"),
        r"expected \(batch",
    ),
    "an input that is a constant": (lambda p: p.graph.input.add().CopyFrom(p.graph.output[0]), "'score' is made twice"),
    "a false declaration": (
        lambda p: p.graph.value_info.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, ("batch", 9999))),
        r"'mean' is declared \(batch, 9999\) and is \(1, 221\)",
    ),
    "an output not made": (lambda p: setattr(p.graph.output[0], "name", "other"), "'other' is not made"),
    "an integer output": (lambda p: setattr(p.graph.output[0].type.tensor_type, "elem_type", 7), "is not float32"),
    "a sequence input": (
        lambda p: p.graph.input[0].type.sequence_type.elem_type.tensor_type.__setattr__("elem_type", 1),
        "field 4 of a type",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_hides_in_the_file_is_refused_with_its_reason(case):
    change, reason = CHANGES[case]
    check_graph(dense_graph(STFT))
    with pytest.raises(BundleError, match=reason):
        check_graph(changed(change))


def test_fields_that_stand_twice_are_refused():
    graph = dense_graph(STFT)
    with pytest.raises(BundleError, match="graph stands twice"):
        check_graph(graph + changed(lambda proto: proto.ClearField("ir_version"), graph))


def test_unknown_field_is_refused():
    with pytest.raises(BundleError, match="field 500 of a model"):
        check_graph(dense_graph(STFT) + bytes([0xA0, 0x1F, 0x00]))


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff" * 100, b"\x3a" * 1000, b"\x3a\xff\xff\xff\xff\x0f", b"GIF89a"])
def test_what_is_no_protobuf_is_refused(data):
    with pytest.raises(BundleError):
        check_graph(data)


def test_a_million_tiny_fields_take_no_time():
    began = time.perf_counter()
    with pytest.raises(BundleError, match="fields"):
        check_graph(b"\x72\x00" * 10**6)
    assert time.perf_counter() - began < 1.0


def test_the_largest_accepted_graph_is_checked_in_time():
    """As many operators as may be, and every batch size to go through: a slice whose end depends on it."""
    names = ["x", *(f"v{i}" for i in range(1021)), "y"]
    nodes = [node("Slice", a, "zero", "s", outputs=[b]) for a, b in pairwise(names)]
    graph = graph_of([node("Shape", "x", outputs=["s"], end=1), *nodes], {"zero": ints(0)}, (1, 1))
    began = time.perf_counter()
    assert check_graph(graph).operators["Slice"] == 1022
    assert time.perf_counter() - began < 2.0


def test_a_batch_in_the_middle_that_needs_most_is_found():
    """(b - 1) * (32 - b) rows of zeros: none for 1 and for 32, 240 in the middle."""
    nodes = [
        node("Shape", "x", outputs=["b"], end=1),
        node("Sub", "b", "one", outputs=["low"]),
        node("Sub", "many", "b", outputs=["high"]),
        node("Mul", "low", "high", outputs=["rows"]),
        node("Add", "rows", "one", outputs=["n"]),
        node("Concat", "n", "columns", outputs=["to"], axis=0),
        node("ConstantOfShape", "to", outputs=["z"]),
        node("ReduceSum", "z", outputs=["sum"]),
        node("Add", "x", "sum"),
    ]
    constants = {"one": ints(1), "many": ints(MAX_BATCH), "columns": ints(2**18)}
    with pytest.raises(BundleError, match=r"batch of 6: a tensor of shape \(131, 262144\)"):
        check_graph(graph_of(nodes, constants))


@settings(deadline=None, max_examples=500)
@given(st.data())
def test_damage_is_refused_or_harmless(data):
    """What is still accepted after bytes were changed must run, with the shape that was said, or be refused cleanly."""
    damaged = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(SMALL) - 1))] = data.draw(st.integers(0, 255))
    try:
        summary = check_graph(bytes(damaged))
    except BundleError:
        return
    ((source, shape),) = summary.inputs.items()
    try:
        session = onnxruntime.InferenceSession(bytes(damaged), QUIET, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001  # the runtime's own refusals share no base class
        return
    results = session.run(list(summary.outputs), {source: np.ones((2, *shape[1:]), np.float32)})
    assert [(None, *result.shape[1:]) for result in results] == list(summary.outputs.values())


@pytest.mark.parametrize("length", range(0, len(SMALL), 7))
def test_every_cut_off_graph_is_refused(length):
    with pytest.raises(BundleError):
        check_graph(SMALL[:length])


def test_numbers_are_read_wherever_onnx_allows_them():
    weights = floats(COLUMNS)
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [COLUMNS], weights.tolist())
    assert len(tensor.float_data) == COLUMNS
    proto = onnx.ModelProto.FromString(graph_of([node("MatMul", "x", "w")], {"w": weights}))
    proto.graph.initializer[0].CopyFrom(tensor)
    proto.graph.initializer.append(helper.make_tensor("axes", TensorProto.INT64, [1], [-1]))
    proto.graph.node.append(node("Unsqueeze", "y", "axes", outputs=["z"]))
    proto.graph.output[0].name = "z"
    assert check_graph(proto.SerializeToString()).outputs == {"z": (None, ROWS, 1)}
    assert numpy_helper.to_array(tensor).tolist() == weights.tolist()

"""ONNX model bytes to plain values, without the onnx package and without trust.

The few messages that a plain inference graph needs, each with the fields it may have: nothing that ONNX Runtime
would read goes unseen here. Nesting is that of the schema, so its depth is fixed.

Reference: onnx.proto, IR version 3 to 11.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectd.errors import BundleError
from detectd.onnx_guard.protobuf import Fields, Splitter

FLOAT, INT32, INT64, BOOL, DOUBLE = 1, 6, 7, 9, 11
ITEM_BYTES = {FLOAT: 4, INT32: 4, INT64: 8, BOOL: 1, DOUBLE: 8}
"""The element types accepted."""

MAX_KNOWN = 256
"""Integers of a constant that are kept: shapes, axes and the like have a handful."""

IR_VERSIONS = range(3, 12)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A constant: its type and shape, and of integers the least and greatest, and all where they are few."""

    name: str
    dtype: int
    shape: tuple[int, ...]
    ints: NDArray[np.int64] | None = None
    bounds: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class ValueInfo:
    """A declared tensor; None stands for a free size, `shape` is None where the rank is not declared."""

    name: str
    dtype: int
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of the standard domain."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    def integer(self, name: str, default: int) -> int:
        """Value of an integer attribute."""
        value = self.attributes.get(name, default)
        if type(value) is not int:
            raise BundleError(f"attribute {name} is no integer")
        return value

    def flag(self, name: str, default: int = 0) -> bool:
        """Value of an integer attribute that is 0 or 1."""
        value = self.integer(name, default)
        if value not in (0, 1):
            raise BundleError(f"attribute {name} is {value}, expected 0 or 1")
        return bool(value)

    def integers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...] | None:
        """Value of an attribute that is a list of integers."""
        value = self.attributes.get(name, default)
        if value is not None and (type(value) is not tuple or not all(type(item) is int for item in value)):
            raise BundleError(f"attribute {name} is no list of integers")
        return value


@dataclass(frozen=True, slots=True)
class Graph:
    """The main graph of a model, in the order of execution."""

    opset: int
    nodes: tuple[Node, ...]
    constants: tuple[Tensor, ...]
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    declared: tuple[ValueInfo, ...]


# Names are those of onnx.proto; kinds those of `detectd.onnx_guard.protobuf`.
_MODEL: Fields = {
    1: ("ir_version", "int"),
    2: ("producer_name", "skip"),
    3: ("producer_version", "skip"),
    4: ("domain", "skip"),
    5: ("model_version", "int"),
    6: ("doc_string", "skip"),
    7: ("graph", "bytes"),
    8: ("opset_import", "messages"),
    14: ("metadata_props", "skip"),
    20: ("training_info", "!training information"),
    25: ("functions", "!local functions"),
}
_OPSET: Fields = {1: ("domain", "bytes"), 2: ("version", "int")}
_GRAPH: Fields = {
    1: ("node", "messages"),
    2: ("name", "skip"),
    5: ("initializer", "messages"),
    10: ("doc_string", "skip"),
    11: ("input", "messages"),
    12: ("output", "messages"),
    13: ("value_info", "messages"),
    15: ("sparse_initializer", "!sparse tensors"),
    16: ("metadata_props", "skip"),
}
_NODE: Fields = {
    1: ("input", "messages"),
    2: ("output", "messages"),
    3: ("name", "skip"),
    4: ("op_type", "bytes"),
    5: ("attribute", "messages"),
    6: ("doc_string", "skip"),
    7: ("domain", "bytes"),
    9: ("metadata_props", "skip"),
}
_ATTRIBUTE: Fields = {
    1: ("name", "bytes"),
    2: ("f", "float"),
    3: ("i", "int"),
    4: ("s", "bytes"),
    5: ("t", "bytes"),
    6: ("g", "!a subgraph"),
    7: ("floats", "floats"),
    8: ("ints", "ints"),
    11: ("graphs", "!subgraphs"),
    13: ("doc_string", "skip"),
    20: ("type", "int"),
    22: ("sparse_tensor", "!sparse tensors"),
}
_TENSOR: Fields = {
    1: ("dims", "ints"),
    2: ("data_type", "int"),
    4: ("float_data", "floats"),
    5: ("int32_data", "ints"),
    7: ("int64_data", "ints"),
    8: ("name", "bytes"),
    9: ("raw_data", "bytes"),
    12: ("doc_string", "skip"),
    13: ("external_data", "!external data"),
    14: ("data_location", "int"),
    16: ("metadata_props", "skip"),
}
_VALUE_INFO: Fields = {
    1: ("name", "bytes"),
    2: ("type", "bytes"),
    3: ("doc_string", "skip"),
    4: ("metadata_props", "skip"),
}
_TYPE: Fields = {1: ("tensor_type", "bytes"), 6: ("denotation", "skip")}
_TENSOR_TYPE: Fields = {1: ("elem_type", "int"), 2: ("shape", "bytes")}
_SHAPE: Fields = {1: ("dim", "messages")}
_DIMENSION: Fields = {1: ("dim_value", "int"), 2: ("dim_param", "bytes"), 3: ("denotation", "skip")}


def parse_model(data: bytes) -> Graph:
    """Read a serialised ModelProto.

    Raises
    ------
    BundleError
        If it is no valid protobuf or holds anything but one plain graph of the standard operators' domain.
    """
    return _Parser().model(memoryview(data))


class _Parser:
    def __init__(self) -> None:
        self.message = Splitter().message

    def model(self, data: memoryview) -> Graph:
        model = self.message(data, _MODEL, "model")
        version = model.get("ir_version")
        if version not in IR_VERSIONS:
            raise BundleError(f"ONNX IR version {version}, expected {IR_VERSIONS[0]} to {IR_VERSIONS[-1]}")
        graph = self.message(model.get("graph", memoryview(b"")), _GRAPH, "graph")
        return Graph(
            opset=self.opset(model["opset_import"]),
            nodes=tuple(self.node(node) for node in graph["node"]),
            constants=tuple(self.tensor(tensor) for tensor in graph["initializer"]),
            inputs=tuple(self.value_info(info) for info in graph["input"]),
            outputs=tuple(self.value_info(info) for info in graph["output"]),
            declared=tuple(self.value_info(info) for info in graph["value_info"]),
        )

    def opset(self, imports: list[memoryview]) -> int:
        opsets = [self.message(item, _OPSET, "opset") for item in imports]
        domains = [_text(opset.get("domain", b"")) for opset in opsets]
        if len(domains) != 1 or domains[0] not in ("", "ai.onnx"):
            raise BundleError(f"operator domains {domains}, expected the standard domain alone")
        version: int = opsets[0].get("version", 1)
        return version

    def node(self, data: memoryview) -> Node:
        node = self.message(data, _NODE, "node")
        op, domain = _text(node.get("op_type", b"")), _text(node.get("domain", b""))
        if domain not in ("", "ai.onnx"):
            raise BundleError(f"operator {op[:40]!r} of domain {domain[:40]!r}, expected the standard domain")
        attributes = dict(self.attribute(item) for item in node["attribute"])
        if len(attributes) != len(node["attribute"]):
            raise BundleError(f"operator {op[:40]!r}: an attribute stands twice")
        return Node(op, tuple(map(_text, node["input"])), tuple(map(_text, node["output"])), attributes)

    def attribute(self, data: memoryview) -> tuple[str, Any]:
        attribute = self.message(data, _ATTRIBUTE, "attribute")
        types = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints"}
        field = types.get(attribute.get("type", 0), "")
        if not field:
            raise BundleError(f"an attribute of type {attribute.get('type')}")
        absent = {"f": 0.0, "i": 0, "s": memoryview(b""), "t": memoryview(b"")}
        value = attribute.get(field, absent.get(field))
        if field == "t":
            value = self.tensor(value)
        elif field == "f" and value:
            value = float(np.frombuffer(value, "<f4")[0])
        elif field == "s":
            value = bytes(value)
        elif field == "ints":
            value = tuple(value)
        elif field == "floats":
            value = tuple(np.frombuffer(value, "<f4").tolist())
        return _text(attribute.get("name", b"")), value

    def tensor(self, data: memoryview) -> Tensor:
        tensor = self.message(data, _TENSOR, "tensor")
        name, dtype, shape = _text(tensor.get("name", b"")), tensor.get("data_type", 0), tuple(tensor["dims"])
        if tensor.get("data_location", 0) != 0:
            raise BundleError(f"tensor {name[:40]!r} holds external data")
        if dtype not in ITEM_BYTES:
            raise BundleError(f"tensor {name[:40]!r} has element type {dtype}, expected one of {sorted(ITEM_BYTES)}")
        if len(shape) > 8 or any(size < 0 for size in shape):
            raise BundleError(f"tensor {name[:40]!r} has shape {shape[:9]}")
        content = _content(tensor, dtype)
        if len(content) != math.prod(shape) * ITEM_BYTES[dtype]:
            raise BundleError(f"tensor {name[:40]!r} has shape {shape} and {len(content)} bytes")
        if dtype in (FLOAT, DOUBLE) and np.isnan(np.frombuffer(content, f"<f{ITEM_BYTES[dtype]}")).any():
            raise BundleError(f"tensor {name[:40]!r} holds NaN")
        if dtype not in (INT32, INT64) or not content:
            return Tensor(name, dtype, shape, np.zeros(shape, np.int64) if dtype in (INT32, INT64) else None)
        ints = np.frombuffer(content, f"<i{ITEM_BYTES[dtype]}").astype(np.int64).reshape(shape)
        return Tensor(name, dtype, shape, ints if ints.size <= MAX_KNOWN else None, (int(ints.min()), int(ints.max())))

    def value_info(self, data: memoryview) -> ValueInfo:
        info = self.message(data, _VALUE_INFO, "value")
        kind = self.message(info.get("type", memoryview(b"")), _TYPE, "type")
        tensor = self.message(kind.get("tensor_type", memoryview(b"")), _TENSOR_TYPE, "tensor type")
        shape = None
        if "shape" in tensor:
            sizes = [
                self.message(size, _DIMENSION, "dimension")
                for size in self.message(tensor["shape"], _SHAPE, "shape")["dim"]
            ]
            shape = tuple(size.get("dim_value") for size in sizes)
        return ValueInfo(_text(info.get("name", b"")), tensor.get("elem_type", 0), shape)


def _content(tensor: dict[str, Any], dtype: int) -> bytes | memoryview:
    """Bytes of a tensor's elements, wherever it holds them; never in two places."""
    filled = [name for name in ("raw_data", "float_data", "int32_data", "int64_data") if len(tensor.get(name, b""))]
    if len(filled) > 1:
        raise BundleError("a tensor holds its data twice")
    source = filled[0] if filled else "raw_data"
    if source == "raw_data":
        raw: memoryview = tensor.get("raw_data", memoryview(b""))
        return raw
    fitting = {"float_data": (FLOAT,), "int32_data": (INT32, BOOL), "int64_data": (INT64,)}
    if dtype not in fitting[source]:
        raise BundleError(f"a tensor of element type {dtype} with {source}")
    if source == "float_data":
        floats: bytes = tensor["float_data"]
        return floats
    width = {INT32: "<i4", BOOL: "<u1", INT64: "<i8"}[dtype]
    return np.array(tensor[source], np.int64).astype(width).tobytes()


def _text(data: bytes | memoryview) -> str:
    return bytes(data).decode("utf-8")

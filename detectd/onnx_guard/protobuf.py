"""Split protobuf messages that somebody else wrote. Knows the wire format and no schema.

Reference: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectd.errors import BundleError

MAX_FIELDS = 200_000

Fields = Mapping[int, tuple[str, str]]
"""Name and kind of each field that a message may have, by number. Kinds: "int", "float" and "bytes" may stand once,
"messages", "ints" and "floats" repeat, "skip" is bytes that nobody reads, "!reason" refuses. A number that is not
there is refused."""

_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
_WIRES = {
    "int": (_VARINT,),
    "float": (_FOUR,),
    "bytes": (_LENGTH,),
    "skip": (_LENGTH,),
    "messages": (_LENGTH,),
    "ints": (_VARINT, _LENGTH),
    "floats": (_FOUR, _LENGTH),
}


class Splitter:
    """Splits the messages of one file; counts fields over all of them, since each costs time."""

    def __init__(self) -> None:
        self.fields_left = MAX_FIELDS

    def message(self, data: memoryview, fields: Fields, what: str) -> dict[str, Any]:
        """Split one message into values by field name; a field that may stand once and does not has no entry.

        Raises
        ------
        BundleError
        """
        empty = {"messages": list, "ints": list, "floats": bytearray}
        found: dict[str, Any] = {name: empty[kind]() for name, kind in fields.values() if kind in empty}
        position = 0
        while position < len(data):
            self._count()
            tag, position = _varint(data, position)
            value, position = _value(data, position, tag & 7)
            name, kind = fields.get(tag >> 3, ("", f"!field {tag >> 3} of a {what}"))
            if kind.startswith("!"):
                raise BundleError(f"{kind[1:]}: not accepted")
            self._store(found, name, kind, tag & 7, value)
        return found

    def _store(self, found: dict[str, Any], name: str, kind: str, wire: int, value: Any) -> None:
        if wire not in _WIRES[kind]:
            raise BundleError(f"no valid protobuf: {name} has wire type {wire}")
        if kind == "messages":
            found[name].append(value)
        elif kind == "ints":
            found[name] += [value] if wire == _VARINT else self._packed(value)
        elif kind == "floats":
            found[name] += value
        elif kind != "skip":
            if name in found:  # protobuf would take the last, or merge the two
                raise BundleError(f"no valid protobuf: {name} stands twice")
            found[name] = value

    def _packed(self, data: memoryview) -> list[int]:
        values = []
        position = 0
        while position < len(data):
            self._count()
            value, position = _varint(data, position)
            values.append(_signed(value))
        return values

    def _count(self) -> None:
        self.fields_left -= 1
        if self.fields_left < 0:
            raise BundleError(f"more than {MAX_FIELDS} fields")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Read an unsigned number of at most 64 bits; give it and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
    raise BundleError("no valid protobuf: a number without end")


def _value(data: memoryview, position: int, wire: int) -> tuple[Any, int]:
    if wire == _VARINT:
        value, position = _varint(data, position)
        return _signed(value), position
    if wire == _LENGTH:
        length, position = _varint(data, position)
    elif wire in (_EIGHT, _FOUR):
        length = 8 if wire == _EIGHT else 4
    else:
        raise BundleError(f"no valid protobuf: wire type {wire}")
    if length > len(data) - position:
        raise BundleError("no valid protobuf: it ends too early")
    return data[position : position + length], position + length


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value

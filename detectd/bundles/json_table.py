"""Read JSON that somebody else wrote, strictly. Knows nothing of what a bundle is."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from detectd.errors import BundleError


def read_json(data: bytes) -> dict[str, Any]:
    """Read one JSON object: UTF-8, no key twice, no NaN or infinity.

    Raises
    ------
    BundleError
    """
    try:
        table = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise BundleError(f"no valid JSON ({error})") from None
    if not isinstance(table, dict):
        raise BundleError("expected a JSON object")
    return table


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice")
    return table


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


class Table:
    """A JSON object whose values are taken out by name and exact type; `where` names it in errors."""

    def __init__(self, values: Any, where: str = "") -> None:
        if not isinstance(values, dict):
            raise BundleError(f"{where} is {_shown(values)}, expected an object")
        self.values = values
        self.where = f"{where}." if where else ""

    def take(self, key: str, wanted: type[Any]) -> Any:
        if key not in self.values:
            raise BundleError(f"{self.where}{key} is missing")
        value = self.values[key]
        if type(value) is not wanted:  # exact: true is no number
            raise self.wrong(key, f"{wanted.__name__}")
        return value

    def optional(self, key: str) -> dict[str, Any] | None:
        if self.values.get(key) is None:
            return None
        found: dict[str, Any] = self.take(key, dict)
        return found

    def number(self, key: str) -> float:
        wanted = int if type(self.values.get(key)) is int else float
        try:
            return float(self.take(key, wanted))
        except OverflowError:
            raise self.wrong(key, "a finite number") from None

    def text(self, key: str, longest: int) -> str:
        value: str = self.take(key, str)
        # Labels reach terminals and logs: control characters stay out.
        if not 1 <= len(value) <= longest or not value.isprintable():
            raise self.wrong(key, f"1 to {longest} printable characters")
        return value

    def matching(self, key: str, pattern: re.Pattern[str], expected: str) -> str:
        value: str = self.take(key, str)
        if not pattern.fullmatch(value):
            raise self.wrong(key, expected)
        return value

    def choice(self, key: str, choices: tuple[Any, ...]) -> Any:
        value = self.take(key, str)
        if value not in choices:
            raise self.wrong(key, " or ".join(choices))
        return value

    def only(self, *keys: str) -> None:
        unknown = sorted(self.values.keys() - set(keys))
        if unknown:
            raise BundleError(f"{self.where}{unknown[0][:40]!r} is not known to this detectd")

    def wrong(self, key: str, expected: str) -> BundleError:
        return BundleError(f"{self.where}{key} is {_shown(self.values[key])}, expected {expected}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

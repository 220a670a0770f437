"""One table of a TOML file, read key by key: wrong names, types and values become one clear line.

Knows TOML and how to complain; knows nothing of what the keys mean.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from detectd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

MAX_FILE_BYTES = 1 << 20
"""A configuration is written by hand; what is larger was given by mistake (an audio file, /dev/zero)."""


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file.

    Raises
    ------
    ConfigError
        One line that begins with the path as given: missing, unreadable, too large, or a syntax error with its place.
    """
    text = _read_text(path)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {_syntax_error(str(error), text)}") from error
    except (RecursionError, ValueError) as error:  # nested too deeply; an integer of thousands of digits
        raise ConfigError(f"{path}: cannot be read as TOML: {one_line(str(error))}") from error


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the name
        raise ConfigError(f"{one_line(str(path))}: cannot be read: {error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes; accepted: a TOML file")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise ConfigError(f"{path}: line {line}, column {column}: not UTF-8; accepted: a TOML file") from error


def _syntax_error(message: str, text: str) -> str:
    place = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    if place:
        line, column = place.groups()
        what = message[: place.start()]
    else:
        lines = text.split("\n")
        line, column = str(len(lines)), str(len(lines[-1]) + 1)
        what = message.removesuffix(" (at end of document)")
    return f"line {line}, column {column}: {one_line(what)}"


def one_line(text: str) -> str:
    """`text` with everything unprintable escaped, so that a hostile name cannot break the one-line rule."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shown(value: object, limit: int = 60) -> str:
    """`value` much as the file spells it, in one line of bounded length.

    >>> shown(True), shown("pump"), shown([1, 2.5]), shown(float("nan"))
    ('true', '"pump"', '[1, 2.5]', 'NaN')
    """
    try:
        text = one_line(json.dumps(value, default=str, ensure_ascii=False))
    except ValueError:  # Python refuses to spell an integer of thousands of digits
        text = "an integer of thousands of digits"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def nearest(word: str, known: Iterable[str]) -> str:
    """The one of `known` most like `word`, however far."""
    return difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)[0]


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers a key accepts."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    """`low` itself is not accepted."""

    def __contains__(self, value: float) -> bool:
        try:
            if not math.isfinite(value):
                return False
        except OverflowError:  # TOML integers have no bound
            return False
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if math.isfinite(self.low) and math.isfinite(self.high):
            span = f"above {self.low:g} and at most" if self.above else f"from {self.low:g} to"
            return f"{span} {self.high:g}"
        if math.isfinite(self.low):
            return f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
        return "that is finite"


FINITE = Range()
POSITIVE = Range(low=0, above=True)
DURATION_S = Range(0, 86_400)
POSITIVE_DURATION_S = Range(0, 86_400, above=True)


@dataclass(frozen=True, slots=True)
class Table:
    """The values of one table and the words for where they stand."""

    file: Path
    where: str
    """`ingest`, or `detector 'pump'`; empty for the whole file."""
    values: Mapping[str, Any]
    separator: str = ": "
    """Stands between `where` and a key: a dot where that is how the key is called."""

    def fail(self, message: str) -> NoReturn:
        self._raise(": ", message)

    def refuse(self, key: str, accepted: str) -> NoReturn:
        self.fail_at(key, f"is {shown(self.values[key])}; accepted: {accepted}")

    def fail_at(self, key: str, message: str) -> NoReturn:
        self._raise(self.separator, f"{key} {message}")

    def _raise(self, separator: str, message: str) -> NoReturn:
        place = self.where + separator if self.where else ""
        raise ConfigError(f"{self.file}: {one_line(place + message)}")

    def check_keys(self, known: Iterable[str]) -> None:
        known = list(known)
        for key in self.values:
            if key not in known:
                self.fail(f"unknown key {shown(key)}; the nearest valid one is {shown(nearest(key, known))}")

    def require(self, *keys: str) -> None:
        for key in keys:
            if key not in self.values:
                self.fail(f"key {shown(key)} is missing")

    def text(self, key: str, default: str) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or not value or "\0" in value:
            self.refuse(key, "a string that is not empty")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            self.refuse(key, "true or false")
        return value

    def number(self, key: str, default: float, span: Range = FINITE) -> float:
        value = self.values.get(key, default)
        if not is_number(value) or value not in span:
            self.refuse(key, f"a number {span}")
        return float(value)

    def optional_number(self, key: str, span: Range = FINITE) -> float | None:
        return self.number(key, 0.0, span) if key in self.values else None

    def integer(self, key: str, default: int, span: Range = FINITE) -> int:
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value not in span:
            self.refuse(key, f"an integer {span}")
        return value

    def choice(self, key: str, default: str, accepted: Iterable[str]) -> str:
        accepted = list(accepted)
        value = self.values.get(key, default)
        if not isinstance(value, str) or value not in accepted:
            self.refuse(key, " or ".join(shown(word) for word in accepted))
        return value

    def texts(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value = self.values.get(key, list(default))
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            self.refuse(key, "a list of strings that are not empty")
        return tuple(value)

    def numbers(self, key: str, span: Range = FINITE) -> tuple[float, ...]:
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(is_number(item) and item in span for item in value):
            self.refuse(key, f"a list of numbers, each {span}")
        return tuple(float(item) for item in value)


def is_number(value: object) -> bool:
    """An int or a float; a bool is neither, although Python counts it an int."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)

"""What can be asked of replay: JSON to a request, or a line that says what is wrong with it. Pure."""

import json
from dataclasses import dataclass
from typing import Any

from detectd.config.toml_table import nearest, shown
from detectd.publish.times import utc_ns_of

MAX_NUMBER = (1 << 63) - 1
_FORMS = '{"since_time": TIME}, {"run_id": RUN, "topic": TOPIC, "since_seq": N} or {"last": N}'


class BadRequestError(Exception):
    """A request that asks for nothing sensible; says why in one line."""


@dataclass(frozen=True, slots=True)
class SinceTime:
    """Everything published at or after a time; `after`: and, in publish order, after this position."""

    since_time: str
    since_ns: int
    limit: int | None = None
    after: int = 0


@dataclass(frozen=True, slots=True)
class SinceSeq:
    """Everything on a topic of a run, from a number on."""

    run_id: str
    topic: str
    since_seq: int
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Last:
    """The newest messages."""

    last: int


Request = SinceTime | SinceSeq | Last


def parse_request(data: bytes) -> Request:
    """Read a request.

    Raises
    ------
    BadRequestError
        If it is none.
    """
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise BadRequestError(f"not JSON; expected {_FORMS}") from None
    if not isinstance(values, dict):
        raise BadRequestError(f"not an object but {shown(values)}; expected {_FORMS}")
    if "since_time" in values:
        _check_keys(values, {"since_time"}, {"limit", "after"})
        return _since_time(values)
    if "last" in values:
        _check_keys(values, {"last"}, set())
        return Last(_count(values, "last"))
    _check_keys(values, {"run_id", "topic", "since_seq"}, {"limit"})
    run_id, topic = _text(values, "run_id"), _text(values, "topic")
    return SinceSeq(run_id, topic, _count(values, "since_seq"), _limit(values))


def _check_keys(values: dict[str, Any], needed: set[str], allowed: set[str]) -> None:
    for key in values:
        if key not in needed | allowed:
            near = shown(nearest(key, sorted(needed | allowed)))
            raise BadRequestError(f"unknown key {shown(key)}, the nearest valid one is {near}; expected {_FORMS}")
    for key in sorted(needed - values.keys()):
        raise BadRequestError(f"key {shown(key)} is missing; expected {_FORMS}")


def _since_time(values: dict[str, Any]) -> SinceTime:
    since_time = _text(values, "since_time")
    try:
        since_ns = utc_ns_of(since_time)
    except ValueError:
        raise BadRequestError(
            f"since_time is {shown(since_time)}; expected RFC 3339 like 2026-05-01T12:00:00Z"
        ) from None
    after = _count(values, "after") if "after" in values else 0
    return SinceTime(since_time, since_ns, _limit(values), after)


def _text(values: dict[str, Any], key: str) -> str:
    value = values[key]
    if not isinstance(value, str):
        raise BadRequestError(f"{key} is {shown(value)}; expected a string")
    return value


def _limit(values: dict[str, Any]) -> int | None:
    return _count(values, "limit", least=1) if values.get("limit") is not None else None


def _count(values: dict[str, Any], key: str, least: int = 0) -> int:
    value = values[key]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_NUMBER:
        raise BadRequestError(f"{key} is {shown(value)}; expected an integer from {least} to {MAX_NUMBER}")
    return value

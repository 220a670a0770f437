"""Answers a replay request from the journal's file, and says the truth about what is missing in the answer."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from detectd.publish.journal_file import Lost
from detectd.publish.request import Last, Request, SinceSeq, SinceTime
from detectd.publish.schema import int64

_MISSING = "not everything published in this span is in the journal"
_LIMIT, _SIZE = "cut at the limit", "cut at the largest reply"


@dataclass(frozen=True, slots=True)
class Answer:
    """Messages as they were published, in that order.

    Attributes
    ----------
    reason : str or None
        Why it is not complete; None if it is.
    next : dict or None
        The request that goes on where this answer was cut.
    """

    messages: list[bytes]
    reason: str | None
    next: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a single answer may hold."""

    n_messages: int
    n_bytes: int


def answer(connection: sqlite3.Connection, request: Request, lost: Lost, run_id: str, bounds: Bounds) -> Answer:
    """Answer a request from one state of the file.

    Parameters
    ----------
    connection : sqlite3.Connection
        Open to read.
    lost : Lost
        What the run that goes on, `run_id`, has published without writing it; looked at before the file.
    """
    connection.execute("BEGIN")
    try:
        if isinstance(request, SinceTime):
            return _since_time(connection, request, lost, bounds)
        if isinstance(request, SinceSeq):
            return _since_seq(connection, request, lost, run_id, bounds)
        return _last(connection, request, lost, bounds)
    finally:
        connection.execute("ROLLBACK")


def _since_time(connection: sqlite3.Connection, request: SinceTime, lost: Lost, bounds: Bounds) -> Answer:
    since_ns = int64(request.since_ns)
    (missing_ns,) = connection.execute("SELECT missing_ns FROM whole").fetchone()
    missing = max(missing_ns, lost.until_ns) >= request.since_ns
    (first_id,) = connection.execute("SELECT min(id) FROM messages WHERE published_ns >= ?", (since_ns,)).fetchone()
    rows: Iterable[tuple[int, bytes]] = ()
    if first_id is not None:
        # In order of id, with no sorting: a clock that was set back makes the times no order.
        rows = connection.execute(
            "SELECT id, body FROM messages WHERE id >= ? AND +published_ns >= ? ORDER BY id",
            (max(first_id, int64(request.after + 1)), since_ns),
        )
    taken, cut = _take(rows, request.limit, bounds)
    following = {"since_time": request.since_time, "after": taken[-1][0] if taken else request.after}
    return _answer(taken, cut, following, request.limit, missing=missing)


def _since_seq(connection: sqlite3.Connection, request: SinceSeq, lost: Lost, run_id: str, bounds: Bounds) -> Answer:
    lost_seqs = [last for (topic, _, _), (_, last) in lost.seqs.items() if topic == request.topic]
    missing = request.run_id == run_id and any(last >= request.since_seq for last in lost_seqs)
    run = connection.execute("SELECT run, lacking FROM runs WHERE run_id = ?", (request.run_id,)).fetchone()
    if run is None:
        return _answer([], None, {}, None, missing=missing or request.run_id != run_id)
    topic = connection.execute(
        "SELECT topic_no, missing_seq FROM topics WHERE run = ? AND topic = ?", (run[0], request.topic)
    ).fetchone()
    topic_no, missing_seq = topic or (-1, 0)
    missing = missing or bool(run[1]) or missing_seq >= max(request.since_seq, 1)
    rows = connection.execute(
        "SELECT seq, body FROM messages WHERE topic_no = ? AND seq >= ? ORDER BY seq", (topic_no, request.since_seq)
    )
    taken, cut = _take(rows, request.limit, bounds)
    following = {
        "run_id": request.run_id,
        "topic": request.topic,
        "since_seq": taken[-1][0] + 1 if taken else request.since_seq,
    }
    return _answer(taken, cut, following, request.limit, missing=missing)


def _last(connection: sqlite3.Connection, request: Last, lost: Lost, bounds: Bounds) -> Answer:
    (missing_id,) = connection.execute("SELECT missing_id FROM whole").fetchone()
    rows = connection.execute("SELECT id, body FROM messages ORDER BY id DESC")
    taken, cut = _take(rows, request.last, bounds)
    oldest_id = taken[-1][0] if len(taken) == request.last and taken else 0
    missing = request.last > 0 and (bool(lost.seqs) or missing_id >= oldest_id)
    reason = _SIZE if cut == _SIZE else _MISSING if missing else None
    return Answer([body for _, body in reversed(taken)], reason)


def _take(
    rows: Iterable[tuple[int, bytes]], limit: int | None, bounds: Bounds
) -> tuple[list[tuple[int, bytes]], str | None]:
    """Rows up to the limit or the bounds, and which of the two cut them."""
    taken: list[tuple[int, bytes]] = []
    n_bytes = 0
    for row in rows:
        if limit is not None and len(taken) >= limit:
            return taken, _LIMIT
        n_bytes += len(row[1])
        if taken and (len(taken) >= bounds.n_messages or n_bytes > bounds.n_bytes):
            return taken, _SIZE
        taken.append(row)
    return taken, None


def _answer(
    taken: list[tuple[int, bytes]], cut: str | None, following: dict[str, Any], limit: int | None, *, missing: bool
) -> Answer:
    if limit is not None:
        following |= {"limit": limit}
    reason = _MISSING if missing else cut
    return Answer([body for _, body in taken], reason, following if cut is not None else None)

"""Events from a daemon's journal: reads the file itself, so the daemon may run or not."""

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from detectd.errors import DetectdError
from detectd.globs import matches
from detectd.publish.schema import int64, open_to_read
from detectd.publish.times import rfc3339, utc_ns_of

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events to show; None = whichever.

    Attributes
    ----------
    since_ns, until_ns : int or None
        Events that were going on at some time in this span.
    stream : str or None
        Glob.
    n_last : int or None
        So many, those that began last.
    """

    since_ns: int | None = None
    until_ns: int | None = None
    stream: str | None = None
    detector: str | None = None
    label: str | None = None
    only_open: bool = False
    n_last: int | None = None


def time_of(text: str, now_ns: int, option: str) -> int:
    """UTC in nanoseconds of a time that a person gave.

    >>> time_of("2h", 7_200_000_000_001, "--since")
    1

    Raises
    ------
    DetectdError
        One line that names the option.
    """
    ago = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])", text, flags=re.ASCII)
    if ago is not None:
        return now_ns - round(float(ago[1]) * _SECONDS[ago[2]] * 1e9)
    try:
        return utc_ns_of(text)
    except ValueError:
        expected = "RFC 3339 like 2026-05-01T12:00:00Z, or how long ago, like 90s, 15m, 2h, 1d or 1w"
        raise DetectdError(f"{option} {text!r}: expected {expected}") from None


def events_in(journal: Path, wanted: Wanted) -> Iterator[str]:
    """Newest messages of the events wanted, in the order in which the events began.

    Raises
    ------
    DetectdError
        One line that names the file, if there is none or it cannot be read.
    """
    with _opened(journal) as connection:
        ids = _ids(connection, wanted)
        # A few at a time, so that a pager that stands still keeps no daemon from tidying its journal.
        for at in range(0, len(ids), _AT_ONCE):
            yield from _bodies(connection, ids[at : at + _AT_ONCE])


def lacking(journal: Path, wanted: Wanted) -> str | None:
    """A line for whoever asks about a time of which the journal does not hold everything.

    Raises
    ------
    DetectdError
        As `events_in`.
    """
    with _opened(journal) as connection:
        (missing_ns,) = connection.execute("SELECT missing_ns FROM whole").fetchone()
    if wanted.since_ns is None or wanted.since_ns > missing_ns:
        return None
    return f"{journal} does not hold everything published until {rfc3339(missing_ns)[:19]}Z"


@contextlib.contextmanager
def _opened(journal: Path) -> Iterator[sqlite3.Connection]:
    if not journal.exists():
        raise DetectdError(f"{journal}: no journal here; expected one where service.state_dir of the configuration is")
    try:
        with contextlib.closing(open_to_read(journal)) as connection:
            connection.text_factory = str
            yield connection
    except sqlite3.Error as error:
        raise DetectdError(f"{journal}: cannot be read as a journal: {error}") from error


def _ids(connection: sqlite3.Connection, wanted: Wanted) -> list[int]:
    connection.create_function("is_wanted", 2, matches, deterministic=True)
    rows = connection.execute(
        """
        SELECT id FROM (SELECT max(id) AS id FROM messages GROUP BY event_id)
            JOIN messages USING (id) JOIN topics USING (topic_no)
        WHERE (:since IS NULL OR heard_ns >= :since OR state != 'end')
            AND (:until IS NULL OR start_ns < :until)
            AND (:stream IS NULL OR is_wanted(stream, :stream))
            AND (:detector IS NULL OR detector = :detector)
            AND (:label IS NULL OR json_extract(body, '$.label') = :label)
            AND (NOT :only_open OR state != 'end')
        ORDER BY start_ns DESC, id DESC LIMIT :n_last
        """,
        {
            "since": None if wanted.since_ns is None else int64(wanted.since_ns),
            "until": None if wanted.until_ns is None else int64(wanted.until_ns),
            "stream": wanted.stream,
            "detector": wanted.detector,
            "label": wanted.label,
            "only_open": wanted.only_open,
            "n_last": -1 if wanted.n_last is None else wanted.n_last,
        },
    )
    return [number for (number,) in rows.fetchall()][::-1]


def _bodies(connection: sqlite3.Connection, ids: list[int]) -> list[str]:
    """Messages in the order of their ids; what was pruned in between is left out."""
    marks = ",".join("?" * len(ids))
    rows = connection.execute(f"SELECT id, body FROM messages WHERE id IN ({marks})", ids)  # noqa: S608
    found = dict(rows.fetchall())
    return [found[number] for number in ids if number in found]

"""The journal's file as its one writer sees it: every method is one transaction, on disk when it returns.

Knows SQL and sizes; whether to try again, and what to do without a journal, is decided elsewhere. Everything here may
raise sqlite3.Error, and then has changed nothing.
"""

import contextlib
import itertools
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectd.publish.record import OpenEvent, Record, open_event
from detectd.publish.schema import BUSY_S, int64, open_to_write

_PAGE_BYTES = 4096
_SHM_BYTES = 1 << 16
_ROOM_PAGES = 512
"""Kept free for what is being written while the oldest messages go."""

NEVER_NS = -(1 << 63)
"""Before all times."""

_KEPT_RUNS = 1000
"""Newest runs that are remembered although none of their messages are left."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How large the journal may become; file and write-ahead log together stay within `max_bytes`."""

    max_age_ns: int
    max_bytes: int

    @property
    def log_bytes(self) -> int:
        """Of the write-ahead log."""
        return min(self.max_bytes // 4, 16_000_000)

    @property
    def pages(self) -> int:
        """Of the file itself."""
        return (self.max_bytes - self.log_bytes - _SHM_BYTES) // _PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Lost:
    """Messages that were published and are in no journal.

    Attributes
    ----------
    until_ns : int
        Publish time of the newest.
    seqs : mapping of (topic, stream, detector) to (int, int)
        Lowest and highest number.
    """

    until_ns: int
    seqs: Mapping[tuple[str, str, str], tuple[int, int]]


class LogTooLongError(sqlite3.OperationalError):
    """The write-ahead log has reached its bound and cannot be begun anew."""


class JournalFile:
    """An open journal, for writing.

    Raises
    ------
    UnusableError
        If there is a file that cannot serve.
    """

    def __init__(self, path: Path, run_id: str, limits: Limits) -> None:
        self._log = path.with_name(f"{path.name}-wal")
        self._path = path
        self._limits = limits
        self._run_id = run_id
        self._run = 0
        self._topic_nos: dict[str, int] = {}
        self._checkpoint_bytes = limits.log_bytes // 4
        self._connection = open_to_write(path)
        try:
            # One that is full already, its bound being new, needs some room for being made smaller.
            most_pages = max(limits.pages, self._used_pages() + _ROOM_PAGES)
            self._connection.execute(f"PRAGMA max_page_count = {most_pages}")
            # Numbers are never given again, also where all messages are gone.
            (self._last_id,) = self._connection.execute(
                "SELECT max(missing_id, 0, (SELECT coalesce(max(id), 0) FROM messages)) FROM whole"
            ).fetchone()
            self._identity = _identity(path)
        except BaseException:
            self._connection.close()
            raise

    def begin_run(self, now_ns: int, *, doubt_earlier: bool) -> None:
        """Enter the run, unless it has been.

        Parameters
        ----------
        doubt_earlier : bool
            What was published before may not all be here, and the newest run is one that may lack something.
        """
        with self._transaction() as connection:
            found = connection.execute("SELECT run FROM runs WHERE run_id = ?", (self._run_id,)).fetchone()
            if found is None:
                if doubt_earlier:
                    self._doubt_newest_run(now_ns)
                columns = "(run_id, began_ns, lacking) VALUES (?, ?, 0)"
                cursor = connection.execute(f"INSERT INTO runs {columns}", (self._run_id, int64(now_ns)))
                found = (cursor.lastrowid,)
        self._run = found[0]
        rows = self._connection.execute("SELECT topic, topic_no FROM topics WHERE run = ?", (self._run,))
        self._topic_nos = dict(rows.fetchall())

    @property
    def newest_ns(self) -> int:
        """The latest publish time that the file knows of, which is no order: clocks are set back."""
        (published_ns,) = self._connection.execute("SELECT max(published_ns) FROM messages").fetchone()
        (missing_ns,) = self._connection.execute("SELECT missing_ns FROM whole").fetchone()
        return int(missing_ns if published_ns is None else max(published_ns, missing_ns))

    def _doubt_newest_run(self, now_ns: int) -> None:
        self._connection.execute(
            "UPDATE runs SET lacking = 1 WHERE run = (SELECT max(run) FROM runs) AND ended_ns IS NULL"
        )
        self._note_missing(max(now_ns, self.newest_ns), self._last_id)

    def left_open(self) -> list[OpenEvent]:
        """Events that earlier runs left open."""
        return open_events(self._connection, self._run)

    def append(self, records: Sequence[Record], now_ns: int) -> None:
        """Write messages down, and which events are open after them."""
        if self._log_bytes() > self._limits.log_bytes:
            self._checkpoint()
            if self._log_bytes() > self._limits.log_bytes:
                raise LogTooLongError("another program keeps the write-ahead log in use")
        made: dict[str, int] = {}
        with self._transaction() as connection:
            topic_nos = [self._topic_no(record.topic, record.stream, record.detector, made) for record in records]
            connection.executemany(
                "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        self._last_id + number,
                        int64(now_ns),
                        topic_no,
                        record.seq,
                        record.event_id,
                        record.state,
                        int64(record.start_ns),
                        int64(record.heard_ns),
                        record.body,
                    )
                    for number, (record, topic_no) in enumerate(zip(records, topic_nos, strict=True), start=1)
                ],
            )
            newest = {record.event_id: record for record in records}.values()
            over = [(record.event_id,) for record in newest if record.state == "end"]
            connection.executemany("DELETE FROM open_events WHERE event_id = ?", over)
            self._keep_open([open_event(record) for record in newest if record.state != "end"])
        self._topic_nos |= made
        self._last_id += len(records)

    def recover(self, lost: Lost, open_now: Sequence[OpenEvent]) -> None:
        """Note what could not be written, and which events of this run are open by now."""
        made: dict[str, int] = {}
        with self._transaction() as connection:
            for (topic, stream, detector), (first_seq, last_seq) in lost.seqs.items():
                topic_no = self._topic_no(topic, stream, detector, made)
                # A write that failed may have reached the disk all the same.
                connection.execute("DELETE FROM messages WHERE topic_no = ? AND seq >= ?", (topic_no, first_seq))
                self._note_missing_seq(topic_no, last_seq)
            if lost.until_ns > NEVER_NS:
                self._note_missing(lost.until_ns, self._last_id)
            connection.execute("DELETE FROM open_events WHERE run = ?", (self._run,))
            self._keep_open(open_now)
        self._topic_nos |= made

    def prune(self, n_messages: int, now_ns: int | None) -> bool:
        """Drop at most `n_messages` of the oldest where there are too many, or too old ones; True if more must go.

        Parameters
        ----------
        now_ns : int or None
            None looks at the size only.
        """
        n_dropped = 0
        if self._used_pages() > self._limits.pages - _ROOM_PAGES:
            n_dropped = self._drop(n_messages, None)
        elif now_ns is not None:
            self._drop(n_messages, now_ns - self._limits.max_age_ns)
        shrunk = self._shrink()
        return n_dropped > 0 or shrunk

    def _drop(self, n_messages: int, before_ns: int | None) -> int:
        rows = self._connection.execute("SELECT id, published_ns FROM messages ORDER BY id LIMIT ?", (n_messages,))
        going = rows.fetchall()
        if before_ns is not None:
            going = list(itertools.takewhile(lambda row: row[1] < before_ns, going))
        if going:
            self._drop_until(going[-1][0])
        return len(going)

    def _drop_until(self, last_id: int) -> None:
        with self._transaction() as connection:
            going = connection.execute(
                "SELECT topic_no, seq, published_ns FROM messages WHERE id <= ? ORDER BY id", (last_id,)
            ).fetchall()
            for topic_no, seq in {topic_no: seq for topic_no, seq, _ in going}.items():
                self._note_missing_seq(topic_no, seq)
            self._note_missing(max(published_ns for _, _, published_ns in going), last_id)
            connection.execute("DELETE FROM messages WHERE id <= ?", (last_id,))
            self._forget_runs()

    def _forget_runs(self) -> None:
        """Drop runs of which nothing is left; asking for one gets the answer that not all is here."""
        row = self._connection.execute(
            "SELECT run FROM messages JOIN topics USING (topic_no) ORDER BY id LIMIT 1"
        ).fetchone()
        oldest = min(row[0] if row else self._run, self._run)
        self._connection.execute(
            "DELETE FROM topics WHERE run < ? AND run NOT IN (SELECT run FROM open_events)", (oldest,)
        )
        self._connection.execute(
            "DELETE FROM runs WHERE (run < ? OR run < ? AND run NOT IN (SELECT run FROM topics))"
            " AND run NOT IN (SELECT run FROM open_events)",
            (oldest, self._run - _KEPT_RUNS),
        )

    def _shrink(self) -> bool:
        """Give pages back where the file is larger than it may be."""
        pages, free = self._pragma("page_count"), self._pragma("freelist_count")
        excess = min(pages - self._limits.pages, free, _ROOM_PAGES)
        if excess <= 0:
            return False
        self._connection.execute(f"PRAGMA incremental_vacuum({excess})").fetchall()
        return True

    def checkpoint_if_due(self) -> None:
        """Bring the write-ahead log home once it is long; while somebody reads, as much of it as can be."""
        size = self._log_bytes()
        if size < self._checkpoint_bytes:
            return
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            self._checkpoint()
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {round(BUSY_S * 1000)}")
        self._checkpoint_bytes = self._log_bytes() + self._limits.log_bytes // 4

    def _checkpoint(self) -> None:
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def end_run(self, now_ns: int) -> None:
        """Note that the run ended with all it published in here."""
        with self._transaction() as connection:
            connection.execute("UPDATE runs SET ended_ns = ? WHERE run = ?", (int64(now_ns), self._run))

    @property
    def moved(self) -> bool:
        """Whether the file is no longer where it was opened: what is written now would be lost."""
        try:
            return _identity(self._path) != self._identity
        except OSError:
            return True

    def close(self) -> None:
        """Close the file; after this the write-ahead log is gone, if the disk lets us."""
        self._connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _topic_no(self, topic: str, stream: str, detector: str, made: dict[str, int]) -> int:
        known = self._topic_nos.get(topic) or made.get(topic)
        if known is None:
            columns = "(run, topic, stream, detector, missing_seq) VALUES (?, ?, ?, ?, 0)"
            row = (self._run, topic, stream, detector)
            known = self._connection.execute(f"INSERT INTO topics {columns}", row).lastrowid
            assert known is not None
            made[topic] = known
        return known

    def _keep_open(self, events: Sequence[OpenEvent]) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO open_events VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    event.event_id,
                    self._run,
                    event.stream,
                    event.detector,
                    str(event.start_ns),
                    str(event.heard_ns),
                    str(event.heard_sample),
                    event.body,
                )
                for event in events
            ],
        )

    def _note_missing(self, until_ns: int, until_id: int) -> None:
        self._connection.execute(
            "UPDATE whole SET missing_ns = max(missing_ns, ?), missing_id = max(missing_id, ?)",
            (int64(until_ns), until_id),
        )

    def _note_missing_seq(self, topic_no: int, seq: int) -> None:
        self._connection.execute(
            "UPDATE topics SET missing_seq = max(missing_seq, ?) WHERE topic_no = ?", (seq, topic_no)
        )

    def _used_pages(self) -> int:
        return self._pragma("page_count") - self._pragma("freelist_count")

    def _pragma(self, name: str) -> int:
        (value,) = self._connection.execute(f"PRAGMA {name}").fetchone()
        return int(value)

    def _log_bytes(self) -> int:
        try:
            return self._log.stat().st_size
        except OSError:
            return 0


def open_events(connection: sqlite3.Connection, but_of_run: int) -> list[OpenEvent]:
    """Events that are open, those of one run left out."""
    columns = "event_id, stream, detector, start_ns, heard_ns, heard_sample, body"
    rows = connection.execute(f"SELECT {columns} FROM open_events WHERE run != ?", (but_of_run,))  # noqa: S608
    return [
        OpenEvent(event_id, stream, detector, int(start_ns), int(heard_ns), int(heard_sample), body)
        for event_id, stream, detector, start_ns, heard_ns, heard_sample, body in rows.fetchall()
    ]


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino

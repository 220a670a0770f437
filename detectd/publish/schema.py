"""The journal's tables, and how a file with them is opened. SQLite, readable with any tool that knows it."""

import sqlite3
from pathlib import Path

NAME = "journal.sqlite3"
VERSION = 1
BUSY_S = 0.25
"""How long another program's lock on the file is waited for."""

_INT64_MAX = (1 << 63) - 1

TABLES = """
-- What is not in here although it was published: nothing published later than missing_ns, nothing after the message
-- missing_id in publish order. Nothing at all while missing_id is -1.
CREATE TABLE whole (missing_ns INTEGER NOT NULL, missing_id INTEGER NOT NULL);
INSERT INTO whole VALUES (-9223372036854775808, -1);

CREATE TABLE runs (
    run INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    began_ns INTEGER NOT NULL,
    ended_ns INTEGER,                -- null: goes on, or was killed
    lacking INTEGER NOT NULL         -- 1: published what is not in here, nobody knows on which topics
);
CREATE TABLE topics (
    topic_no INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs,
    topic TEXT NOT NULL,
    stream TEXT NOT NULL,
    detector TEXT NOT NULL,
    missing_seq INTEGER NOT NULL,    -- highest number that is not in here any more or never was; 0: all are
    UNIQUE (run, topic)
);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY,          -- publish order
    published_ns INTEGER NOT NULL,
    topic_no INTEGER NOT NULL REFERENCES topics,
    seq INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    state TEXT NOT NULL,
    start_ns INTEGER NOT NULL,       -- the event's first sample
    heard_ns INTEGER NOT NULL,       -- its last sample so far
    body TEXT NOT NULL               -- the message as it was published
);
CREATE INDEX messages_by_time ON messages (published_ns);
CREATE UNIQUE INDEX messages_by_seq ON messages (topic_no, seq);
CREATE INDEX messages_by_event ON messages (event_id, id);

-- Events whose newest state is not "end"; kept when their messages are pruned. Samples and times as text: they may be
-- beyond 64 bits.
CREATE TABLE open_events (
    event_id TEXT PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs,
    stream TEXT NOT NULL,
    detector TEXT NOT NULL,
    start_ns TEXT NOT NULL,
    heard_ns TEXT NOT NULL,
    heard_sample TEXT NOT NULL,
    body TEXT NOT NULL
) WITHOUT ROWID;

CREATE VIEW published AS
    SELECT id, published_ns, run_id, topic, seq, event_id, state, stream, detector, start_ns, heard_ns, body
    FROM messages JOIN topics USING (topic_no) JOIN runs USING (run);
"""

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class UnusableError(Exception):
    """A file that cannot serve as this version's journal; says why. It has to be put aside."""

    def __init__(self, reason: str, label: str) -> None:
        super().__init__(reason)
        self.label = label
        """How its name shall tell of it: "damaged" or "newer"."""


def open_to_write(path: Path) -> sqlite3.Connection:
    """Open the journal, making it if it is missing. Takes milliseconds whatever its size.

    Raises
    ------
    UnusableError
        If the file is damaged or of a newer version.
    sqlite3.Error
        If the disk does not let us.
    """
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection)
    except sqlite3.Error as error:
        connection.close()
        if is_damage(error):
            raise UnusableError(str(error), "damaged") from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise UnusableError(f"it is of version {version}, this program knows up to {VERSION}", "newer")
    if version == 0:
        if connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
            raise UnusableError("it is some other program's database", "damaged")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # done where nobody waits for it
    connection.execute("PRAGMA secure_delete = OFF")
    if version == 0:
        connection.executescript(f"BEGIN IMMEDIATE;{TABLES}PRAGMA user_version = {VERSION};COMMIT;")
    for table in ("whole", "runs", "topics", "messages", "open_events"):
        connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()  # noqa: S608 - names from the line above


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open the journal for reading, whether a daemon is writing it or not; text comes as bytes.

    Raises
    ------
    sqlite3.Error
        If there is none or it cannot be read.
    """
    uri = path.absolute().as_uri()
    try:
        connection = _reader(f"{uri}?mode=ro")
    except sqlite3.OperationalError:
        if path.with_name(f"{path.name}-wal").exists():
            raise
        # On a disk that cannot be written, and closed by its writer: it is all in the one file.
        connection = _reader(f"{uri}?immutable=1")
    return connection


def _reader(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, timeout=BUSY_S, isolation_level=None, uri=True, check_same_thread=False)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    except BaseException:
        connection.close()
        raise
    if version != VERSION:
        connection.close()
        raise sqlite3.DatabaseError(f"it is of version {version}, this program reads {VERSION}")
    connection.text_factory = bytes
    return connection


def is_damage(error: sqlite3.Error) -> bool:
    """Whether it is the file that is wrong, rather than the disk."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return False
    return code & 0xFF in _DAMAGE or (code == sqlite3.SQLITE_ERROR and "no such" in str(error))


def int64(number: int) -> int:
    """The nearest integer that SQLite can hold."""
    return max(-_INT64_MAX - 1, min(number, _INT64_MAX))

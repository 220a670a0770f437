"""Events to journal, a journal in a folder, and what its file holds as plain sqlite3 sees it."""

import contextlib
import json
import sqlite3
from uuid import uuid4

from detectd.config.config import JournalConfig
from detectd.engine.event import Event
from detectd.publish.journal import Journal
from detectd.publish.record import record_of

NAME = "journal.sqlite3"
SETTINGS = JournalConfig(max_age_days=30, max_size_mb=8)
SECOND = 1_000_000_000


def event(stream="yard", state="start", event_id=None, detector="demo", start_ns=10**18, heard_s=1, **changes):
    """One state of an event at 8 kHz that began at sample 8000 and was heard for `heard_s` seconds."""
    over = state == "end"
    last = 8000 + 8000 * heard_s - 1
    fields = {
        "event_id": event_id or str(uuid4()),
        "state": state,
        "stream": stream,
        "detector": detector,
        "kind": "binary",
        "bundle": "tiny@0123456789ab",
        "threshold": 1.0,
        "label": "hum",
        "start_sample": 8000,
        "end_sample": last if over else None,
        "sample_rate_hz": 8000,
        "start_utc_ns": start_ns,
        "end_utc_ns": start_ns + heard_s * SECOND if over else None,
        "heard_sample": last,
        "heard_utc_ns": start_ns + heard_s * SECOND,
        "score": 2.5,
        "peak_score": 3.5,
        "lines": (),
        "gap_samples": 0,
        "end_reason": "quiet" if over else None,
    }
    return Event(**fields | changes)


def record(seq, run_id="run", journaled=True, **of_event):
    return record_of(event(**of_event), run_id=run_id, seq=seq, journaled=journaled)


def rows(folder, sql, *parameters):
    """What a query gives, asked past everything of detectd."""
    with contextlib.closing(sqlite3.connect(folder / NAME)) as connection:
        return connection.execute(sql, parameters).fetchall()


def bodies(folder):
    """Messages in publish order."""
    return [body for (body,) in rows(folder, "SELECT body FROM messages ORDER BY id")]


def messages(folder):
    return [json.loads(body) for body in bodies(folder)]


@contextlib.contextmanager
def journal_in(folder, run_id="run", settings=SETTINGS, **changes):
    """A journal that is closed cleanly at the end."""
    journal = Journal(folder, run_id, settings, **changes)
    try:
        yield journal
    finally:
        journal.close()


def kill(journal):
    """Leave a journal as a process that is killed would: nothing is said, nothing is noted."""
    if journal._file is not None:
        journal._file.close()
        journal._file = None
    journal._lock.release()


@contextlib.contextmanager
def locked(folder):
    """Keep everybody else from writing: a fault that comes and goes at once."""
    with contextlib.closing(sqlite3.connect(folder / NAME, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")

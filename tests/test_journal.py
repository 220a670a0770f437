"""The journal: what is in it, what a new run makes of an old one's, how it stays small, whom it lets in."""

import collections
import contextlib
import json
import os
import re
import sqlite3
import time

import pytest
from daemon_process import until
from journal_parts import (
    NAME,
    SECOND,
    SETTINGS,
    bodies,
    event,
    journal_in,
    kill,
    locked,
    messages,
    record,
    rows,
)

from detectd.config.config import JournalConfig
from detectd.errors import ConfigError
from detectd.publish.aside import put_aside
from detectd.publish.journal import Journal
from detectd.publish.scribe import Scribe
from detectd.publish.times import rfc3339, utc_ns_of

DAY = 86_400 * SECOND


@contextlib.contextmanager
def scribe_in(folder, run_id, settings=SETTINGS):
    """A scribe at work; what it hands on to be published is collected."""
    published = []
    with journal_in(folder, run_id, settings) as journal:
        scribe = Scribe(journal, lambda batch: published.extend(record for record, _ in batch))
        scribe.start()
        try:
            yield scribe, journal, published
        finally:
            scribe.stop()


def test_every_message_is_there_with_what_it_is_looked_up_by(tmp_path):
    with scribe_in(tmp_path, "run") as (scribe, _, published):
        before_ns = time.time_ns()
        for state in ("start", "update", "end"):
            scribe.put(event(event_id="e", state=state))
        scribe.put(event(stream="gate/1", detector="other", event_id="f"))
    after_ns = time.time_ns()
    assert bodies(tmp_path) == [record.body for record in published]
    found = rows(tmp_path, "SELECT run_id, topic, seq, event_id, state, stream, detector FROM published ORDER BY id")
    assert found == [
        ("run", "event/yard/demo", 1, "e", "start", "yard", "demo"),
        ("run", "event/yard/demo", 2, "e", "update", "yard", "demo"),
        ("run", "event/yard/demo", 3, "e", "end", "yard", "demo"),
        ("run", "event/gate/1/other", 1, "f", "start", "gate/1", "other"),
    ]
    assert all(before_ns <= when <= after_ns for (when,) in rows(tmp_path, "SELECT published_ns FROM messages"))
    for message, row in zip(messages(tmp_path), found, strict=True):
        assert (message["run_id"], message["seq"], message["event_id"], message["journaled"]) == (
            row[0],
            row[2],
            row[3],
            True,
        )


def test_it_is_on_disk_before_it_is_handed_on(tmp_path):
    seen = []
    with journal_in(tmp_path) as journal:
        scribe = Scribe(journal, lambda batch: seen.append((len(batch), bodies(tmp_path)[-1] == batch[-1][0].body)))
        scribe.start()
        for number in range(50):
            scribe.put(event(stream=f"s{number % 3}"))
        scribe.stop()
        assert sum(n for n, _ in seen) == 50
        assert all(there for _, there in seen)
        assert journal._file._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert rows(tmp_path, "PRAGMA journal_mode") == [("wal",)]


def test_what_a_killed_run_left_open_the_next_one_ends(tmp_path):
    journal = Journal(tmp_path, "first", SETTINGS)
    journal.append([record(1, "first", event_id="a"), record(1, "first", event_id="b", stream="gate")], time.time_ns())
    journal.append([record(2, "first", event_id="a", state="update", heard_s=7)], time.time_ns())
    journal.append([record(2, "first", event_id="b", stream="gate", state="end")], time.time_ns())
    before = messages(tmp_path)
    kill(journal)
    with scribe_in(tmp_path, "second") as (_, _, published):
        pass
    assert [one.event_id for one in published] == ["a"]
    (end,) = messages(tmp_path)[len(before) :]
    assert published[0].body == bodies(tmp_path)[-1]
    newest = before[2]
    assert end == newest | {
        "run_id": "second",
        "seq": 1,
        "state": "end",
        "end_sample": 8000 + 7 * 8000 - 1,
        "end_time": rfc3339(utc_ns_of(newest["start_time"]) + 7 * SECOND),
        "duration_s": 7.0,
        "end_reason": "restart",
    }
    with scribe_in(tmp_path, "third") as (_, _, published):
        pass
    assert published == []


def test_a_clean_stop_leaves_nothing_to_end(tmp_path):
    with scribe_in(tmp_path, "first") as (scribe, _, _):
        scribe.put(event(event_id="a"))
        scribe.put(event(event_id="a", state="end", end_reason="shutdown"))
    with scribe_in(tmp_path, "second") as (_, _, published):
        pass
    assert published == []
    assert [ended is not None for (ended,) in rows(tmp_path, "SELECT ended_ns FROM runs")] == [True, True]


def test_an_event_is_ended_although_its_messages_are_pruned(tmp_path):
    now = [10**18]
    journal = Journal(tmp_path, "first", SETTINGS, clock=lambda: now[0])
    journal.append([record(1, "first", event_id="a")], now[0])
    now[0] += 40 * DAY
    journal.tend()
    assert bodies(tmp_path) == []
    kill(journal)
    with scribe_in(tmp_path, "second") as (_, _, published):
        pass
    assert [(one.event_id, json.loads(one.body)["end_reason"]) for one in published] == [("a", "restart")]


def test_an_event_whose_end_could_not_be_written_is_ended_by_the_next_run(tmp_path):
    journal = Journal(tmp_path, "first", SETTINGS)
    journal.append([record(1, "first", event_id="a")], 10**18)
    with locked(tmp_path):
        lost = [record(2, "first", event_id="a", state="end", journaled=False)]
        assert not journal.append(lost, 10**18)
        journal.lose(lost, 10**18)
        journal.close()  # the disk is in trouble to the end
    with scribe_in(tmp_path, "second") as (_, _, published):
        pass
    assert [one.event_id for one in published] == ["a"]


def test_after_trouble_it_is_known_which_events_go_on(tmp_path):
    journal = Journal(tmp_path, "first", SETTINGS)
    journal.append([record(1, "first", event_id="ended")], 10**18)
    with locked(tmp_path):
        for lost in (
            record(2, "first", event_id="ended", state="end", journaled=False),
            record(1, "first", event_id="begun", stream="gate", journaled=False),
        ):
            assert not journal.append([lost], 10**18)
            journal.lose([lost], 10**18)
        assert "database is locked" in journal.fault
        assert str(tmp_path) in journal.fault
    journal._retry_s = 0.0
    journal.tend()
    assert journal.fault is None
    kill(journal)
    with scribe_in(tmp_path, "second") as (_, _, published):
        pass
    assert [(one.event_id, json.loads(one.body)["journaled"]) for one in published] == [("begun", True)]


def test_one_daemon_a_directory(tmp_path):
    folder = tmp_path / "made" / "for it"
    taken = re.escape(f"{folder} is in use by process {os.getpid()};")
    with journal_in(folder), pytest.raises(ConfigError, match=taken):
        Journal(folder, "other", SETTINGS)
    with journal_in(folder, "other"):
        pass


def fill(journal, n_messages, run_id="run", first_seq=1, padding=2000):
    """Append so many messages of some 2.5 kB, 100 at a time; yields after each."""
    for at in range(first_seq, first_seq + n_messages, 100):
        seqs = range(at, min(at + 100, first_seq + n_messages))
        batch = [record(seq, run_id, state="end", label="x" * padding) for seq in seqs]
        assert journal.append(batch, 10**18 + seqs[-1]), journal.fault
        journal.tend(len(batch))
        yield


def size(folder):
    return sum(path.stat().st_size for path in folder.glob(f"{NAME}*"))


def test_it_stays_within_its_size_and_keeps_the_newest(tmp_path):
    with journal_in(tmp_path, clock=lambda: 10**18) as journal:
        largest = 0
        for _ in fill(journal, 12_000):  # four times what fits
            largest = max(largest, size(tmp_path))
        assert 4_000_000 < largest <= 8_000_000
        seqs = [message["seq"] for message in messages(tmp_path)]
        assert seqs == list(range(seqs[0], 12_001))
        assert len(seqs) > 500
        assert rows(tmp_path, "SELECT missing_seq FROM topics") == [(seqs[0] - 1,)]
    assert size(tmp_path) <= 8_000_000


def test_a_smaller_bound_takes_effect_in_small_steps(tmp_path):
    with journal_in(tmp_path, "run", JournalConfig(30, 40), clock=lambda: 10**18) as journal:
        collections.deque(fill(journal, 10_000))
    assert size(tmp_path) > 20_000_000
    with journal_in(tmp_path, "next", clock=lambda: 10**18) as journal:
        steps_s = []
        more = True
        while more:
            began_s = time.monotonic()
            more = journal.tend()
            steps_s.append(time.monotonic() - began_s)
        assert size(tmp_path) <= 8_000_000
        assert messages(tmp_path)[-1]["seq"] == 10_000
        # Publishing waits for one step at most; the median, since other programs use the disk as well.
        assert sorted(steps_s)[len(steps_s) // 2] < 0.1
        assert len(steps_s) > 20


def test_a_bound_far_below_what_there_is_keeps_no_run_from_beginning(tmp_path):
    with journal_in(tmp_path, "run", JournalConfig(30, 40), clock=lambda: 10**18) as journal:
        collections.deque(fill(journal, 5_000))
    assert size(tmp_path) > 12_000_000
    for number in range(300):  # some of which need another page for their entry
        journal = Journal(tmp_path, f"next {number}", SETTINGS)
        assert journal.fault is None
        kill(journal)


def test_a_program_that_reads_for_long_does_not_make_it_grow(tmp_path):
    with journal_in(tmp_path, clock=lambda: 10**18) as journal, contextlib.ExitStack() as stack:
        collections.deque(fill(journal, 100))
        reader = stack.enter_context(contextlib.closing(sqlite3.connect(tmp_path / NAME, isolation_level=None)))
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM messages").fetchone()
        with pytest.raises(AssertionError, match="another program keeps the write-ahead log in use"):
            collections.deque(fill(journal, 12_000, first_seq=101))
        assert 2_000_000 < size(tmp_path) <= 8_000_000
        reader.execute("ROLLBACK")
        journal._retry_s = 0.0
        journal.tend()
        assert journal.fault is None
        assert size(tmp_path) <= 8_000_000


def test_what_is_too_old_goes(tmp_path):
    now = [10**18]
    with journal_in(tmp_path, settings=JournalConfig(max_age_days=2, max_size_mb=8), clock=lambda: now[0]) as journal:
        for seq in range(1, 6):
            assert journal.append([record(seq)], now[0])
            now[0] += DAY
        for _ in range(3):
            journal._age_check_s = 0.0
            journal.tend()
        assert [message["seq"] for message in messages(tmp_path)] == [4, 5]


def test_runs_of_which_nothing_is_left_are_forgotten(tmp_path):
    now = [10**18]
    for number in range(5):
        with journal_in(tmp_path, f"run-{number}", clock=lambda: now[0]) as journal:
            assert journal.append([record(1, f"run-{number}", state="end")], now[0])
            now[0] += 12 * DAY
            journal._age_check_s = 0.0
            journal.tend()
    assert rows(tmp_path, "SELECT run_id FROM runs") == [("run-3",), ("run-4",)]
    assert rows(tmp_path, "SELECT count(*) FROM topics") == [(2,)]


@pytest.mark.parametrize("megabytes", [64, pytest.param(500, marks=pytest.mark.slow)])
def test_a_large_file_opens_at_once(tmp_path, megabytes):
    settings = JournalConfig(30, 512)
    with journal_in(tmp_path, "first", settings) as journal:
        assert journal.append([record(1, "first")], time.time_ns())
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as connection, connection:
        numbers = f"WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {megabytes * 1000})"
        connection.execute(
            f"{numbers} INSERT INTO messages"
            " SELECT i, published_ns, topic_no, i, 'e' || i, state, start_ns, heard_ns, body FROM messages, n"
        )
    assert size(tmp_path) > megabytes * 600_000
    began_s = time.monotonic()
    with journal_in(tmp_path, "second", settings) as journal:
        took_s = time.monotonic() - began_s
        assert journal.fault is None
        assert journal.append([record(1, "second")], time.time_ns())
    print(f"{size(tmp_path) / 1e6:.0f} MB opened in {took_s * 1000:.1f} ms")
    assert took_s < 0.5


def test_thousands_of_events_a_second_pass(tmp_path):
    n_events = 10_000
    with scribe_in(tmp_path, "run", JournalConfig(30, 64)) as (scribe, _, published):
        began_s = time.monotonic()
        for number in range(n_events):
            scribe.put(event(stream=f"s{number % 50}", state="end"))
        while len(published) < n_events:
            time.sleep(0.01)
        took_s = time.monotonic() - began_s
    print(f"{n_events / took_s:.0f} events/s")
    assert rows(tmp_path, "SELECT count(*) FROM messages") == [(n_events,)]
    assert took_s < n_events / 2000


def test_a_heartbeats_time_is_never_later_than_what_is_still_to_be_published(tmp_path):
    handed_on = []
    with journal_in(tmp_path) as journal:
        scribe = Scribe(journal, handed_on.append)
        scribe.start()
        for _ in range(3):
            scribe.put(event())
            until(scribe._queue.empty)
        scribe.stop()
        stamps = [stamp for (stamp,) in rows(tmp_path, "SELECT DISTINCT published_ns FROM messages ORDER BY id")]
        for stamp in stamps:
            assert scribe.passed_ns() <= stamp
            scribe.published()
        assert stamps[-1] < scribe.passed_ns() <= time.time_ns()


def test_a_write_that_failed_and_is_there_all_the_same_is_taken_out(tmp_path):
    with journal_in(tmp_path) as journal:
        assert journal.append([record(1)], time.time_ns())
        with locked(tmp_path):
            lost = [record(2, journaled=False)]
            assert not journal.append(lost, time.time_ns())
            journal.lose(lost, time.time_ns())
        with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as connection, connection:
            connection.execute(
                "INSERT INTO messages SELECT 2, published_ns, topic_no, 2, event_id, state, start_ns, heard_ns, body"
                " FROM messages"
            )
        journal._retry_s = 0.0
        journal.tend()
        assert journal.append([record(3)], time.time_ns())
        assert rows(tmp_path, "SELECT seq FROM messages ORDER BY id") == [(1,), (3,)]


def test_few_damaged_files_are_kept_and_all_of_newer_versions(tmp_path):
    for number in range(6):
        for label in ("damaged", "newer"):
            for part in ("", "-wal"):
                (tmp_path / f"{NAME}{part}").write_text(f"{label} {number}")
            target = put_aside(tmp_path / NAME, label, (10**9 + number // 2) * SECOND)
            assert target.read_text() == f"{label} {number}"
    kept = sorted((path.name.split(".")[2][:5], path.read_text()) for path in tmp_path.iterdir())
    assert len([name for name, _ in kept if name == "newer"]) == 12
    assert [text for name, text in kept if name == "damag"] == [f"damaged {n}" for n in (3, 3, 4, 4, 5, 5)]

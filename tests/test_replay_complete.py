"""What replay answers, and whether it calls that complete, against a model that remembers everything."""

import itertools
import json
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from journal_parts import SECOND, SETTINGS, bodies, kill, locked, record, rows

import detectd.publish.journal
import detectd.publish.schema
from detectd.publish.answer import Bounds, answer
from detectd.publish.journal import Journal
from detectd.publish.request import Last, SinceSeq, SinceTime
from detectd.publish.schema import open_to_read
from detectd.publish.times import rfc3339

STREAMS = ("a", "b")
DAY_S = 86_400
WIDE = Bounds(10**9, 10**9)


class Replayed(RuleBasedStateMachine):
    """Publishes as the scribe does, through restarts, kills, faults, damage and pruning."""

    @initialize(calm=st.booleans())
    def begin(self, calm):
        self.calm = calm  # nothing but pruning makes anything go missing
        self.folder = Path(tempfile.mkdtemp(prefix="journal-"))
        self.now_ns = 10**18
        self.published = []  # (publish time, run, topic, seq, body), whatever became of them
        self.runs = []
        self.doubt_ns, self.n_doubted = 0, 0  # up to when a file was lost, so that nobody can know what it held
        self.open_run()
        for streams in ("ab", "ba", "aab"):
            self.publish(streams, 1)

    def teardown(self):
        """Ask about every moment and every number there was."""
        for at, shift in itertools.product(range(len(self.published)), (0, 1)):
            self.ask_by_time(at, shift, None)
            self.ask_by_seq(at, shift, None)
        for n in range(1, len(self.published) + 2):
            self.ask_for_the_last(n)
        self.journal.close()

    def open_run(self):
        self.run = f"run-{len(self.runs)}"
        self.runs.append(self.run)
        self.seq = dict.fromkeys(STREAMS, 0)
        self.journal = Journal(self.folder, self.run, SETTINGS, clock=lambda: self.now_ns)

    @rule(streams=st.lists(st.sampled_from(STREAMS), min_size=1, max_size=4), seconds=st.integers(-2, 5))
    def publish(self, streams, seconds):
        self.now_ns += seconds * SECOND
        records = []
        for stream in streams:
            self.seq[stream] += 1
            records.append(record(self.seq[stream], run_id=self.run, stream=stream))
        if not self.journal.append(records, self.now_ns):
            records = [replace(one, body=one.body.replace('"journaled":true', '"journaled":false')) for one in records]
            self.journal.lose(records, self.now_ns)
        for one in records:
            self.published.append((self.now_ns, self.run, one.topic, one.seq, one.body))

    @precondition(lambda self: not self.calm)
    @rule(
        streams=st.lists(st.sampled_from(STREAMS), min_size=1, max_size=3), ends=st.sampled_from(["stop", "kill", "go"])
    )
    def publish_in_trouble(self, streams, ends):
        with locked(self.folder):
            self.publish(streams, 1)
            assert self.journal.fault is not None
            if ends == "kill":
                kill(self.journal)
                self.doubt()
                self.open_run()
            elif ends == "stop":
                self.journal.close()
                self.doubt()
                self.open_run()
        self.journal.tend()
        assert self.journal.fault is None

    @rule()
    def restart(self):
        self.journal.close()
        self.open_run()

    @rule()
    def die(self):
        kill(self.journal)
        self.open_run()

    @rule(days=st.sampled_from([1, 20]))
    def time_goes_by(self, days):
        self.now_ns += days * DAY_S * SECOND

    @rule()
    def prune(self):
        self.journal._age_check_s = 0.0
        self.journal.tend()

    @rule(n_messages=st.integers(1, 3))
    def prune_for_size(self, n_messages):
        if self.journal._file is not None:
            self.journal._file._drop(n_messages, None)

    @precondition(lambda self: not self.calm and len(self.published) > 10)
    @rule()
    def damage(self):
        self.journal.report(damaged_error())
        self.doubt()
        self.journal.tend()

    def doubt(self):
        self.doubt_ns, self.n_doubted = max(self.doubt_ns, self.now_ns), len(self.published)

    @rule(at=st.integers(0, 10**6), shift_ns=st.sampled_from([-1, 0, 1]), limit=st.integers(0, 4))
    def ask_by_time(self, at, shift_ns, limit):
        times_ns = [published[0] for published in self.published] or [self.now_ns]
        since_ns = times_ns[at % len(times_ns)] + shift_ns
        wanted = [(one[4], one[0] >= since_ns) for one in self.published]
        request = SinceTime(rfc3339(since_ns), since_ns, limit)
        mine = [body for body, mine in wanted if mine]
        self.check(request, mine, limit, doubted=since_ns <= self.doubt_ns)

    @rule(at=st.integers(0, 10**6), shift=st.sampled_from([-1, 0, 1]), limit=st.integers(0, 4))
    def ask_by_seq(self, at, shift, limit):
        if not self.published:
            return
        _, run, topic, seq, _ = self.published[at % len(self.published)]
        since = max(0, seq + shift)
        wanted = [one[4] for one in self.published if one[1:3] == (run, topic) and one[3] >= since]
        known = run == self.run or bool(self.rows_of_run(run))
        self.check(SinceSeq(run, topic, since, limit), wanted, limit, known=known)

    def ask_for_the_last(self, n):
        wanted = [one[4] for one in self.published][-n:]
        found = self.ask(Last(n))
        there = bodies(self.folder)[-n:]
        assert [body.decode() for body in found.messages] == there
        if len(self.published) - n >= self.n_doubted or there != wanted:
            assert (found.reason is None) == (there == wanted)

    def rows_of_run(self, run):
        return rows(self.folder, "SELECT 1 FROM runs WHERE run_id = ? AND NOT lacking", run)

    def ask(self, request, bounds=WIDE):
        connection = open_to_read(self.folder / "journal.sqlite3")
        try:
            return answer(connection, request, self.journal.lost, self.run, bounds)
        finally:
            connection.close()

    def check(self, request, wanted, limit, *, known=True, doubted=False):
        """Present and in order, up to the limit; complete if and only if nothing is missing, nor may be."""
        present = set(bodies(self.folder))
        there = [body for body in wanted if body in present]
        cut = limit is not None and len(there) > limit
        found = self.ask(request)
        assert [body.decode() for body in found.messages] == (there[:limit] if cut else there)
        whole = len(there) == len(wanted) and not cut and known
        if not (doubted and whole):
            assert (found.reason is None) == whole
        if cut and limit:
            # Going on as told gives the rest.
            told = dict(found.next)
            if isinstance(request, SinceTime):
                rest = self.ask(SinceTime(told["since_time"], request.since_ns, None, told["after"]))
            else:
                rest = self.ask(SinceSeq(told["run_id"], told["topic"], told["since_seq"]))
            assert [body.decode() for body in rest.messages] == there[limit:]

    @invariant()
    def bodies_are_json_of_their_run(self):
        for published_ns, run, topic, seq, body in self.published[-3:]:
            message = json.loads(body)
            assert (message["run_id"], message["seq"]) == (run, seq)
            assert topic == f"event/{message['stream']}/{message['detector']}"
            assert published_ns


def damaged_error():
    """What sqlite3 says of a file that is none of its own."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"no database " * 1000)
        file.flush()
        with pytest.raises(sqlite3.DatabaseError) as caught:
            sqlite3.connect(file.name).execute("SELECT * FROM sqlite_schema")
    return caught.value


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Faults are met, and tried again, without waiting."""
    monkeypatch.setattr(detectd.publish.schema, "BUSY_S", 0.0)
    monkeypatch.setattr(detectd.publish.journal, "_RETRY_S", 0.0)


class TestReplayed(Replayed.TestCase):
    settings = settings(max_examples=60, stateful_step_count=30)

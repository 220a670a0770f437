"""`detectd events`: the journal as people and programs ask for it."""

import json
import time

import pytest
from daemon_process import config, running
from journal_parts import NAME, SECOND, SETTINGS, bodies, kill, record
from plain_wire import Push, Source, Subscriber
from sounds import recording
from test_cli import detectd

from detectd.commands.event_text import event_text
from detectd.commands.events import Wanted, events_in, lacking
from detectd.publish.journal import Journal
from detectd.publish.times import rfc3339, utc_ns_of

NOON_NS = utc_ns_of("2026-05-01T12:00:00Z")
MINUTE = 60 * SECOND
# Event: stream, detector, label, when it began (minutes after noon), how many seconds it was heard, states.
EVENTS = {
    "a": ("yard", "pump", "hum", 0, 30, ("start", "update", "end")),
    "b": ("gate/0", "pump", "whine", 10, 600, ("start", "update")),
    "c": ("gate/1", "drone", "hum", 20, 5, ("start", "end")),
    "d": ("yard", "drone", "whine", 5, 3600, ("start", "update", "end")),
}


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """A journal of the four events, left by a daemon that was killed."""
    folder = tmp_path_factory.mktemp("state")
    journal = Journal(folder, "run", SETTINGS, clock=lambda: NOON_NS)
    seq = 0
    for event_id, (stream, detector, label, minutes, heard_s, states) in EVENTS.items():
        for state in states:
            seq += 1
            of_event = {"stream": stream, "detector": detector, "label": label, "start_ns": NOON_NS + minutes * MINUTE}
            one = record(seq, event_id=event_id, state=state, heard_s=heard_s, **of_event)
            assert journal.append([one], NOON_NS + seq)
    kill(journal)
    (folder / "config.toml").write_text(f'[service]\nstate_dir = "."\n{config("")}')
    return folder


def at(text):
    return utc_ns_of(f"2026-05-01T{text}Z")


ASKED = {
    "all, in the order they began": ({}, "adbc"),
    "since the end of a": ({"since_ns": at("12:00:30")}, "adbc"),
    "since after a": ({"since_ns": at("12:00:31")}, "dbc"),
    "what is open lasts": ({"since_ns": at("18:00:00")}, "b"),
    "until b began": ({"until_ns": at("12:10:00")}, "ad"),
    "span": ({"since_ns": at("12:01:00"), "until_ns": at("12:15:00")}, "db"),
    "stream": ({"stream": "yard"}, "ad"),
    "source of channels": ({"stream": "gate"}, "bc"),
    "glob": ({"stream": "gate/*"}, "bc"),
    "detector": ({"detector": "drone"}, "dc"),
    "label": ({"label": "hum"}, "ac"),
    "open": ({"only_open": True}, "b"),
    "last two": ({"n_last": 2}, "bc"),
    "two at once": ({"stream": "yard", "label": "hum"}, "a"),
    "none": ({"stream": "roof"}, ""),
}


@pytest.mark.parametrize("name", ASKED)
def test_events_are_found_by_what_they_are_asked_for(state, name):
    asked, expected = ASKED[name]
    found = list(events_in(state / NAME, Wanted(**asked)))
    assert "".join(json.loads(body)["event_id"] for body in found) == expected
    # Of each the newest state, unchanged.
    newest = {json.loads(body)["event_id"]: body for body in bodies(state)}
    assert found == [newest[event_id] for event_id in expected]


OPTIONS = {
    "": "adbc",
    "--since 2026-05-01T14:00:31+02:00 --until 2026-05-01T12:15:00Z": "db",
    "--stream gate/* --detector drone --label hum": "c",
    "--open": "b",
    "--last 1": "c",
    "--since 1s": "b",
    "--since 520w": "adbc",
    "--until 520w": "",
}


@pytest.mark.parametrize("options", OPTIONS)
def test_the_command_prints_one_line_an_event(state, options):
    words = ["events", "--config", "config.toml", *options.split()]
    as_json, as_text = detectd(state, *words, "--json"), detectd(state, *words)
    found = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert (as_json.returncode, as_text.returncode) == (0, 0)
    assert "".join(message["event_id"] for message in found) == OPTIONS[options]
    assert as_text.stdout.splitlines() == [event_text(message) for message in found]
    expected = [] if found else [f"no such events in {state / NAME}"]
    assert as_text.stderr.splitlines() == as_json.stderr.splitlines() == expected


def test_it_says_where_the_journal_does_not_reach(tmp_path):
    journal = Journal(tmp_path, "run", SETTINGS, clock=lambda: NOON_NS)
    lost = [record(1, journaled=False)]
    journal.lose(lost, NOON_NS)
    journal._file.recover(journal.lost, [])
    kill(journal)
    path = tmp_path / NAME
    assert lacking(path, Wanted(since_ns=NOON_NS)) == (
        f"{path} does not hold everything published until {rfc3339(NOON_NS)[:19]}Z"
    )
    assert lacking(path, Wanted(since_ns=NOON_NS + 1)) is None
    assert lacking(path, Wanted()) is None


def test_what_is_no_journal_is_told_in_one_line(tmp_path):
    (tmp_path / "config.toml").write_text(config(""))
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / NAME).write_bytes(b"no journal " * 1000)
    result = detectd(tmp_path, "events", "--config", "config.toml")
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert str(tmp_path / "var" / NAME) in result.stderr


def test_it_asks_a_daemon_that_runs(tmp_path):
    with (
        running(tmp_path, config('[[stream]]\nid = "*"\nsource = "zmq"\n')) as process,
        Subscriber(process.events) as events,
        Push(process.ingest) as push,
    ):
        push.send(*Source("yard").blocks(recording(1, 2, 3)))
        (end,) = events.wait_for("yard", "end")
        result = detectd(tmp_path, "events", "--json", "--since", "1h")
        assert [json.loads(line) for line in result.stdout.splitlines()] == [end]
        assert result.stderr == ""


def test_a_pager_that_stands_still_keeps_the_journal_from_nothing(tmp_path):
    with_many = Journal(tmp_path, "run", SETTINGS)
    for first in range(1, 2001, 100):
        batch = [record(seq, state="end") for seq in range(first, first + 100)]
        assert with_many.append(batch, time.time_ns())
    reading = events_in(tmp_path / NAME, Wanted())
    next(reading)
    # Half read, it lets the log be brought home.
    assert with_many._file._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    assert len(list(reading)) == 1999
    with_many.close()

"""The replay socket as clients of any kind meet it, over TCP."""

import contextlib
import json
import socket as plain_socket
import subprocess
import sys
import time

import pytest
import test_protocol_page
import zmq
from daemon_process import until
from journal_parts import bodies, journal_in, record

import detectd.publish.replay
from detectd.publish.answer import Bounds
from detectd.publish.replay import Replay

EVERYTHING = {"since_time": "1970-01-01T00:00:00Z"}
TOPIC = "event/yard/demo"
N_MESSAGES = 20
WAIT_MS = 20_000

program = test_protocol_page.program


@pytest.fixture
def journal(tmp_path):
    with journal_in(tmp_path) as journal:
        for seq in range(1, N_MESSAGES + 1):
            assert journal.append([record(seq)], seq * 10**9)
        yield journal


@pytest.fixture
def endpoint(journal):
    with zmq.Context() as context:
        replay = Replay(context, "tcp://127.0.0.1:0", journal)
        replay.start()
        yield replay.endpoint
        replay.stop()


@contextlib.contextmanager
def client(endpoint, kind=zmq.REQ):
    with zmq.Context() as context, context.socket(kind) as socket:
        socket.linger, socket.rcvtimeo = 0, WAIT_MS
        socket.connect(endpoint)
        yield socket


def ask(endpoint, request, kind=zmq.REQ):
    """Messages and the last part."""
    with client(endpoint, kind) as socket:
        socket.send(request if isinstance(request, bytes) else json.dumps(request).encode())
        *messages, done = socket.recv_multipart()
    return [message.decode() for message in messages], json.loads(done)


@pytest.mark.parametrize("kind", [zmq.REQ, zmq.DEALER], ids=["REQ", "DEALER"])
def test_every_message_comes_again_unchanged_and_in_order(journal, endpoint, kind):
    messages, done = ask(endpoint, EVERYTHING, kind)
    assert messages == bodies(journal.path.parent)
    assert len(messages) == N_MESSAGES
    assert done == {"done": True, "complete": True}


def test_a_dealer_may_put_an_empty_part_first(journal, endpoint):
    with client(endpoint, zmq.DEALER) as socket:
        socket.send_multipart([b"", json.dumps(EVERYTHING).encode()])
        empty, *messages, done = socket.recv_multipart()
    assert empty == b""
    assert [message.decode() for message in messages] == bodies(journal.path.parent)
    assert json.loads(done)["complete"]


SPANS = {
    "since a time, inclusive": ({"since_time": "1970-01-01T00:00:18Z"}, [18, 19, 20], True),
    "since just after": ({"since_time": "1970-01-01T00:00:18.000000001Z"}, [19, 20], True),
    "in another zone": ({"since_time": "1970-01-01T01:00:19+01:00"}, [19, 20], True),
    "since the future": ({"since_time": "2500-01-01T00:00:00Z"}, [], True),
    "since a number, inclusive": ({"run_id": "run", "topic": TOPIC, "since_seq": 18}, [18, 19, 20], True),
    "since the next number": ({"run_id": "run", "topic": TOPIC, "since_seq": 21}, [], True),
    "of a topic without messages": ({"run_id": "run", "topic": "event/other/demo", "since_seq": 1}, [], True),
    "of an unknown run": ({"run_id": "other", "topic": TOPIC, "since_seq": 1}, [], False),
    "limit above": ({"since_time": "1970-01-01T00:00:18Z", "limit": 4}, [18, 19, 20], True),
    "limit as many": ({"since_time": "1970-01-01T00:00:18Z", "limit": 3}, [18, 19, 20], True),
    "limit below": ({"since_time": "1970-01-01T00:00:18Z", "limit": 2}, [18, 19], False),
    "limit on numbers": ({"run_id": "run", "topic": TOPIC, "since_seq": 1, "limit": 2}, [1, 2], False),
    "no limit": ({"since_time": "1970-01-01T00:00:18Z", "limit": None}, [18, 19, 20], True),
    "the last": ({"last": 2}, [19, 20], True),
    "the last, all of them": ({"last": 1000}, list(range(1, 21)), True),
}


@pytest.mark.parametrize("name", SPANS)
def test_a_span_holds_what_was_published_in_it(endpoint, name):
    request, seqs, complete = SPANS[name]
    messages, done = ask(endpoint, request)
    assert [json.loads(message)["seq"] for message in messages] == seqs
    assert done["complete"] is complete
    assert ("reason" in done) is not complete


BAD = {
    "not JSON": (b"give me all", "JSON"),
    "not UTF-8": (b"\xff\xfe{", "JSON"),
    "nothing": (b"", "JSON"),
    "deep": (b"[" * 4000, "JSON"),
    "no object": (b"[1, 2]", "object"),
    "null": (b"null", "object"),
    "empty object": (b"{}", "since_seq"),
    "unknown key": (b'{"since_tiem": "2026-01-01T00:00:00Z"}', "since_tiem"),
    "unknown key beside": (b'{"since_time": "2026-01-01T00:00:00Z", "limt": 3}', '"limit"'),
    "two at once": (b'{"since_time": "2026-01-01T00:00:00Z", "run_id": "a"}', "run_id"),
    "time is a number": (b'{"since_time": 12}', "string"),
    "time is null": (b'{"since_time": null}', "string"),
    "no time": (b'{"since_time": "yesterday"}', "RFC 3339"),
    "no such day": (b'{"since_time": "2026-02-30T00:00:00Z"}', "RFC 3339"),
    "no zone": (b'{"since_time": "2026-02-03T00:00:00"}', "RFC 3339"),
    "topic missing": (b'{"run_id": "run", "since_seq": 1}', '"topic"'),
    "run is a number": (b'{"run_id": 3, "topic": "t", "since_seq": 1}', "run_id"),
    "negative": (b'{"run_id": "run", "topic": "t", "since_seq": -1}', "since_seq"),
    "negative limit": (b'{"last": -1}', "last"),
    "half a number": (b'{"run_id": "run", "topic": "t", "since_seq": 1.5}', "1.5"),
    "a truth": (b'{"last": true}', "true"),
    "huge": (b'{"last": ' + b"9" * 400 + b"}", "last"),
    "huge beyond spelling": (b'{"last": ' + b"9" * 3900 + b"}", "last"),
    "no number": (b'{"last": NaN}', "NaN"),
    "limit beside last": (b'{"last": 3, "limit": 2}', '"limit"'),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_one_part_that_says_why(endpoint, name):
    request, words = BAD[name]
    messages, done = ask(endpoint, request)
    assert messages == []
    assert done.keys() == {"done", "complete", "error"}
    assert (done["done"], done["complete"]) == (True, False)
    assert words in done["error"]
    assert "\n" not in done["error"]
    assert len(done["error"]) < 400
    assert ask(endpoint, EVERYTHING)[1]["complete"]


def test_a_request_of_many_parts_is_refused_and_forgotten(endpoint):
    with client(endpoint, zmq.DEALER) as socket:
        for _ in range(20):
            socket.send_multipart([b"", *[b"x" * 100] * 5000])
        for _ in range(20):
            done = json.loads(socket.recv_multipart()[-1])
            assert "one part" in done["error"]
    assert ask(endpoint, EVERYTHING)[1]["complete"]


def test_who_sends_too_much_at_once_is_let_go_and_others_are_served(endpoint):
    with client(endpoint, zmq.DEALER) as socket:
        socket.send(b"x" * 5_000_000)
        assert ask(endpoint, EVERYTHING)[1]["complete"]
        socket.rcvtimeo = 500
        with pytest.raises(zmq.Again):
            socket.recv()


def test_a_large_answer_is_cut_and_says_how_to_go_on(journal, endpoint, monkeypatch):
    monkeypatch.setattr(detectd.publish.replay, "_BOUNDS", Bounds(n_messages=7, n_bytes=10**9))
    for request in (EVERYTHING, {"run_id": "run", "topic": TOPIC, "since_seq": 1}):
        found, following = [], request
        while following:
            messages, done = ask(endpoint, following)
            assert len(messages) <= 7
            assert done["complete"] is ("next" not in done)
            found += messages
            following = done.get("next")
        assert found == bodies(journal.path.parent)


def test_bytes_are_bounded_as_well(journal, endpoint, monkeypatch):
    size = len(bodies(journal.path.parent)[0])
    monkeypatch.setattr(detectd.publish.replay, "_BOUNDS", Bounds(n_messages=1000, n_bytes=5 * size + size // 2))
    messages, done = ask(endpoint, EVERYTHING)
    assert len(messages) == 5
    assert (done["complete"], done["next"]["since_time"]) == (False, EVERYTHING["since_time"])


def test_all_that_may_wait_for_clients_is_bounded(journal, endpoint, monkeypatch):
    size = sum(map(len, bodies(journal.path.parent)))
    monkeypatch.setattr(detectd.publish.replay, "_WAITING_BYTES", 2 * size)
    monkeypatch.setattr(detectd.publish.replay, "_WAITING_S", 2.0)
    with client(endpoint, zmq.DEALER) as greedy:
        for _ in range(50):
            greedy.send(json.dumps(EVERYTHING).encode())
        answers = [greedy.recv_multipart() for _ in range(50)]
    told = [json.loads(answer[-1]) for answer in answers]
    assert sum(map(len, answers)) - 50 <= 2 * N_MESSAGES
    assert all("ask again" in done["error"] for done in told[3:])
    assert until(lambda: ask(endpoint, EVERYTHING)[1]["complete"], timeout_s=20, every_s=0.5)


def test_clients_that_take_nothing_hold_up_nobody(endpoint):
    standing = []
    try:
        for _ in range(20):
            silent = plain_socket.create_connection(endpoint.removeprefix("tcp://").split(":"), timeout=10)
            silent.send(b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03")  # the beginning of a greeting, and no more
            standing.append(silent)
        for _ in range(5):
            with client(endpoint, zmq.DEALER) as vanished:
                vanished.send(json.dumps(EVERYTHING).encode())
        began_s = time.monotonic()
        assert ask(endpoint, EVERYTHING)[1]["complete"]
        assert time.monotonic() - began_s < 5
    finally:
        for silent in standing:
            silent.close()


def test_without_a_file_nothing_is_called_complete(tmp_path, endpoint, journal):
    for path in tmp_path.glob("journal.sqlite3*"):
        path.unlink()
    messages, done = ask(endpoint, EVERYTHING)
    assert (messages, done["complete"]) == ([], False)
    assert "cannot be read" in done["reason"]
    # Who writes finds out by the next message; from there on all is well, and what is gone is known to be.
    assert journal.append([record(N_MESSAGES + 1)], time.time_ns())
    messages, done = ask(endpoint, EVERYTHING)
    assert [json.loads(message)["seq"] for message in messages] == [N_MESSAGES + 1]
    assert done["complete"] is False
    assert ask(endpoint, {"run_id": "run", "topic": TOPIC, "since_seq": N_MESSAGES + 1})[1]["complete"] is True
    assert ask(endpoint, {"run_id": "run", "topic": TOPIC, "since_seq": N_MESSAGES})[1]["complete"] is False


def test_the_client_of_the_page_works(journal, endpoint, program, monkeypatch):
    monkeypatch.setattr(detectd.publish.replay, "_BOUNDS", Bounds(n_messages=7, n_bytes=10**9))
    command = [sys.executable, program("replay"), endpoint, EVERYTHING["since_time"]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=WAIT_MS / 1000)
    assert done.stdout.splitlines() == bodies(journal.path.parent)
    assert done.stderr == "{'done': True, 'complete': True}\n"


def test_a_reader_that_finds_damage_tells_who_writes(journal, endpoint):
    path = journal.path
    journal._file._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(0)
        file.write(b"no database " * 5000)
    _, done = ask(endpoint, EVERYTHING)
    assert done["complete"] is False
    assert "cannot be read" in done["reason"]
    journal.tend()
    assert journal.fault is None
    assert len(list(path.parent.glob("*.damaged-*"))) >= 1
    assert ask(endpoint, EVERYTHING) == (
        [],
        {"done": True, "complete": False, "reason": "not everything published in this span is in the journal"},
    )

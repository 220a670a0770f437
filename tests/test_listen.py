"""`detectd listen`: everything is printed once and in order, however much of it has to be asked for."""

import collections
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time

import pytest
import zmq
from daemon_process import ENVIRONMENT, until
from hypothesis import given
from hypothesis import strategies as st
from journal_parts import SETTINGS, bodies, event, journal_in, record
from kill_rig import Rig

from detectd.commands.event_text import event_text
from detectd.commands.ledger import Ledger
from detectd.commands.listen import Listener
from detectd.publish.publisher import Publisher
from detectd.publish.replay import Replay

TOPICS = ("event/a/x", "event/b/x", "other/a/x")
WAIT_S = 40


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(TOPICS, st.integers(0, 4))),
    st.lists(st.tuples(st.sampled_from(TOPICS), st.integers(1, 12), st.booleans())),
)
def test_the_ledger_knows_what_is_missing(begun, steps):
    ledger = Ledger("event/", begun)
    seen = {topic: set(range(1, seq + 1)) for topic, seq in begun.items()}
    known = collections.Counter()
    for topic, seq, is_message in steps:
        if topic.startswith("event/"):
            known[topic] = max(known[topic], seq)
        if is_message:
            new = topic.startswith("event/") and seq not in seen.get(topic, ())
            assert ledger.take(topic, seq) is new
            seen.setdefault(topic, set()).add(seq)
        else:
            ledger.heard({topic: seq})
    missing = {topic: set(range(1, known[topic] + 1)) - seen.get(topic, set()) for topic in known}
    assert ledger.missing() == {topic: len(seqs) for topic, seqs in missing.items() if seqs}
    assert all(ledger.wanted(topic) == min(seqs) for topic, seqs in missing.items() if seqs)
    ledger.give_up()
    assert ledger.missing() == {}


class Printed:
    """A `detectd listen` process and what it has printed."""

    def __init__(self, *arguments):
        command = [sys.executable, "-u", "-m", "detectd", "listen", *arguments]
        self.process = subprocess.Popen(
            command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.out, self.err = [], []
        self._readers = [
            threading.Thread(target=self._read, args=pair)
            for pair in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe, lines):
        lines.extend(line.rstrip("\n") for line in iter(pipe.readline, ""))

    def wait_for(self, condition):
        found = until(lambda: condition(self), WAIT_S)
        assert found, f"printed {len(self.out)} lines, the last {self.out[-3:]}; said {self.err}"

    def said(self, words):
        self.wait_for(lambda printed: any(words in line for line in printed.err))

    def close(self):
        """Stop it by Ctrl-C; returns its exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(20)
        self._join()
        return code

    def _join(self):
        for reader in self._readers:
            reader.join()
        for pipe in (self.process.stdout, self.process.stderr):
            pipe.close()


@contextlib.contextmanager
def listening(*arguments):
    printed = Printed(*arguments)
    try:
        yield printed
    finally:
        if printed.process.poll() is None:
            printed.process.kill()
            printed.process.wait()
            printed._join()


@contextlib.contextmanager
def publishing(journal, streams=dict):
    """A publisher and its replay socket."""
    with zmq.Context() as context:
        publisher = Publisher(context, "tcp://127.0.0.1:0", journal, streams, lambda _: None)
        replay = Replay(context, "tcp://127.0.0.1:0", journal)
        publisher.start()
        replay.start()
        try:
            yield publisher, ("--from", publisher.endpoint, "--replay", replay.endpoint)
        finally:
            publisher.stop()
            replay.stop()


def streams_of(stream):
    return {stream: {"state": "up", "last_sample": None, "gap_samples": 0, "lag_s": 0.0}}


def test_on_joining_it_tells_of_streams_and_of_what_was(tmp_path):
    with journal_in(tmp_path, "earlier") as journal:
        earlier = [record(seq, run_id="earlier", stream=f"s{seq}") for seq in range(1, 6)]
        assert journal.append(earlier, time.time_ns())
    with journal_in(tmp_path) as journal:
        # Events of the earlier run are ended by this one: they are what happened last.
        with publishing(journal, lambda: streams_of("yard")) as (publisher, endpoints):
            assert until(lambda: len(bodies(tmp_path)) == 10)
            with listening(*endpoints, "--last", "3") as printed:
                printed.said("connected to run run; streams: yard up")
                printed.wait_for(lambda printed: len(printed.out) == 3)
                publisher.put(event(stream="now"))
                printed.wait_for(lambda printed: len(printed.out) == 4)
                assert printed.close() == 0
        texts = [event_text(json.loads(body)) for body in bodies(tmp_path)]
        assert printed.out == [*(f"{text}  (earlier)" for text in texts[-4:-1]), texts[-1]]
        assert printed.err == ["connected to run run; streams: yard up"]


@pytest.mark.parametrize("as_json", [True, False])
def test_it_prints_the_topics_asked_for(tmp_path, as_json):
    with journal_in(tmp_path) as journal, publishing(journal) as (publisher, endpoints):
        options = ["--json"] if as_json else []
        with listening(*endpoints, "--topic", "event/wanted", *options) as printed:
            printed.said("connected to run run; streams: none yet")
            for number in range(10):
                publisher.put(event(stream=f"unwanted-{number}"))
                publisher.put(event(stream=f"wanted-{number}"))
            printed.wait_for(lambda printed: len(printed.out) == 10)
            time.sleep(1.5)  # a heartbeat tells of topics that are not wanted
            assert printed.close() == 0
        wanted = [body for body in bodies(tmp_path) if '"stream":"wanted' in body]
        assert printed.out == (wanted if as_json else [event_text(json.loads(body)) for body in wanted])
        assert len(printed.err) == 1


def test_a_listener_that_was_stopped_recovers_everything(tmp_path):
    n_events, stopped_s = 20_000, 10
    with (
        journal_in(tmp_path, settings=SETTINGS.__class__(30, 64)) as journal,
        publishing(journal) as (
            publisher,
            endpoints,
        ),
    ):
        with listening(*endpoints, "--json") as printed:
            printed.said("connected")
            printed.process.send_signal(signal.SIGSTOP)
            for number in range(n_events):
                publisher.put(event(stream=f"s{number % 7}"))
                if number % (n_events // 100) == 0:
                    time.sleep(stopped_s / 100)
            assert until(lambda: len(bodies(tmp_path)) == n_events, WAIT_S)
            printed.process.send_signal(signal.SIGCONT)
            printed.wait_for(lambda printed: len(printed.out) >= n_events)
            publisher.put(event(stream="s0"))
            printed.wait_for(lambda printed: len(printed.out) >= n_events + 1)
            assert printed.close() == 0
        assert printed.out == bodies(tmp_path)
        assert any(line.startswith("recovered ") for line in printed.err), printed.err
        assert not [line for line in printed.err if "lost" in line]


def test_it_recovers_what_a_daemon_published_before_it_was_killed_and_after():
    with Rig(seed=5) as rig:
        rig.start()
        rig.ready()
        arguments = ("--from", rig.endpoint("out"), "--replay", rig.endpoint("again"), "--json", "--last", "0")
        with listening(*arguments) as printed:
            printed.said("connected")
            printed.wait_for(lambda printed: len(printed.out) > 10)
            for _ in range(3):
                rig.kill()
                rig.start()
                rig.ready()
                n_before = len(printed.out)
                printed.wait_for(lambda printed, n=n_before: len(printed.out) > n + 10)
            assert rig.stop() == 0
            journaled = bodies(rig.state)
            printed.wait_for(lambda printed: printed.out[-1] == journaled[-1])
            assert printed.close() == 0
        # From its first message on, all of it, once and in order.
        assert printed.out == journaled[journaled.index(printed.out[0]) :]
        assert sum("started anew" in line for line in printed.err) == 3
        assert not [line for line in printed.err if "lost" in line]


class Scripted:
    """A PUB socket that publishes what a test says, once the listener is there."""

    def __init__(self, context):
        self.socket = context.socket(zmq.XPUB)
        self.socket.linger, self.socket.rcvtimeo = 0, 20_000
        self.endpoint = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"

    def begin(self, beat):
        assert {self.socket.recv(), self.socket.recv()} == {b"\x01event/", b"\x01heartbeat"}
        if beat:
            self.beat({})

    def send(self, body):
        message = json.loads(body)
        topic = f"event/{message['stream']}/{message['detector']}"
        self.socket.send_multipart([topic.encode(), body.encode()])

    def beat(self, seq, run_id="run"):
        beat = {"run_id": run_id, "time": "2001-01-01T00:00:00.000000000Z", "seq": seq, "streams": {}}
        self.socket.send_multipart([b"heartbeat", json.dumps(beat).encode()])


@pytest.fixture
def scripted():
    with zmq.Context() as context:
        script = Scripted(context)
        yield script
        script.socket.close()


def heard(script, replay, steps, n, *, beat=True):
    """The first `n` things that a listener has to print, as "message seq how" or the notice."""
    listener = Listener(script.endpoint, replay)
    try:
        script.begin(beat)
        for step in steps:
            script.send(step) if isinstance(step, str) else script.beat(step)
        found = []
        for one in listener.follow():
            found.append(one.notice or f"{one.message['stream']} {one.message['seq']} {one.how}".strip())
            if len(found) == n:
                return found
    finally:
        listener.close()


CONNECTED = "connected to run run; streams: none yet"


def test_what_comes_before_the_first_heartbeat_is_printed(scripted):
    old = record(9, run_id="before").body
    steps = [old, record(4).body, record(5).body, {"event/yard/demo": 5}, record(6).body]
    assert heard(scripted, None, steps, 4, beat=False) == [CONNECTED, "yard 4", "yard 5", "yard 6"]


def test_without_replay_it_says_what_it_missed(scripted):
    steps = [record(1).body, record(4).body, {"event/yard/demo": 6, "event/gate/demo": 2}, record(7).body]
    assert heard(scripted, None, steps, 6) == [
        CONNECTED,
        "yard 1",
        "missed 2 messages on event/yard/demo, lost for good: no --replay to ask for them",
        "yard 4",
        "missed 4 messages on event/yard/demo, event/gate/demo, lost for good: no --replay to ask for them",
        "yard 7",
    ]


@pytest.fixture
def replay(tmp_path):
    """A replay socket that knows of messages 1, 2 and 3 and 5 to 8, but not of 4."""
    with zmq.Context() as context, journal_in(tmp_path) as journal:
        for seq in (1, 2, 3, 5, 6, 7, 8):
            assert journal.append([record(seq)], 10**18 + seq)
        replay = Replay(context, "tcp://127.0.0.1:0", journal)
        replay.start()
        yield replay.endpoint
        replay.stop()


def test_what_is_missing_comes_before_what_showed_it(scripted, replay):
    steps = [record(1).body, record(3).body, {"event/yard/demo": 3}]
    assert heard(scripted, replay, steps, 8)[:5] == [CONNECTED, "yard 1", *(f"yard {n} recovered" for n in (2, 3, 5))]


def test_a_heartbeat_alone_shows_what_is_missing(scripted, replay):
    steps = [record(1).body, {"event/yard/demo": 8}]
    told = heard(scripted, replay, steps, 10)
    assert told[:8] == [CONNECTED, "yard 1", *(f"yard {n} recovered" for n in (2, 3, 5, 6, 7, 8))]
    assert told[8:] == [
        "recovered 6 messages",
        "missed 1 messages on event/yard/demo, lost for good: they are not in the journal",
    ]


def test_a_message_that_comes_twice_is_printed_once(scripted, replay):
    steps = [record(1).body, record(2).body, record(1).body, record(2).body, record(3).body]
    assert heard(scripted, replay, steps, 4) == [CONNECTED, "yard 1", "yard 2", "yard 3"]


def test_a_replay_that_does_not_answer_holds_up_nothing_for_long(scripted):
    nobody = "tcp://127.0.0.1:1"
    steps = [record(1).body, record(3).body, record(4).body]
    began_s = time.monotonic()
    assert heard(scripted, nobody, steps, 5) == [
        CONNECTED,
        "yard 1",
        f"missed 1 messages on event/yard/demo; replay at {nobody} does not answer; asking again",
        "yard 3",
        "yard 4",
    ]
    assert time.monotonic() - began_s < 10

"""One daemon, a microphone and the network, and everything that can go wrong while nobody looks.

A manager of our own starts it, hardened, and starts it again when it dies. One fixture plays the story; the tests ask
about their part. At the end all that was published is asked for again.
"""

import collections
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path

import pytest
from daemon_process import BUNDLE, ENVIRONMENT, DaemonProcess, until
from kill_rig import Collector
from notify_socket import ManagerSocket
from plain_wire import Push, Source
from sound_server import PipeMicrophone, SoundServer, require_sound_server
from sounds import recording
from test_devices_daemon import looped
from test_journal_trouble import unwritable
from test_kill import check_events, check_numbers

RATE_HZ = 8000
WATCHDOG_S = 4.0
TRUTH_S, SLACK_S = 2.0, 1.0
EVERYTHING = {"since_time": "1970-01-01T00:00:00Z"}
CONFINED = [sys.executable, Path(__file__).with_name("confined.py"), "mdwe"]

CONFIG = f"""
[ingest]
bind = ["ipc://in"]
[publish]
events = "ipc://out"
replay = "ipc://again"
[metrics]
bind = "127.0.0.1:0"
[[stream]]
id = "mic"
source = "device"
device = "yard"
rate_hz = {RATE_HZ}
[[stream]]
id = "far-*"
source = "zmq"
[[detector]]
name = "demo"
bundle = "{BUNDLE}"
streams = ["*"]
hold_s = 0.5
min_duration_s = 0
"""
MORE = f"""
[[detector]]
name = "second"
bundle = "{BUNDLE}"
streams = ["far-0"]
"""


class Senders(threading.Thread):
    """Two streams in real time, in which tones come and go; what is sent while no daemon runs, waits for it."""

    def __init__(self, endpoint):
        super().__init__()
        self.sources = [Source(f"far-{number}", RATE_HZ) for number in range(2)]
        self._endpoint, self._done = endpoint, threading.Event()

    def run(self):
        length = RATE_HZ // 10
        sounds = [recording(2.0, 2.5, 1.5, RATE_HZ, seed=number) for number in range(2)]
        with Push(self._endpoint) as push:
            began_s, number = time.monotonic(), 0
            while not self._done.wait(max(0.0, began_s + number / 10 - time.monotonic())):
                for at, (source, sound) in enumerate(zip(self.sources, sounds, strict=True)):
                    first = (number * length + at * len(sound) // 2) % len(sound)
                    push.send(source.next(sound[first : first + length]))
                number += 1

    def stop(self):
        self._done.set()
        self.join()


class Service:
    """The daemon under a manager that starts it again, and what an operator has beside it."""

    def __init__(self, folder, server, manager):
        self.folder, self._server, self.manager = folder, server, manager
        self.daemons = []
        self.start()

    def start(self):
        variables = {**self._server.environment, **self.manager.environment(WATCHDOG_S)}
        variables["PYTHONPATH"] = ENVIRONMENT["PYTHONPATH"]
        self.daemons.append(DaemonProcess(self.folder, CONFIG, prefix=CONFINED, variables=variables))

    @property
    def daemon(self):
        return self.daemons[-1]

    @property
    def process(self):
        return self.daemon._process

    def endpoint(self, name):
        return f"ipc://{self.folder}/{name}"

    def reload(self, text, answer):
        known = len(self.daemon.lines)
        (self.folder / "config.toml").write_text(text)
        self.daemon.hang_up()
        return until(lambda: answer in "".join(self.daemon.lines[known:]))

    def mic(self):
        return self.daemon.scrape().value("detectd_stream_up", stream="mic")

    def lost_and_back(self, harm, mend):
        """Do harm, wait until the microphone is known to be lost, mend it; returns the seconds until each is known."""
        began_s = time.monotonic()
        harm()
        assert until(lambda: self.mic() == 0, 15), "never lost"
        lost_s = time.monotonic() - began_s
        time.sleep(1)
        began_s = time.monotonic()
        mend()
        assert until(lambda: self.mic() == 1, 15), "never back"
        return lost_s, time.monotonic() - began_s

    def stop_recorder(self):
        ((_, self._recorder),) = self._server.recordings_of("yard")
        os.kill(self._recorder, signal.SIGSTOP)

    def let_recorder_go_on(self):
        with contextlib.suppress(ProcessLookupError):  # its supervisor had enough of it
            os.kill(self._recorder, signal.SIGCONT)

    def ask(self, request):
        command = [sys.executable, "-c", ASK, self.endpoint("again"), json.dumps(request)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        *messages, last = json.loads(done.stdout)
        return messages, json.loads(last)


ASK = """
import json, sys, zmq
with zmq.Context() as context, context.socket(zmq.REQ) as socket:
    socket.linger, socket.rcvtimeo = 0, 20_000
    socket.connect(sys.argv[1])
    socket.send_string(sys.argv[2])
    print(json.dumps([part.decode() for part in socket.recv_multipart()]))
"""


@contextlib.contextmanager
def listening(service):
    """`detectd listen` in a terminal of its own; yields its process and the lines it has printed."""
    command = [sys.executable, "-m", "detectd", "listen", "--json", "--last", "0"]
    command += ["--from", service.endpoint("out"), "--replay", service.endpoint("again")]
    lines = []
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    readers = [
        threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, ""))),
        threading.Thread(target=process.stderr.read),
    ]
    for reader in readers:
        reader.start()
    try:
        yield process, lines
    finally:
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        process.wait(20)
        for reader in readers:
            reader.join()
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="module")
def story():
    require_sound_server()
    sound = looped(recording(2.0, 2.5, 1.5, RATE_HZ, seed=5))
    microphone = PipeMicrophone("yard", sound, RATE_HZ)
    other = PipeMicrophone("other", looped(recording(5, 0, 0, RATE_HZ, seed=6)), RATE_HZ)
    told = types.SimpleNamespace(times={}, pages=[])
    with contextlib.ExitStack() as stack:
        # The names of sockets have little room.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="all-", dir="/tmp")))
        server = stack.enter_context(SoundServer(microphone, other))
        manager = stack.enter_context(ManagerSocket(folder / "manager"))
        service = Service(folder, server, manager)
        stack.callback(lambda: [daemon.kill() for daemon in service.daemons])
        collector = Collector(service.endpoint("out"))
        stack.callback(collector.close)
        listener, listened = stack.enter_context(listening(service))
        senders = Senders(service.endpoint("in"))
        senders.start()
        stack.callback(senders.stop)
        told.service, told.collector, told.manager, told.listened = service, collector, manager, listened
        heard = lambda: {topic.split("/")[1] for topic, _ in collector.messages}  # noqa: E731
        assert until(lambda: heard() == {"mic", "far-0", "far-1"}, 30), service.daemon.stderr

        told.reloads = [service.reload(CONFIG + MORE, "reloaded:"), service.reload("[[stream", "reload refused")]
        told.reloads.append(service.reload(CONFIG, "reloaded:"))
        listener.send_signal(signal.SIGSTOP)
        told.times["unplugged"] = service.lost_and_back(microphone.unplug, microphone.plug)
        told.times["server stopped"] = service.lost_and_back(server.stop, server.go_on)
        told.times["server killed"] = service.lost_and_back(server.kill, server.start)
        told.times["recorder stopped"] = service.lost_and_back(service.stop_recorder, service.let_recorder_go_on)
        disk_trouble(told)
        listener.send_signal(signal.SIGCONT)
        kill_9(told)
        senders.stop()
        told.sent = {source.stream: source.position for source in senders.sources}
        assert until(lambda: all_there(told)), service.daemon.stderr
        told.pages.append(service.daemon.scrape())
        time.sleep(2)  # the listener is as far as the last heartbeat
        told.n_asked_for = len(collector.messages)
        told.everything, told.done = service.ask(EVERYTHING)
        told.since_trouble = service.ask({"since_time": told.recovered_time})
        told.n_before_stop = len(collector.messages)
        told.code, told.stop_s = service.daemon.terminate()
        time.sleep(1)
        told.got = [body for _, body in collector.messages]
    told.errors = "".join(daemon.stderr for daemon in service.daemons)
    return told


def disk_trouble(told):
    """The disk takes nothing for a while; messages say that they are not journaled, and then again that they are."""
    messages = told.collector.messages
    with unwritable(told.service.process):
        n_before = len(messages)
        assert until(lambda: any('"journaled":false' in body for _, body in messages[n_before:]))
        time.sleep(1)
    began_s, n_before = time.monotonic(), len(messages)
    assert until(lambda: any('"journaled":true' in body for _, body in messages[n_before:]))
    told.times["disk"] = (0.0, time.monotonic() - began_s)
    # A time of which the journal has everything since: that of a heartbeat after the trouble.
    time.sleep(2)
    told.recovered_time = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def kill_9(told):
    """The daemon dies in the midst of events; its manager starts another."""
    service = told.service
    # Two events are open nearly all of the time; one is enough.
    assert until(lambda: json.loads(told.collector.messages[-1][1])["state"] != "end")
    told.pages.append(service.daemon.scrape())
    began_s = time.monotonic()
    service.daemon.kill()
    service.start()
    told.times["killed"] = (0.0, time.monotonic() - began_s)
    run = lambda: list(told.collector.runs)  # noqa: E731
    assert until(lambda: len(run()) == 2)
    n_before = len(told.collector.messages)
    assert until(lambda: len(told.collector.messages) > n_before + 6, 30)


def all_there(told):
    """Whether the daemon has taken all that the network has sent since it started."""
    page = told.service.daemon.scrape()
    return all(
        page.audio("pending_samples", stream) < RATE_HZ and page.audio("samples_total", stream)
        for stream in ("far-0", "far-1")
    )


def test_it_stopped_cleanly_and_said_nothing_of_a_bug(story):
    assert story.code == 0
    assert story.stop_s < 10
    assert "Traceback" not in story.errors
    assert story.reloads == [True, True, True]


@pytest.mark.parametrize("what", ["unplugged", "server stopped", "server killed"])
def test_a_lost_microphone_is_known_and_heard_again_in_time(story, what):
    lost_s, back_s = story.times[what]
    print(what, story.times[what])
    assert lost_s <= TRUTH_S + SLACK_S
    assert back_s <= TRUTH_S + SLACK_S


def test_a_stopped_recorder_is_known_and_goes_on_or_has_a_successor(story):
    lost_s, back_s = story.times["recorder stopped"]
    assert lost_s <= TRUTH_S + SLACK_S
    assert back_s <= TRUTH_S + 2 * SLACK_S


def test_the_journal_is_written_again_within_5_s(story):
    assert story.times["disk"][1] <= 5 + SLACK_S


def test_the_manager_heard_the_truth_throughout(story):
    manager = story.manager
    assert len(manager.times("READY")) >= 2 + 2, "twice at the start, and after each reload that was taken"
    assert len(manager.times("STOPPING")) == 1
    down = [text for _, text in manager.statuses() if re.search(r"down: .*mic \(", text)]
    assert down, manager.statuses()
    beats = manager.times("WATCHDOG")
    # But for the time in which there was no process.
    waits_s = sorted(after - before for before, after in itertools.pairwise(beats))
    assert waits_s[-2] < WATCHDOG_S


def test_the_network_lost_nothing(story):
    first, second = story.pages
    for page in story.pages:
        assert page.unbalanced() == []
        for stream in story.sent:
            assert page.audio("gap_samples_total", stream) == page.audio("overrun_samples_total", stream) == 0
        assert set(page.by_label("detectd_audio_rejected_blocks_total", "reason").values()) == {0}
    for stream, sent in story.sent.items():
        # What a socket held when its process was killed died with it.
        heard = first.audio("samples_total", stream) + second.audio("samples_total", stream)
        assert 0 <= sent - heard < 10 * RATE_HZ


def test_all_that_was_published_can_be_asked_for_again(story):
    got = story.got[: story.n_asked_for]
    journaled = [body for body in got if json.loads(body)["journaled"]]
    unjournaled = [body for body in got if not json.loads(body)["journaled"]]
    replayed = set(story.everything)
    assert unjournaled
    assert set(journaled) <= replayed
    assert not set(unjournaled) & replayed
    assert story.done == {**story.done, "done": True, "complete": False}
    assert story.since_trouble[1] == {**story.since_trouble[1], "done": True, "complete": True}
    assert story.since_trouble[0] == story.everything[-len(story.since_trouble[0]) :]


def test_every_event_has_one_beginning_and_one_end(story):
    messages = [json.loads(body) for body in story.got]
    missed = [json.loads(body) for body in story.everything if body not in set(story.got)]
    times = collections.Counter((m["event_id"], m["state"]) for m in messages + missed if m["state"] != "update")
    assert set(times.values()) == {1}
    begun = {event_id for event_id, state in times if state == "start"}
    assert begun == {event_id for event_id, state in times if state == "end"}
    assert "restart" in {m["end_reason"] for m in messages + missed}


def test_what_a_stop_ends_is_no_lost_stream(story):
    last = [json.loads(body) for body in story.got[story.n_before_stop :]]
    assert {message["end_reason"] for message in last if message["state"] == "end"} <= {"quiet", "shutdown"}


def test_listen_has_everything_but_what_was_never_journaled(story):
    told = [json.loads(line) for line in story.listened]
    keys = [(m["run_id"], m["stream"], m["detector"], m["seq"]) for m in told]
    assert len(set(keys)) == len(keys), "nothing twice"
    first = keys[0]
    got = [json.loads(body) for body in story.got]
    expected = [(m["run_id"], m["stream"], m["detector"], m["seq"]) for m in got if m["journaled"]]
    assert set(expected[expected.index(first) :]) <= set(keys)


def test_the_helpers_of_this_story_judge_the_rest(story):
    """What the journal holds passes what the kill test demands of it, the time of disk trouble aside."""
    since = [json.loads(body) for body in story.since_trouble[0]]
    last_run = [message for message in since if message["run_id"] == since[-1]["run_id"]]
    check_numbers([m for m in last_run if m["detector"] == "demo"])
    whole = collections.defaultdict(list)
    for message in since:
        whole[message["event_id"]].append(message)
    closed = [m for states in whole.values() if {"start", "end"} <= {s["state"] for s in states} for m in states]
    assert check_events(closed) >= 0

"""From audio on a real socket to events on another: the daemon as a process, everything else from the outside.

What must take real time runs side by side: one fixture starts it all, and the tests ask about their part.
"""

import csv
import itertools
import json
import re
import signal
import subprocess
import sys
import time
from datetime import datetime

import numpy as np
import pytest
import test_protocol_page
from daemon_process import BUNDLE, ENVIRONMENT, SHIPPED_CONFIG, config, on_free_ports, running, until
from plain_wire import Push, Source, Subscriber
from sounds import TONES_HZ, recording, write

from detectd.bundles.scoring import open_detector_bundle
from detectd.commands.score import score_samples
from detectd.config.config import SyntheticStream, load_config
from detectd.service.sources import synthetic_blocks

MANIFEST = json.loads((BUNDLE / "manifest.json").read_text())
WINDOW_S = MANIFEST["views"][0]["features"]["window_s"]
DIGEST = (BUNDLE / "manifest.sha256").read_text().strip()
ON = MANIFEST["threshold"]["on"]
BIN_HZ = 1 / WINDOW_S
HOLD_S = 2.0
LOOP_S = 10.1  # no whole number of hops: each round is heard alike only if the file's end and beginning are kept apart
RATE_HZ = 8000
RFC_3339_NS = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"
# Scores of other batch sizes, hence of other matrix products.
SAME_SCORE = {"rel": 1e-4, "abs": 1e-4}

# The contract, design 3.2: every field and what it is where it is not null.
FIELDS = {
    "schema": int,
    "run_id": str,
    "seq": int,
    "event_id": str,
    "state": str,
    "stream": str,
    "detector": str,
    "kind": str,
    "bundle": str,
    "label": str,
    "start_sample": int,
    "end_sample": int,
    "sample_rate_hz": int,
    "start_time": str,
    "end_time": str,
    "duration_s": float,
    "score": float,
    "peak_score": float,
    "threshold": float,
    "probability": float,
    "lines": list,
    "gap_samples": int,
    "journaled": bool,
    "end_reason": str,
}
NULL_WHILE_OPEN = {"end_sample", "end_time", "duration_s", "end_reason"}

program = test_protocol_page.program


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """One daemon for all, with a file source that repeats itself beside what the tests send."""
    folder = tmp_path_factory.mktemp("daemon")
    loop = write(folder / "loop.wav", recording(3, 2, LOOP_S - 5, seed=4))
    tables = f"""
[[stream]]
id = "looped"
source = "file"
path = "{loop.name}"
loop = true
speed = 8
[[stream]]
id = "*"
source = "zmq"
"""
    with running(folder, config(tables)) as process:
        yield process


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The shipped configuration at work, with a silent twin of its demo beside."""
    text = on_free_ports()
    twin = '\n[[stream]]\nid = "still"\nsource = "synthetic"\ntones_hz = []\n'
    with running(tmp_path_factory.mktemp("shipped"), text + twin) as process, Subscriber(process.events) as events:
        yield process, events


@pytest.fixture(scope="module")
def events(daemon, shipped):
    with Subscriber(daemon.events) as subscriber:
        yield subscriber


@pytest.fixture(scope="module")
def send(daemon):
    """Run `detectd send`; returns its process."""
    started = []

    def start(stream, path, *options):
        command = [sys.executable, "-m", "detectd", "send", path, "--stream", stream, "--to", daemon.ingest, *options]
        started.append(subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


# One recording at 44.1 kHz: what it holds, when it was captured, and how it is replayed.
TONES_FROM_S, TONES_TO_S, WAV_S = 2.0, 4.5, 8.5
WAV_RATE_HZ = 44_100
CAPTURED = "2026-05-01T12:00:00.25Z"
REPLAYS = {"once": "1", "tenfold": "10", "at-once": "0"}


@pytest.fixture(scope="module")
def wav(tmp_path_factory):
    sound = recording(TONES_FROM_S, TONES_TO_S - TONES_FROM_S, WAV_S - TONES_TO_S, WAV_RATE_HZ, seed=1)
    return write(tmp_path_factory.mktemp("wav") / "known.wav", sound, WAV_RATE_HZ)


@pytest.fixture(scope="module")
def replays(events, send, wav):
    """All messages of the same recording, by the speed it was sent at."""
    senders = [send(stream, wav, "--speed", speed, "--start-time", CAPTURED) for stream, speed in REPLAYS.items()]
    for stream, sender in zip(REPLAYS, senders, strict=True):
        assert sender.wait(60) == 0
        events.wait_for(stream, "end")
    return {stream: events.of(stream) for stream in REPLAYS}


@pytest.mark.parametrize("stream", REPLAYS)
def test_a_known_signature_is_one_event_with_right_times_and_lines(replays, stream):
    assert [message["state"] for message in replays[stream] if message["state"] != "update"] == ["start", "end"]
    end = replays[stream][-1]
    assert end["state"] == "end"
    assert end["end_reason"] == "quiet"
    assert abs(end["start_sample"] / WAV_RATE_HZ - TONES_FROM_S) <= WINDOW_S
    assert abs(end["end_sample"] / WAV_RATE_HZ - TONES_TO_S) <= WINDOW_S
    assert end["start_sample"] / WAV_RATE_HZ < TONES_TO_S
    heard_hz = sorted(line["frequency_hz"] for line in end["lines"][: len(TONES_HZ)])
    assert heard_hz == pytest.approx(sorted(TONES_HZ), abs=2 * BIN_HZ)
    assert end["label"] == MANIFEST["label"]


def test_messages_are_as_the_contract_says(replays):
    for stream, messages in replays.items():
        for message in messages:
            assert message.keys() == FIELDS.keys()
            over = message["state"] == "end"
            null = {key for key, value in message.items() if value is None}
            assert null == {"probability"} | (set() if over else NULL_WHILE_OPEN)
            assert all(isinstance(value, FIELDS[key]) for key, value in message.items() if value is not None)
            assert message["schema"] == 1
            assert (message["stream"], message["detector"], message["kind"]) == (stream, "demo", "binary")
            assert message["bundle"] == f"{MANIFEST['name']}@{DIGEST[:12]}"
            assert message["sample_rate_hz"] == WAV_RATE_HZ
            assert message["threshold"] == ON
            assert message["journaled"] is True
            assert message["gap_samples"] == 0
            assert message["peak_score"] >= max(message["score"], ON)
            assert len(message["lines"]) <= 10
            assert all(line.keys() == {"frequency_hz", "snr_db", "bandwidth_hz"} for line in message["lines"])
            strengths = [line["snr_db"] for line in message["lines"]]
            assert strengths == sorted(strengths, reverse=True)


def test_messages_of_a_topic_are_numbered_without_holes_and_keep_their_event(replays):
    for messages in replays.values():
        assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
        assert [message["state"] for message in messages[1:-1]] == ["update"] * (len(messages) - 2)
        assert len({(m["event_id"], m["run_id"], m["start_sample"], m["start_time"]) for m in messages}) == 1
        peaks = [message["peak_score"] for message in messages]
        assert peaks == sorted(peaks)
    assert len({messages[0]["event_id"] for messages in replays.values()}) == len(REPLAYS)
    assert len({messages[0]["run_id"] for messages in replays.values()}) == 1


def test_updates_come_at_most_once_a_second(replays, events):
    for stream, messages in replays.items():
        # From the first window's end to the hold's end, in seconds of audio.
        lasted_s = messages[-1]["duration_s"] - WINDOW_S + HOLD_S
        assert 1 <= len(messages) - 2 <= lasted_s + 1, stream
    # Replayed in real time they do so by the clock on the wall, too.
    first, *_, last, _ = (events.arrival_s(message) for message in replays["once"])
    assert len(replays["once"]) - 2 <= last - first + 1


def test_times_are_those_of_the_samples(replays):
    captured_ns = _ns(CAPTURED)
    for messages in replays.values():
        for message in messages:
            for key in ("start", "end") if message["state"] == "end" else ("start",):
                assert re.fullmatch(RFC_3339_NS, message[f"{key}_time"])
                expected_ns = captured_ns + message[f"{key}_sample"] * 1_000_000_000 / WAV_RATE_HZ
                assert abs(_ns(message[f"{key}_time"]) - expected_ns) <= 1000  # rounded per block by sender and daemon
        end = messages[-1]
        assert end["duration_s"] == pytest.approx((end["end_sample"] - end["start_sample"] + 1) / WAV_RATE_HZ)


def test_speed_of_replay_changes_nothing(replays):
    ends = {stream: messages[-1] for stream, messages in replays.items()}
    for stream in ("tenfold", "at-once"):
        assert [m["state"] for m in replays[stream]] == [m["state"] for m in replays["once"]]
        for key in ("start_sample", "end_sample", "duration_s", "start_time", "end_time", "gap_samples", "end_reason"):
            assert ends[stream][key] == ends["once"][key]
        for key in ("score", "peak_score"):
            assert ends[stream][key] == pytest.approx(ends["once"][key], **SAME_SCORE)
        heard = [[line["frequency_hz"] for line in ends[name]["lines"]] for name in (stream, "once")]
        assert heard[0] == pytest.approx(heard[1], abs=BIN_HZ / 100)


def test_score_sees_what_the_daemon_saw(replays, wav):
    done = subprocess.run(
        [sys.executable, "-m", "detectd", "score", wav, "--bundle", BUNDLE],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = list(csv.DictReader(done.stdout.splitlines()))
    end = replays["once"][-1]
    assert max(float(row["score"]) for row in rows) == pytest.approx(end["peak_score"], **SAME_SCORE)
    first_hot = next(row for row in rows if float(row["score"]) >= ON)
    assert round(float(first_hot["start_s"]) * WAV_RATE_HZ) == end["start_sample"]


def test_heartbeats_tell_of_numbers_and_streams(replays, events):
    before = len(events.heartbeats())
    assert events.wait(lambda: len(events.heartbeats()) >= before + 2)
    beats = events.heartbeats()
    assert all(beat.keys() == {"run_id", "time", "seq", "streams"} for beat in beats)
    assert {beat["run_id"] for beat in beats} == {replays["once"][0]["run_id"]}
    assert all(re.fullmatch(RFC_3339_NS, beat["time"]) for beat in beats)
    lasted_s = (_ns(beats[-1]["time"]) - _ns(beats[0]["time"])) / 1e9
    assert 0.9 < lasted_s / (len(beats) - 1) < 1.5
    for stream, messages in replays.items():
        assert beats[-1]["seq"][f"event/{stream}/demo"] == len(messages)
        told = beats[-1]["streams"][stream]
        assert told.keys() == {"state", "last_sample", "gap_samples", "lag_s"}
        assert (told["state"], told["gap_samples"], told["lag_s"]) == ("down", 0, 0)
        assert told["last_sample"] == round(WAV_S * WAV_RATE_HZ) - 1


def test_metrics_count_events_and_windows(replays, daemon):
    page = daemon.scrape()
    for stream in REPLAYS:
        assert page.value("detectd_events_total", stream=stream, detector="demo") == 1
        assert page.audio("samples_total", stream) == round(WAV_S * WAV_RATE_HZ)
        assert page.audio("gap_samples_total", stream) == page.audio("overrun_samples_total", stream) == 0
        last_ns = _ns(CAPTURED) + (WAV_S - 1 / WAV_RATE_HZ) * 1e9
        assert page.audio("last_sample_timestamp_seconds", stream) == pytest.approx(last_ns / 1e9, abs=1e-5)
    assert page.value("detectd_events_published_total") >= sum(map(len, replays.values()))
    assert page.value("detectd_windows_total", detector="demo") >= len(REPLAYS) * (WAV_S - WINDOW_S) / 0.25
    assert page.value("detectd_bundle_info", detector="demo", bundle=MANIFEST["name"], digest=DIGEST) == 1
    assert not page.unbalanced()


def test_sender_and_subscriber_of_the_page_work_with_the_daemon(daemon, events, program, tmp_path):
    path = write(tmp_path / "clip.wav", recording(1, 2, 1, seed=2))
    command = [sys.executable, "-u", program("subscriber"), daemon.events]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        try:
            # It subscribes within the second that the sender sends nothing of interest in.
            sender = [sys.executable, program("sender"), daemon.ingest, "page", path]
            subprocess.run(sender, check=True, timeout=30)
            end = events.wait_for("page", "end")[0]
            printed = []
            while not printed or not printed[-1].startswith("end event/page/demo"):
                printed.append(reader.stdout.readline().strip())
        finally:
            reader.kill()
    assert not [line for line in printed if line.startswith("lost")]
    own = [line for line in printed if "event/page/demo" in line]
    assert [line.split()[0] for line in own] == [message["state"] for message in events.of("page")]
    assert own[-1] == f"end event/page/demo {end['start_time']} {end['peak_score']}"
    assert end["end_reason"] == "stream-lost"  # the last block is flagged as the end


def test_a_sender_that_gives_no_time_gets_that_of_arrival(daemon, events):
    before_ns = time.time_ns()
    source = Source("timeless")
    with Push(daemon.ingest) as push:
        push.send(*source.blocks(recording(0, 3, 0, seed=3)))
    (end,) = events.wait_for("timeless", "end")
    assert before_ns <= _ns(end["start_time"]) <= time.time_ns()


def test_a_file_source_repeats_itself(events):
    starts = events.wait_for("looped", "start", n=3)
    ends = events.wait_for("looped", "end", n=2)
    assert np.diff([message["start_sample"] for message in starts]).tolist() == [round(LOOP_S * RATE_HZ)] * 2
    assert np.diff([message["end_sample"] for message in ends]).tolist() == [round(LOOP_S * RATE_HZ)]
    assert {message["end_reason"] for message in ends} == {"quiet"}
    assert len({message["event_id"] for message in starts}) == 3


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_a_file_that_is_gone_ends_its_stream_and_nothing_else(tmp_path, how):
    path = write(tmp_path / "loop.wav", np.zeros(RATE_HZ))
    table = f'[[stream]]\nid = "looped"\nsource = "file"\npath = "{path.name}"\nloop = true\nspeed = 10\n'
    with running(tmp_path, config(table)) as process:
        process.wait_for_line("stream looped: up")
        page = process.scrape()
        # Counters are there before their first step.
        assert page[("detectd_audio_rejected_blocks_total", ("reason", "late"))] == 0
        assert page[("detectd_windows_shed_total", ("detector", "demo"), ("reason", "overload"))] == 0
        if how == "deleted":
            path.unlink()
        else:
            write(tmp_path / "empty.wav", np.zeros(0)).replace(path)
        process.wait_for_line("stream looped: lost")
        assert process.runs
    (line,) = (line for line in process.lines if path.name in line)
    assert "stream looped ends: " in line
    assert {"deleted": "No such file", "emptied": "holds no audio any more"}[how] in line


def test_sigterm_in_mid_event_ends_it_and_the_process(tmp_path):
    # Short enough that nothing makes the sender wait: all of it has arrived when the signal comes.
    sound = recording(1, 4, 0, seed=5)
    with (
        running(tmp_path, config('[[stream]]\nid = "*"\nsource = "zmq"\n')) as process,
        Subscriber(process.events) as events,
    ):
        source = Source("yard")
        with Push(process.ingest) as push:
            for block in source.blocks(sound)[:-1]:
                push.send(block)
            (start,) = events.wait_for("yard", "start")
        code, seconds = process.terminate()
        (end,) = events.wait_for("yard", "end")
        assert (code, end["end_reason"]) == (0, "shutdown")
        assert seconds < 5
        # What had arrived was analysed: the event lasts to the last window that was whole.
        assert end["event_id"] == start["event_id"]
        assert end["end_sample"] > source.position - 0.5 * RATE_HZ
        assert [message["seq"] for message in events.of("yard")] == list(range(1, len(events.of("yard")) + 1))


def test_sigint_stops_an_idle_daemon(tmp_path):
    with running(tmp_path, config("")) as process:
        process._process.send_signal(signal.SIGINT)
        assert until(lambda: not process.runs, timeout_s=5)
        assert process._process.returncode == 0


def test_the_shipped_demo_is_heard_and_noise_is_not(shipped):
    process, events = shipped
    (start,) = events.wait_for("demo", "start", timeout_s=40)
    assert start["detector"] == "demo"
    (demo,) = (stream for stream in load_config(SHIPPED_CONFIG).streams if isinstance(stream, SyntheticStream))
    assert abs(start["start_sample"] / demo.rate_hz - demo.off_s) <= WINDOW_S
    process.wait_for_line("EVENT demo / demo")
    page = process.scrape()
    assert page.audio("samples_total", "still") > WINDOW_S * demo.rate_hz
    assert not events.of("still")
    assert not page.unbalanced()


def test_ten_minutes_of_noise_hold_no_event():
    (demo,) = (stream for stream in load_config(SHIPPED_CONFIG).streams if isinstance(stream, SyntheticStream))
    noise = SyntheticStream(id="still", rate_hz=demo.rate_hz, seed=demo.seed)
    minute = 600
    blocks = (block[:, 0] for block in synthetic_blocks(noise))
    scorer = open_detector_bundle(BUNDLE)

    def peak(_):
        sound = np.concatenate(list(itertools.islice(blocks, minute)))
        return max(score for _, score in score_samples(sound, noise.rate_hz, scorer, hop_s=0.25))

    assert max(map(peak, range(10))) < ON


def _ns(rfc_3339):
    """Nanoseconds, which datetime alone does not hold."""
    seconds, _, fraction = rfc_3339.rstrip("Z").partition(".")
    whole = round(datetime.fromisoformat(f"{seconds}+00:00").timestamp())
    return whole * 1_000_000_000 + int(fraction.ljust(9, "0"))

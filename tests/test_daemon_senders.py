"""Senders that would do harm, by malice or by haste, against the daemon as a process: nobody else feels them."""

import collections
import contextlib
import random
import socket
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from daemon_process import ENVIRONMENT, config, running, until
from plain_wire import CRC, F32, Push, Source, Subscriber
from sounds import recording, write

RATE_HZ = 8000
WINDOW_S = 2.0


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    folder = tmp_path_factory.mktemp("daemon")
    with running(folder, config('[[stream]]\nid = "yard-*"\nsource = "zmq"\n')) as process:
        yield process


@pytest.fixture(scope="module")
def events(daemon):
    with Subscriber(daemon.events) as subscriber:
        yield subscriber


BAD_HEADERS = (
    {"format": 0},
    {"format": 5},
    {"channels": 0},
    {"channels": 65},
    {"rate_hz": 0},
    {"rate_hz": 2**32 - 1},
    {"stream_id": b"a b"},
    {"stream_id": b"\xff\xfe"},
    {"stream_id": b""},
)
NOT_NUMBERS = (np.nan, np.inf, -np.inf, 1e38)
TOO_LONG = 10 * RATE_HZ + 1
GARBAGE = {
    "magic": lambda source, draw: draw.randbytes(draw.randrange(1, 5000)),
    "version": lambda source, draw: joined(source, draw, version=2),
    "header": lambda source, draw: joined(source, draw, **draw.choice(BAD_HEADERS)),
    "truncated": lambda source, draw: joined(source, draw)[: -draw.randrange(1, 1680)],
    "oversized": lambda source, draw: joined(source, draw, n_frames=TOO_LONG, payload=bytes(2 * TOO_LONG)),
    "crc": lambda source, draw: joined(source, draw, flags=CRC, crc32=draw.randrange(2**32)),
    "non-finite": lambda source, draw: joined(source, draw, np.full(800, draw.choice(NOT_NUMBERS)), format=F32),
    "unknown-stream": lambda source, draw: joined(source, draw, stream_id=b"stranger"),
    "rate-too-low": lambda source, draw: joined(source, draw, rate_hz=1000),
}


def joined(source, draw, samples=None, **changes):
    """One block as one part, of an epoch of its own."""
    samples = np.zeros(800) if samples is None else samples
    if changes.get("format") == F32:
        changes["payload"] = samples.astype("<f4").tobytes()
    return b"".join(source.block(samples, 0, **{"epoch": draw.randrange(2**64), **changes}))


def test_garbage_is_counted_by_reason_and_harms_nobody(daemon, events):
    draw = random.Random(9)
    sound = recording(2, 3, 4, seed=3)
    forger = Source("yard-forger")
    quiet, amid = Source("yard-quiet"), Source("yard-amid")
    sent = collections.Counter()
    with Push(daemon.ingest) as push:
        push.send(*quiet.blocks(sound))
        (undisturbed,) = events.wait_for("yard-quiet", "end")
        before = daemon.scrape().by_label("detectd_audio_rejected_blocks_total", "reason")
        for block in amid.blocks(sound):
            push.send(block)
            for _ in range(40):
                reason = draw.choice(list(GARBAGE))
                push.send_raw(GARBAGE[reason](forger, draw))
                sent[reason] += 1
            push.send_raw(b"")
    (end,) = events.wait_for("yard-amid", "end")
    for key in ("start_sample", "end_sample", "gap_samples", "duration_s", "end_reason"):
        assert end[key] == undisturbed[key]
    assert end["peak_score"] == pytest.approx(undisturbed["peak_score"], rel=1e-4, abs=1e-4)
    assert sent.total() > 3000

    def counted():
        return daemon.scrape().by_label("detectd_audio_rejected_blocks_total", "reason") - before

    until(lambda: counted() == sent)
    assert counted() == sent
    page = daemon.scrape()
    assert page.audio("samples_total", "yard-amid") == len(sound)
    assert page.audio("gap_samples_total", "yard-amid") == 0
    assert page.audio("rejected_samples_total", "yard-forger", reason="rate-too-low") == 800 * sent["rate-too-low"]
    assert not page.by_label("detectd_audio_samples_total", "stream")["stranger"]
    assert not page.unbalanced()


# Everything below happens at one time: four senders beside a live one.
HASTY_S = 20


@pytest.fixture(scope="module")
def crowd(daemon, events, tmp_path_factory):
    """Play the scene: a live stream among a killed sender, one that stops in mid-frame, a halting and a hasty one."""
    tones = write(tmp_path_factory.mktemp("crowd") / "tones.wav", recording(0, 30, 0, seed=5))
    enough, scene = threading.Event(), {}
    halting = threading.Thread(target=halt, args=(daemon, Source("yard-halting"), recording(1, 4, 4, seed=6)))
    hasty = threading.Thread(target=lambda: scene.update(rounds=rush(daemon, enough)))
    with half_a_frame(daemon.ingest), contextlib.ExitStack() as ends:
        doomed = ends.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "detectd", "send", tones, "--stream", "yard-doomed", "--to", daemon.ingest],
                env=ENVIRONMENT,
                stderr=subprocess.DEVNULL,
            )
        )
        ends.callback(doomed.kill)
        for thread in (halting, hasty):
            thread.start()
            ends.callback(thread.join)
        ends.callback(enough.set)
        events.wait_for("yard-doomed", "start")
        doomed.kill()
        scene["killed_s"] = time.monotonic()
        with Push(daemon.ingest) as push:
            scene["began_s"] = push.play(Source("yard-live").blocks(recording(1, 4, 0, seed=7)))
        events.wait_for("yard-live", "start")
        halting.join()
        scene["lost_in_time"] = bool(events.of("yard-doomed", "end"))
    return scene


def rush(daemon, enough):
    """The same recording over and over, as fast as it is accepted; returns how often."""
    source, sound, rounds = Source("yard-hasty"), recording(5, 5, HASTY_S - 10, seed=4), 0
    with Push(daemon.ingest) as push:
        while not enough.is_set():
            for at in range(0, len(sound), RATE_HZ // 10):
                push.send(source.next(sound[at : at + RATE_HZ // 10]))
            rounds += 1
    return rounds


def halt(daemon, source, sound, block_s=1.5):
    """Pauses in which the stream is half lost: two block lengths of silence would end it."""
    with Push(daemon.ingest) as push:
        for block in source.blocks(sound, block_s):
            push.send(block)
            time.sleep(block_s)


def half_a_frame(endpoint):
    """Speak ZMTP 3.0 as far as the middle of a message, and no further."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    connection = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    ready = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", 4) + b"PUSH"
    header, payload = Source("yard-stuck").block(np.zeros(800), 0)
    frame = b"\x02" + struct.pack(">Q", len(header) + len(payload)) + header + payload[:100]
    connection.sendall(greeting + b"\x04" + bytes([len(ready)]) + ready + frame)
    assert connection.recv(64)[:1] == b"\xff"
    return connection


def test_a_live_stream_is_heard_at_once_beside_all_others(crowd, events):
    (start,) = events.wait_for("yard-live", "start")
    due_s = crowd["began_s"] + start["start_sample"] / RATE_HZ + WINDOW_S
    # The contract allows a replay to delay others by a second; the rest is for the machine that runs the tests.
    assert events.arrival_s(start) - due_s < 3


def test_a_replay_at_full_speed_loses_nothing(crowd, daemon, events):
    n_samples = crowd["rounds"] * HASTY_S * RATE_HZ
    assert until(lambda: daemon.scrape().audio("analysed_samples_total", "yard-hasty") == n_samples)
    page = daemon.scrape()
    assert page.audio("samples_total", "yard-hasty") == n_samples
    assert page.audio("overrun_samples_total", "yard-hasty") == page.audio("gap_samples_total", "yard-hasty") == 0
    assert not page.by_label("detectd_windows_shed_total", "detector").total()
    assert crowd["rounds"] > 10
    ends = events.wait_for("yard-hasty", "end", n=crowd["rounds"])
    offsets_s = [end["start_sample"] / RATE_HZ - HASTY_S * number - 5 for number, end in enumerate(ends)]
    assert max(map(abs, offsets_s)) <= WINDOW_S


def test_a_killed_sender_is_lost_after_two_seconds(crowd, daemon, events):
    # While the hasty one was still at it: nobody's audio may hide another's silence.
    assert crowd["lost_in_time"]
    (end,) = events.wait_for("yard-doomed", "end")
    assert end["end_reason"] == "stream-lost"
    assert 1.5 < events.arrival_s(end) - crowd["killed_s"] < 6
    assert daemon.scrape().value("detectd_stream_up", stream="yard-doomed") == 0
    assert events.wait(lambda: events.heartbeats()[-1]["streams"]["yard-doomed"]["state"] == "down")


def test_a_halting_sender_loses_neither_samples_nor_its_event(crowd, daemon, events):
    (end,) = events.wait_for("yard-halting", "end")
    assert end["end_reason"] == "quiet"
    assert abs(end["start_sample"] / RATE_HZ - 1) <= WINDOW_S
    assert abs(end["end_sample"] / RATE_HZ - 5) <= WINDOW_S
    assert len(events.of("yard-halting", "start")) == 1


def test_half_a_message_is_nothing(crowd, daemon):
    assert ("detectd_stream_up", ("stream", "yard-stuck")) not in daemon.scrape()

"""Capture of virtual microphones: the samples that were sent are those that arrive, whatever the device's shape.

All captures run side by side: one fixture starts them and lets them run, and the tests ask about their part.
"""

import contextlib
import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from captured import CaptureProcess, Receiver, alive, check_headers, gaps, heard, n_samples
from counter_audio import coded, coded_sound
from daemon_process import REPOSITORY, until
from sound_server import MonitorMicrophone, PipeMicrophone, SoundServer, require_sound_server

TONE_HZ = 1000.0
PLAYED = 96_000
RUN_S = 3.0
# How far an arrival's time stamp may be off, and how long sound waits in the server and the FIFO.
UTC_WITHIN_S = 0.3
PLAYER_BEGINS_S = 0.3
# From a block's end at the microphone to its arrival.
SOON_S = 0.5


def tone(first_position, n):
    phase = 2 * np.pi * TONE_HZ / 48_000 * np.arange(first_position, first_position + n)
    return np.rint(8000 * np.sin(phase)).astype(np.int16)[:, None]


def spread(first_position, n):
    """Two channels whose mean is coded sound, and neither of which is."""
    middle = coded(40, first_position, n).astype(np.int32)
    side = np.clip(32_767 - np.abs(middle), 0, 1000)
    return np.stack([middle - side, middle + side], axis=1).astype(np.int16)


def microphones():
    return {
        microphone.name: microphone
        for microphone in (
            PipeMicrophone("yard", coded_sound(1)),
            PipeMicrophone("pair", coded_sound(2, 3), 44_100, 2),
            PipeMicrophone("array", coded_sound(*range(10, 18)), 48_000, 8),
            PipeMicrophone("slow", coded_sound(4), 16_000),
            PipeMicrophone("wide", spread, 48_000, 2),
            PipeMicrophone("tone", tone),
            PipeMicrophone("absent", coded_sound(5), hidden=True),
            MonitorMicrophone("sea", coded_sound(6)),
        )
    }


# Stream: device and options.
CAPTURES = {
    "yard": ("yard", "--rate", 48_000),
    "pair": ("pair", "--rate", 44_100, "--channels", 2),
    "array": ("array", "--rate", 48_000, "--channels", 8),
    "slow": ("slow", "--rate", 16_000, "--channels", 1),
    "mixed": ("wide", "--rate", 48_000, "--channels", 2, "--mix"),
    "sea": ("sea", "--rate", 48_000),
    "resampled": ("tone", "--rate", 8000),
    "plain": ("tone",),
    "absent": ("absent", "--rate", 48_000),
}
REFUSED = {
    "too-many": ("yard", "--channels", 40),
    "made-up": ("yard", "--rate", 48_000, "--channels", 2),
}
CODED = {"yard": [1], "pair": [2, 3], "array": list(range(10, 18)), "slow": [4], "mixed": [40], "absent": [5]}


class Session:
    """What a server, a receiver and captures were up to."""

    def __init__(self, server, receiver, captures, mics):
        self.server, self.receiver, self.captures, self.mics = server, receiver, captures, mics

    def blocks(self, stream):
        return list(self.receiver.arrived[stream])

    def microphone(self, stream):
        return self.mics[CAPTURES[stream][0]]


@pytest.fixture(scope="module")
def session():
    require_sound_server()
    mics = microphones()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(SoundServer(*mics.values()))
        receiver = stack.enter_context(Receiver())
        captures = {}
        for stream, (device, *options) in {**CAPTURES, **REFUSED}.items():
            captures[stream] = CaptureProcess(server, device, stream, receiver.endpoint, *options)
            stack.callback(captures[stream].end)
        captures["absent"].said("no .*absent")
        server.hide("absent", hidden=False)
        for stream in CAPTURES:
            receiver.wait_for(stream, timeout_s=60)
        player = mics["sea"].play(PLAYED)
        before = {stream: n_samples(receiver.arrived[stream]) for stream in CODED}
        enough = {stream: n + RUN_S * mics[CAPTURES[stream][0]].rate_hz for stream, n in before.items()}
        assert until(lambda: all(n_samples(receiver.arrived[s]) >= n for s, n in enough.items()), 30)
        assert player.wait(20) == 0
        yield Session(server, receiver, captures, mics)


def check_every_sample(runs, microphone):
    """Runs of one epoch hold every sample from the first to the last but those that nobody took from the device."""
    lost = {}
    for position, n in list(microphone.lost):
        begin = next((first for first, m in lost.items() if first + m == position), position)
        lost[begin] = lost.get(begin, 0) + n
    for before, after in itertools.pairwise(runs):
        assert lost.get(before.end_position) == after.position - before.end_position, (before, after, lost)


@pytest.mark.parametrize("stream", CODED)
def test_every_sample_arrives_as_it_was(session, stream):
    blocks, microphone = session.blocks(stream), session.microphone(stream)
    check_headers(blocks)
    assert {block.header.rate_hz for block in blocks} == {microphone.rate_hz}
    assert {block.header.channels for block in blocks} == {len(CODED[stream])}
    assert len({block.header.epoch for block in blocks}) == 1
    for channel, number in enumerate(CODED[stream]):
        runs = heard(blocks, channel)
        assert {run.microphone for run in runs} == {number}
        check_every_sample(runs, microphone)
        assert sum(run.n for run in runs) == n_samples(blocks)
        assert n_samples(blocks) >= RUN_S * microphone.rate_hz


def test_what_is_played_is_heard_once_and_alone(session):
    blocks = session.blocks("sea")
    check_headers(blocks)
    assert gaps(blocks) == []
    (run,) = heard(blocks)
    assert (run.microphone, run.end_position) == (6, PLAYED)
    # The server itself has given its monitor silence for the time that a new player takes to begin.
    assert run.position < PLAYER_BEGINS_S * 48_000
    sound = np.concatenate([block.samples[:, 0] for block in blocks])
    outside = np.delete(sound, np.arange(run.index, run.end) - blocks[0].header.first_sample)
    assert not outside.any()


@pytest.mark.parametrize("stream", ["resampled", "plain"])
def test_a_rate_of_ones_own_is_that_of_the_samples(session, stream):
    blocks = session.blocks(stream)
    check_headers(blocks)
    rate_hz = blocks[0].header.rate_hz
    assert rate_hz == 8000 if stream == "resampled" else rate_hz >= 8000
    sound = np.concatenate([block.samples[:, 0] for block in blocks])[rate_hz // 2 :]
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    assert np.argmax(spectrum) * rate_hz / len(sound) == pytest.approx(TONE_HZ, abs=2 * rate_hz / len(sound))
    # As many samples as time has passed.
    lasted_s = blocks[-1].at_s - blocks[0].at_s
    assert n_samples(blocks[1:]) / rate_hz == pytest.approx(lasted_s, abs=UTC_WITHIN_S)


@pytest.mark.parametrize("stream", ["yard", "pair", "array", "slow", "mixed"])
def test_time_stamps_are_those_of_capture(session, stream):
    blocks, microphone = session.blocks(stream), session.microphone(stream)
    offset = heard(blocks)[0].offset
    headers = [block.header for block in blocks]
    off_ns = [header.t_first_utc_ns - microphone.utc_ns(header.first_sample + offset) for header in headers]
    assert abs(np.median(off_ns)) < UTC_WITHIN_S * 1e9
    for one_off_ns, header in zip(off_ns, headers, strict=True):
        assert abs(one_off_ns) <= UTC_WITHIN_S * 1e9 + header.t_err_ns
        assert 0 < header.t_err_ns <= 1e9


def test_sound_comes_soon(session):
    blocks, microphone = session.blocks("yard"), session.microphone("yard")
    offset = heard(blocks)[0].offset
    ends = [block.header.first_sample + block.header.n_frames + offset for block in blocks]
    waited_ns = [block.at_utc_ns - microphone.utc_ns(end) for block, end in zip(blocks, ends, strict=True)]
    assert 0 <= np.median(waited_ns) / 1e9 < SOON_S


def test_a_device_that_is_not_there_is_waited_for_and_named_with_those_that_are(session):
    (line,) = (line for line in session.captures["absent"].lines if re.search("no .*absent", line))
    for name in ("yard", "pair", "sea"):
        assert name in line
    assert session.blocks("absent")


@pytest.mark.parametrize(("stream", "asked", "has"), [("too-many", "40", "32"), ("made-up", "2", "1")])
def test_channels_that_a_device_has_not_are_one_clear_line(session, stream, asked, has):
    capture = session.captures[stream]
    (line,) = capture.lines
    for word in ("yard", asked, has):
        assert re.search(rf"\b{word}\b", line)
    assert not session.blocks(stream)


def test_nothing_is_said_of_a_bug_or_by_the_library(session):
    for stream in CAPTURES:
        stderr = session.captures[stream].stderr
        assert "Traceback" not in stderr, stderr
        assert "Expression" not in stderr, stderr  # PortAudio's own grumbling is nobody's business


def test_devices_are_listed_for_people_and_programs(session):
    command = [sys.executable, "-m", "detectd", "devices"]
    environment = {**session.server.environment, "PYTHONPATH": str(REPOSITORY)}
    told, listed = (
        subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=True, timeout=30)
        for options in ((), ("--json",))
    )
    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    assert rows.keys() >= {microphone.name for microphone in session.mics.values()}
    assert rows["yard"]["channels"] == 32
    assert {8000, 44_100, 48_000} <= set(rows["yard"]["rates_hz"])
    for name in rows:
        assert name in told.stdout
    assert told.stderr == listed.stderr == ""


def test_a_stop_ends_the_stream_and_the_recorder(session):
    # Last of all: it ends what the tests above have looked at.
    capture = session.captures["yard"]
    recorder = capture.recorder
    assert capture.interrupt() == 0
    assert until(lambda: session.blocks("yard")[-1].ends, 5)
    assert until(lambda: not alive(recorder), 5)

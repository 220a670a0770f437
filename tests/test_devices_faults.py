"""What may befall a sound device, to nine virtual ones at once: unplugged, swapped, stalled, unread, the server gone.

One fixture does it all, while three more microphones, with clocks of their own, must notice nothing; the tests ask
about their part. What a microphone sent is known to the sample from the samples themselves.
"""

import contextlib
import itertools
import os
import signal
import time

import pytest
from captured import (
    GAP_WITHIN_S,
    PLACE_WITHIN_S,
    CaptureProcess,
    Receiver,
    alive,
    check_headers,
    check_order,
    check_origin,
    gaps,
    heard,
    n_samples,
)
from counter_audio import coded_sound
from daemon_process import until
from sound_server import PipeMicrophone, SoundServer, require_sound_server

RATE_HZ = 48_000
# Promised: lost within 2 s, back within 2 s of return. Measured from outside, on a machine that is busy.
LOST_S = 2.0
BACK_S = 2.0
SLACK_S = 0.5
SILENT_S = 0.5
SHORT_STALL_S = 1.0
# By then a recorder that hangs has a successor.
HANGS_S = 8.0
# The recorder keeps ten seconds, and some wait in sockets.
UNREAD_S = 15.5
UNPLUGGED_S = 4.0
STOPPED_S = 3.5
DEAD_S = 2.5

DRIFTS_PPM = {"still": 0.0, "fast": 500.0, "slow": -500.0}
NUMBERS = {"unplugged": 10, "moved": 11, "silent": 12, "stalled": 13, "unread": 14, "killed": 15}
NUMBERS |= {"still": 16, "fast": 17, "slow": 18, "broad": 20}
BROAD = 8
DETECTABLE = [name for name in NUMBERS if name != "killed"]


class Timeline:
    """Everything there is to ask about, with when things were done (monotonic)."""

    def __init__(self, server, mics, receivers, captures):
        self.server, self.mics, self.receivers, self.captures = server, mics, receivers, captures
        self.at_s, self.position = {}, {}

    def note(self, what):
        self.at_s[what] = time.monotonic()
        self.position[what] = {name: mic.position for name, mic in self.mics.items()}

    def blocks(self, stream, since=None, until=None):
        """Blocks that came between two notes."""
        low = self.at_s[since] if since else 0
        high = self.at_s[until] if until else float("inf")
        receiver = self.receivers["unread" if stream == "unread" else "all"]
        return [block for block in list(receiver.arrived[stream]) if low <= block.at_s < high]

    def wait_until(self, what, seconds):
        time.sleep(max(0.0, self.at_s[what] + seconds - time.monotonic()))

    def back(self, since, timeout_s=20):
        """Wait until every capture has sent something new since a note."""
        until(lambda: all(self.blocks(name, since) for name in DETECTABLE), timeout_s)

    def back_after_s(self, stream, since):
        """Seconds from a note to the arrival of the first sample that the microphone sent after it."""
        blocks, position = self.blocks(stream, since), self.position[since][self.device(stream)]
        for run in heard(blocks):
            if run.microphone == NUMBERS[stream] and run.end_position > position:
                index = max(run.index, position - run.offset)
                ends = ((b, b.header.first_sample + b.header.n_frames) for b in blocks if b.header.epoch == run.epoch)
                return next(block.at_s for block, end in ends if end > index) - self.at_s[since]
        return float("inf")

    @staticmethod
    def device(stream):
        return "still" if stream == "killed" else stream


@pytest.fixture(scope="module")
def timeline():
    require_sound_server()
    mics = {
        name: PipeMicrophone(name, coded_sound(number), RATE_HZ, ppm=DRIFTS_PPM.get(name, 0.0))
        for name, number in NUMBERS.items()
        if name not in {"broad", "killed"}
    }
    mics["broad"] = PipeMicrophone("broad", coded_sound(*range(20, 20 + BROAD)), RATE_HZ, BROAD)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(SoundServer(*mics.values()))
        receivers = {"all": stack.enter_context(Receiver())}
        receivers["unread"] = stack.enter_context(Receiver(server.path("unread")))
        captures = {}
        for stream in NUMBERS:
            endpoint = receivers.get(stream, receivers["all"]).endpoint
            channels = BROAD if stream == "broad" else 1
            options = ("--rate", RATE_HZ, "--channels", channels)
            captures[stream] = CaptureProcess(server, Timeline.device(stream), stream, endpoint, *options)
            stack.callback(captures[stream].end)
        line = Timeline(server, mics, receivers, captures)
        line.note("launch")
        for stream in NUMBERS:
            receivers.get(stream, receivers["all"]).wait_for(stream, 5, timeout_s=60)
        trouble_devices(line)
        trouble_the_server(line)
        line.alive = [name for name in DETECTABLE if captures[name].runs]
        line.left_behind = not until(lambda: not alive(line.killed_recorder), 5)
        if line.left_behind:
            os.kill(line.killed_recorder, signal.SIGKILL)
    # All has been said and sent: what is asked of it now disturbs no microphone.
    return line


def trouble_devices(line):
    """Each device its own trouble, all at once."""
    stalled, broad, moved, killed = (line.captures[name].recorder for name in ("stalled", "broad", "moved", "killed"))
    line.killed_recorder = killed
    line.note("begin")
    line.mics["unplugged"].unplug()
    line.note("unplugged")
    os.kill(stalled, signal.SIGSTOP)
    line.note("stalled")
    os.kill(broad, signal.SIGSTOP)
    line.receivers["unread"].stand_still()
    line.mics["silent"].silent = True
    line.note("silent")
    line.server.move(moved, to="still")
    line.note("moved")
    line.captures["killed"].kill()
    line.wait_until("silent", SILENT_S)
    line.mics["silent"].silent = False
    line.wait_until("stalled", SHORT_STALL_S)
    os.kill(stalled, signal.SIGCONT)
    line.wait_until("unplugged", UNPLUGGED_S)
    line.note("plugged")
    line.mics["unplugged"].plug()
    line.wait_until("begin", HANGS_S)
    line.note("replaced")
    line.wait_until("begin", UNREAD_S)
    line.receivers["unread"].go_on()
    line.note("settled")
    line.back("settled")
    line.wait_until("settled", BACK_S + SLACK_S)
    line.note("end")


def trouble_the_server(line):
    line.note("stop")
    line.server.stop()
    line.wait_until("stop", STOPPED_S)
    line.note("go on")
    line.server.go_on()
    line.back("go on")
    line.wait_until("go on", BACK_S + SLACK_S)
    line.note("kill")
    line.server.kill()
    line.wait_until("kill", DEAD_S)
    line.server.start()
    line.note("restart")
    line.back("restart")
    line.wait_until("restart", BACK_S + SLACK_S)


@pytest.mark.parametrize("stream", DETECTABLE)
def test_no_sample_of_another_device_and_none_that_no_device_sent(timeline, stream):
    blocks = timeline.blocks(stream)
    check_headers(blocks)
    for channel in range(blocks[0].header.channels):
        runs = heard(blocks, channel)
        check_origin(runs, NUMBERS[stream] + channel, n_samples(blocks))


@pytest.mark.parametrize("stream", DETECTABLE)
def test_nothing_comes_twice_and_gaps_are_what_is_missing(timeline, stream):
    blocks = timeline.blocks(stream)
    for channel in range(blocks[0].header.channels):
        check_order(heard(blocks, channel), RATE_HZ)


@pytest.mark.parametrize("stream", DRIFTS_PPM)
def test_who_has_no_trouble_loses_nothing(timeline, stream):
    blocks = timeline.blocks(stream, until="end")
    assert gaps(blocks) == []
    runs = heard(blocks)
    assert len({run.epoch for run in runs}) == 1
    lost = sum(n for position, n in list(timeline.mics[stream].lost) if position >= runs[0].position)
    missing = sum(after.position - before.end_position for before, after in itertools.pairwise(runs))
    # What the server did not take in time from the microphone, no capture could have had.
    assert missing <= lost
    assert runs[-1].end_position > timeline.position["end"][stream] - 2 * RATE_HZ


@pytest.mark.parametrize(
    ("stream", "gone", "returned"),
    [
        ("unplugged", "unplugged", "plugged"),
        *((name, "stop", "go on") for name in DETECTABLE),
        *((name, "kill", "restart") for name in DETECTABLE),
    ],
)
def test_a_lost_device_is_known_and_comes_back_in_time(timeline, stream, gone, returned):
    during = timeline.blocks(stream, gone, returned)
    assert not during or during[-1].at_s - timeline.at_s[gone] <= LOST_S
    assert timeline.captures[stream].said_after(timeline.at_s[gone], "lost") - timeline.at_s[gone] <= LOST_S + SLACK_S
    assert timeline.back_after_s(stream, returned) <= BACK_S + SLACK_S


def test_a_microphone_that_was_silent_leaves_a_gap_of_as_much(timeline):
    blocks = timeline.blocks("silent", until="end")
    assert len({block.header.epoch for block in blocks}) == 1
    ((index, n),) = gaps(blocks)
    since, to = heard(blocks)[0].position, timeline.position["end"]["silent"]
    lost = sum(n for position, n in list(timeline.mics["silent"].lost) if since <= position < to)
    assert abs(n - lost) <= GAP_WITHIN_S * RATE_HZ
    # It is where the samples are missing, and not where it was noticed.
    (before,) = (
        before
        for before, after in itertools.pairwise(heard(blocks))
        if after.position - before.end_position > SILENT_S * RATE_HZ / 2
    )
    assert abs(before.end_position - heard(blocks)[0].offset - index) <= PLACE_WITHIN_S * RATE_HZ


def test_a_capture_that_is_taken_to_another_microphone_returns(timeline):
    assert timeline.back_after_s("moved", "moved") <= LOST_S + BACK_S + SLACK_S


def test_a_short_stall_of_the_recorder_loses_nothing(timeline):
    # The server keeps what is not fetched; it comes late and whole.
    blocks = timeline.blocks("stalled", until="end")
    assert len({block.header.epoch for block in blocks}) == 1
    assert gaps(blocks) == []
    first, *others = heard(blocks)
    lost = sum(n for position, n in list(timeline.mics["stalled"].lost) if position >= first.position)
    assert sum(after.position - before.end_position for before, after in itertools.pairwise([first, *others])) <= lost


def test_a_recorder_that_hangs_for_ever_is_replaced(timeline):
    hung, replaced = timeline.at_s["begin"], timeline.at_s["replaced"]
    blocks = timeline.blocks("broad", until="end")
    epochs = {block.header.epoch for block in blocks if block.at_s < hung}
    assert epochs.isdisjoint(block.header.epoch for block in blocks if block.at_s > replaced)
    assert timeline.back_after_s("broad", "replaced") <= SLACK_S


def test_what_nobody_pulled_is_a_gap_of_exactly_as_much(timeline):
    blocks = timeline.blocks("unread", until="end")
    assert len({block.header.epoch for block in blocks}) == 1
    assert gaps(blocks)
    lost = sum(n for _, n in list(timeline.mics["unread"].lost))
    for before, after in itertools.pairwise(heard(blocks)):
        missing = (after.position - before.end_position) - (after.index - before.end)
        assert 0 <= missing <= lost


def test_kill_9_leaves_no_recorder_behind(timeline):
    assert not timeline.left_behind
    blocks = timeline.blocks("killed")
    assert blocks[-1].at_s - timeline.at_s["moved"] < LOST_S


@pytest.mark.parametrize("stream", DETECTABLE)
def test_every_change_is_told_in_a_line_and_none_is_a_bug(timeline, stream):
    capture = timeline.captures[stream]
    assert stream in timeline.alive
    assert "Traceback" not in capture.stderr
    assert "Expression" not in capture.stderr
    # It never gives up, and does not fill the disk with saying so either.
    assert 1 <= len(capture.lines) < 60

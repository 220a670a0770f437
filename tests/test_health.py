"""What is a fault, and which faults a restart would mend: times and counts in, verdicts out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectd.monitor.health import STILL_S, Health, Part, Signs, StreamSigns

LOOK_S = 0.25
TOLD_WITHIN_S = 2.0
assert STILL_S + 2 * LOOK_S <= TOLD_WITHIN_S
THREADS = ("ingest", "engine", "publisher")


def look_on(health, signs_at, *, from_s=0.0, for_s=4.0, every_s=LOOK_S):
    """Look at intervals; returns (seconds since the first look, verdict) of each."""
    times = [from_s + number * every_s for number in range(1 + round(for_s / every_s))]
    return [(now_s - from_s, health.look(now_s, signs_at(now_s))) for now_s in times]


def told_after(verdicts, part):
    """When a part was first told to fail; None if it never was."""
    return next((at_s for at_s, verdict in verdicts if part in {fault.part for fault in verdict.faults}), None)


def parts(now_s, **stands_still):
    """Every thread beating, except those that stand still since a time."""
    return [Part(name, True, min(now_s, stands_still.get(name, now_s))) for name in THREADS]


def lively(now_s, **changes):
    """A daemon at work: all that should move does."""
    values = {
        "parts": parts(now_s),
        "audio_waits": True,
        "analysed": round(now_s * 8000),
        "windows_wait": True,
        "scored": round(now_s * 4),
        "streams": [StreamSigns("yard", True, 8000, ours=True), StreamSigns("far", True, 8000)],
    }
    return Signs(**{**values, **changes})


def test_a_daemon_at_work_is_well():
    verdicts = look_on(Health(), lively, for_s=60)
    assert not any(verdict.faults for _, verdict in verdicts)
    assert {verdict.status for _, verdict in verdicts} == {"2 of 2 streams up; 0 events; journal ok"}


def test_a_daemon_with_nothing_to_do_is_well():
    signs = Signs(parts=[Part("ingest", True, 0)])
    beating = look_on(Health(), lambda now_s: Signs(parts=parts(now_s), analysed=5, scored=7), for_s=60)
    assert not any(verdict.faults for _, verdict in beating)
    assert told_after(look_on(Health(), lambda _: signs), "ingest") is not None


@pytest.mark.parametrize("name", THREADS)
def test_a_thread_that_stands_still_is_told_in_time_and_a_restart_would_mend_it(name):
    health = Health()
    look_on(health, lively, for_s=5)
    verdicts = look_on(health, lambda now_s: lively(now_s, parts=parts(now_s, **{name: 5.25})), from_s=5.25)
    after_s = told_after(verdicts, name)
    assert 1 <= after_s <= TOLD_WITHIN_S - LOOK_S
    at_last = verdicts[-1][1]
    assert at_last.restart
    assert [fault.text for fault in at_last.faults] == [f"the {name} thread stands still"]
    assert at_last.status.startswith(f"the {name} thread stands still; ")
    assert not health.look(10, lively(10)).faults, "it moves again"


def test_a_dead_thread_is_told_at_once():
    verdict = Health().look(0, lively(0, parts=[Part("publisher", False, 0)]))
    assert [(fault.part, fault.restart) for fault in verdict.faults] == [("publisher", True)]


@pytest.mark.parametrize(
    ("count", "waits", "part"), [("analysed", "audio_waits", "audio"), ("scored", "windows_wait", "inference")]
)
def test_work_that_waits_and_does_not_advance(count, waits, part):
    stuck = look_on(Health(), lambda now_s: lively(now_s, **{count: 5}))
    assert 1 <= told_after(stuck, part) <= TOLD_WITHIN_S - LOOK_S
    assert stuck[-1][1].restart
    assert {fault.part for fault in stuck[-1][1].faults} == {part}
    idle = look_on(Health(), lambda now_s: lively(now_s, **{count: 5, waits: False}))
    assert told_after(idle, part) is None
    # Between two of its blocks a stream may wait for long: time is counted from when the engine owes something.
    seldom = look_on(Health(), lambda now_s: lively(now_s, **{count: 5, waits: now_s % 2 == 0}))
    assert told_after(seldom, part) is None


def test_a_long_step_that_gets_somewhere_is_no_fault():
    # Ten seconds in one step: the thread's own beat stands still, its counts do not.
    def signs(now_s):
        counts = {"analysed": 5, "scored": round(now_s)}
        beats = [Part("engine", True, tuple(counts.values()))]
        return lively(now_s, parts=beats, audio_waits=False, **counts)

    assert not any(verdict.faults for _, verdict in look_on(Health(), signs, for_s=10))


def test_the_cause_is_told_and_not_what_follows_from_it():
    verdicts = look_on(Health(), lambda now_s: lively(now_s, parts=parts(now_s, engine=0), analysed=0, scored=0))
    assert {fault.part for fault in verdicts[-1][1].faults} == {"engine"}


@pytest.mark.parametrize("stopped_s", [3.0, 60.0, 1e6])
def test_time_in_which_the_process_did_not_run_is_no_fault(stopped_s):
    health = Health()
    look_on(health, lively, for_s=5)
    # SIGSTOP at 5 s: nothing moves, and nobody looks either. Then everything goes on, the threads a little later.
    resumed_s = 5 + stopped_s
    still = {"parts": parts(5), "analysed": 40_000, "scored": 20}
    assert not health.look(resumed_s, lively(resumed_s, **still)).faults
    assert not health.look(resumed_s + 0.5, lively(resumed_s + 0.5, **still)).faults
    verdicts = look_on(health, lively, from_s=resumed_s + 0.75)
    assert not any(verdict.faults for _, verdict in verdicts)


@given(st.lists(st.floats(0.01, 30), min_size=1, max_size=30))
def test_whoever_moved_since_the_last_look_stands_still_at_no_hour(pauses_s):
    health, now_s = Health(), 0.0
    for pause_s in pauses_s:
        now_s += pause_s
        assert not health.look(now_s, lively(now_s, analysed=now_s, scored=now_s)).faults


@given(st.lists(st.floats(0.01, 0.5), min_size=1, max_size=60))
def test_nobody_stands_still_unseen_for_longer_than_promised(pauses_s):
    health, now_s = Health(), 0.0
    health.look(now_s, lively(0.0))
    for pause_s in pauses_s:
        now_s += pause_s
        verdict = health.look(now_s, lively(now_s, parts=parts(now_s, engine=0)))
        if abs(now_s - STILL_S) > 1e-6:  # sums of differences are not exact
            assert verdict.restart == (now_s > STILL_S)


def stream_of_ours(*, up, why=""):
    return [StreamSigns("yard", up, 8000 if up else 0, ours=True, why=why), StreamSigns("far", True, 8000)]


def test_a_device_unplugged_is_told_at_once_and_no_reason_to_restart():
    health = Health()
    health.look(0, lively(0))
    down = stream_of_ours(up=False, why="waiting for device 'USB Mic'")
    verdicts = look_on(health, lambda now_s: lively(now_s, streams=down, events=12), from_s=0.25, for_s=60)
    for _, verdict in verdicts:
        (fault,) = verdict.faults
        assert (fault.part, fault.stream, fault.restart) == ("stream", "yard", False)
        assert fault.text == "stream yard: waiting for device 'USB Mic'"
        assert verdict.status == "1 of 2 streams up; down: yard (waiting for device 'USB Mic'); 12 events; journal ok"
        assert not verdict.restart
    assert not health.look(61, lively(61)).faults


def test_a_source_of_ours_may_take_a_moment_to_begin():
    verdicts = look_on(Health(), lambda now_s: lively(now_s, streams=stream_of_ours(up=False)))
    assert 1 <= told_after(verdicts, "stream") <= TOLD_WITHIN_S - LOOK_S
    assert verdicts[-1][1].faults[0].text == "stream yard: no audio"


def test_a_sender_that_is_gone_is_told_and_is_no_fault_of_ours():
    streams = [StreamSigns("yard", True, 8000, ours=True), StreamSigns("far", False)]
    _, verdict = look_on(Health(), lambda now_s: lively(now_s, streams=streams))[-1]
    assert not verdict.faults
    assert verdict.status == "1 of 2 streams up; down: far; 0 events; journal ok"


def test_a_full_disk_is_told_and_no_reason_to_restart():
    verdict = Health().look(0, lively(0, journal="no space left on device", events=1))
    assert [(fault.part, fault.restart) for fault in verdict.faults] == [("journal", False)]
    assert verdict.status == "2 of 2 streams up; 1 event; journal: no space left on device"


def test_the_line_stays_short_with_many_streams_down_our_own_first():
    streams = [StreamSigns(f"far{number}", False) for number in range(9)] + stream_of_ours(up=False)
    verdict = Health().look(0, lively(0, streams=streams))
    assert verdict.status == "1 of 11 streams up; down: yard, far0, far1 and 7 more; 0 events; journal ok"

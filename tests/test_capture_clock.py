"""A device's clock and its books: drift, late readings and losses, from made-up times. No device."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectd.capture.clock import CaptureClock
from detectd.capture.ledger import LATE_S, Ledger, Reading

RATE_HZ = 44_100
BLOCK = 4410
NO_TIME = 0


def delivered(seconds, *, ppm=0.0, jitter_s=0.001, seed=0, lost=(), late=()):
    """Yield readings of a device: frames in all that it captured, frames since the last, time after the read.

    `lost` are pairs of a time and the frames that are missing from then; `late` are spans in which nothing is read, and
    after which all that waited is read at once.
    """
    rng = np.random.default_rng(seed)
    rate_hz = RATE_HZ * (1 + ppm * 1e-6)
    lost, missing, read, now_s = list(lost), 0, 0, 0.0
    while now_s < seconds:
        ready_s = (read + missing + BLOCK) / rate_hz
        if lost and ready_s >= lost[0][0]:
            missing += lost.pop(0)[1]
            ready_s = (read + missing + BLOCK) / rate_hz
        now_s = max(now_s + 1e-4, ready_s + rng.exponential(jitter_s))
        for begin_s, end_s in late:
            if begin_s <= now_s < end_s:
                now_s = end_s
        read += BLOCK
        captured = int(now_s * rate_hz) - missing
        yield Reading(bytes(0), BLOCK, max(0, min(captured - read, 22_050)), 1000 + now_s, NO_TIME)


def drift_after(seconds, **device):
    clock, read = CaptureClock(RATE_HZ), 0
    for reading in delivered(seconds, **device):
        read += reading.n_frames
        clock.learn(read + reading.waiting_frames, reading.at_s)
    return clock.drift_ppm


def kept(readings, ledger=None):
    """All that a ledger gives out for readings, with its end."""
    ledger = ledger or Ledger(RATE_HZ)
    placed = [one for reading in readings for one in ledger.take(reading)]
    return ledger, placed + ledger.flush()


@pytest.mark.parametrize("ppm", [-500, -100, -20, 0, 20, 100, 500])
@pytest.mark.parametrize("seed", range(4))
def test_drift_is_found_within_a_minute(ppm, seed):
    assert drift_after(60, ppm=ppm, jitter_s=0.004, seed=seed) == pytest.approx(ppm, abs=10)


def test_drift_is_not_told_before_it_is_known():
    assert drift_after(15, ppm=300) is None
    assert drift_after(25, ppm=300) == pytest.approx(300, abs=20)


def test_drift_outlives_what_a_busy_machine_does():
    late = [(5 + 6 * k, 5.8 + 6 * k) for k in range(9)]
    assert drift_after(60, ppm=-200, jitter_s=0.01, late=late) == pytest.approx(-200, abs=20)


@given(
    ppm=st.floats(-500, 500),
    seed=st.integers(0, 1000),
    jitter_s=st.sampled_from([0.0, 0.002, 0.01]),
    stalls=st.lists(st.tuples(st.floats(1, 58), st.floats(0.02, 0.9)), max_size=6),
)
@settings(deadline=None, max_examples=40)
def test_lateness_is_never_a_loss(ppm, seed, jitter_s, stalls):
    late = [(begin_s, begin_s + length_s) for begin_s, length_s in stalls]
    ledger, placed = kept(delivered(60, ppm=ppm, seed=seed, jitter_s=jitter_s, late=late))
    assert ledger.lost_samples == 0
    assert [one.first_sample for one in placed] == list(range(0, len(placed) * BLOCK, BLOCK))
    assert not any(one.discontinuity for one in placed)


@given(
    ppm=st.floats(-500, 500),
    seed=st.integers(0, 1000),
    n_lost=st.integers(round(0.025 * RATE_HZ), RATE_HZ),
    at_s=st.floats(1, 50),
)
@settings(deadline=None, max_examples=40)
def test_a_loss_is_a_gap_of_its_length_where_it_was(ppm, seed, n_lost, at_s):
    ledger, placed = kept(delivered(60, ppm=ppm, seed=seed, lost=[(at_s, n_lost)]))
    assert ledger.lost_samples == pytest.approx(n_lost, abs=0.006 * RATE_HZ)
    (gap,) = [one for one in placed if one.discontinuity]
    index = placed.index(gap)
    before = placed[index - 1]
    assert gap.first_sample - (before.first_sample + BLOCK) == ledger.lost_samples
    # Found by the time of capture, which the gap's neighbours straddle.
    assert before.first_sample / RATE_HZ <= at_s + 0.01
    assert gap.reading.at_s - 1000 >= at_s - 0.01
    assert sum(one.reading.n_frames for one in placed) == len(placed) * BLOCK


def test_a_small_loss_is_found_too_once_the_drift_is_known():
    ledger, placed = kept(delivered(60, ppm=150, jitter_s=0.0005, lost=[(40, 662)]))
    assert ledger.lost_samples == pytest.approx(662, abs=60)
    (gap,) = [one for one in placed if one.discontinuity]
    assert 40 <= gap.first_sample / RATE_HZ <= 47


def test_losses_do_not_spoil_the_drift():
    clock = kept(delivered(90, ppm=250, lost=[(30, 2205), (50, 13_230), (70, 30_000)]))[0].clock
    assert clock.drift_ppm == pytest.approx(250, abs=20)


def test_what_was_held_comes_out_in_order_and_at_once():
    ledger = Ledger(RATE_HZ)
    readings = list(delivered(20, lost=[(10, 20_000)]))
    held_s = 0.0
    given_out = []
    for reading in readings:
        placed = ledger.take(reading)
        given_out += placed
        if placed:
            held_s = max(held_s, reading.at_s - placed[0].reading.at_s)
    assert [one.reading for one in given_out] == readings
    assert 0.5 < held_s < 1.5


def test_after_a_buffer_was_emptied_the_clock_says_what_is_missing():
    readings = list(delivered(20, lost=[(10, 15_000)]))
    first_after = next(k for k, one in enumerate(readings) if one.at_s > 1010.2)
    old = readings[first_after]
    readings[first_after] = Reading(old.payload, old.n_frames, old.waiting_frames, old.at_s, 0, broken=True)
    ledger, placed = kept(readings)
    assert ledger.lost_samples == pytest.approx(15_000, abs=300)
    assert [one.reading.broken for one in placed if one.discontinuity] == [True]


def test_a_buffer_emptied_without_a_loss_is_a_discontinuity_of_nothing():
    readings = list(delivered(5))
    readings[20] = Reading(b"", BLOCK, 0, readings[20].at_s, 0, broken=True)
    ledger, placed = kept(readings)
    assert ledger.lost_samples <= 0.005 * RATE_HZ
    assert sum(one.discontinuity for one in placed) == 1


def test_a_reading_left_out_leaves_its_samples_out():
    ledger = Ledger(RATE_HZ)
    readings = list(delivered(2))
    placed = [one for k, reading in enumerate(readings) for one in (ledger.skip if k == 7 else ledger.take)(reading)]
    assert [one.first_sample for one in placed] == [k * BLOCK for k in range(len(readings)) if k != 7]
    assert [one.first_sample for one in placed if one.discontinuity] == [8 * BLOCK]
    assert ledger.lost_samples == 0


def test_a_latency_that_shrinks_moves_the_line_and_loses_nothing():
    readings = [
        Reading(b"", BLOCK, 0, one.at_s + (0.3 if k < 100 else 0.0), 0) for k, one in enumerate(delivered(60, seed=3))
    ]
    ledger, placed = kept(readings)
    assert ledger.lost_samples == 0
    assert len(placed) == len(readings)
    end = len(readings) * BLOCK
    assert abs(ledger.clock.lateness_s(end, readings[-1].at_s)) < LATE_S


@pytest.mark.parametrize("ppm", [-500, 0, 500])
def test_capture_times_are_those_of_the_device(ppm):
    ledger = Ledger(RATE_HZ)
    rate_hz = RATE_HZ * (1 + ppm * 1e-6)
    errors = []
    for reading in delivered(60, ppm=ppm, jitter_s=0.003):
        for one in ledger.take(reading):
            true_s = 1000 + one.first_sample / rate_hz
            errors.append(ledger.clock.captured_s(one.first_sample, reading.at_s) - true_s)
    assert np.abs(errors[10:]).max() < 0.006

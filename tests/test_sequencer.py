"""The accounting rules of one source: each by an example, and all of them against a slow model."""

import pytest
from block_model import Model
from hypothesis import given, settings
from hypothesis import strategies as st

from detectd.streams.sequencer import Placement, Sequencer
from detectd.streams.wire import Flag, Header, Refusal

RATE_HZ = 100
HOUR = 3600 * RATE_HZ


def block(first, n=10, epoch=1, flags=0, **changes):
    return Header(flags, 1, 1, RATE_HZ, n, "yard", epoch, 0, first)._replace(**changes)


@pytest.fixture
def sequencer():
    """After samples 100..199 of epoch 1."""
    made = Sequencer()
    assert made.place(block(100, 100)) == Placement(new_epoch=True)
    return made


def test_what_follows_on_is_taken(sequencer):
    assert sequencer.place(block(200)) == Placement()
    assert sequencer.place(block(210, 0)) == Placement()
    assert sequencer.place(block(210)) == Placement()


def test_a_gap_is_exactly_as_long_as_what_is_missing(sequencer):
    assert sequencer.place(block(201)) == Placement(gap_samples=1)
    assert sequencer.place(block(1211)) == Placement(gap_samples=1000)


def test_an_hour_is_a_gap_and_more_is_a_resync():
    for jump, expected in ((HOUR, Placement(gap_samples=HOUR)), (HOUR + 1, Placement(resync=True))):
        sequencer = Sequencer()
        sequencer.place(block(0))
        assert sequencer.place(block(10 + jump)) == expected
        assert sequencer.place(block(20 + jump)) == Placement()


def test_old_samples_are_trimmed(sequencer):
    assert sequencer.place(block(193)) == Placement(trim=7)
    assert sequencer.place(block(203)) == Placement()


def test_what_was_there_is_a_duplicate_and_what_was_missing_is_late(sequencer):
    sequencer.place(block(250))
    assert sequencer.place(block(190)) is Refusal.DUPLICATE
    assert sequencer.place(block(250)) is Refusal.DUPLICATE
    assert sequencer.place(block(200)) is Refusal.LATE
    assert sequencer.place(block(240)) is Refusal.LATE
    assert sequencer.place(block(195)) is Refusal.LATE  # in part
    assert sequencer.place(block(260)) == Placement()


def test_a_new_epoch_begins_wherever_it_likes(sequencer):
    assert sequencer.place(block(7, epoch=2, rate_hz=48000)) == Placement(new_epoch=True)
    assert sequencer.place(block(17, epoch=2, rate_hz=48000)) == Placement()
    assert sequencer.place(block(200)) is Refusal.LATE


@pytest.mark.parametrize("change", [{"rate_hz": 101}, {"sample_format": 4}, {"channels": 2}])
def test_an_epoch_keeps_its_format(sequencer, change):
    assert sequencer.place(block(200, **change)) is Refusal.FORMAT_CHANGED
    assert sequencer.place(block(200)) == Placement()


def test_the_discontinuity_flag_counts_nothing(sequencer):
    assert sequencer.place(block(200, flags=Flag.DISCONTINUITY)) == Placement(discontinuity=True)


@pytest.mark.parametrize("jump", [HOUR, HOUR + 1, 2**62])
def test_one_forged_index_does_not_silence_a_stream(sequencer, jump):
    sequencer.place(block(200 + jump))
    for i in range(9):
        assert sequencer.place(block(200 + 10 * i)) is Refusal.LATE
    assert sequencer.place(block(290)) == Placement(resync=True)
    assert sequencer.place(block(300)) == Placement()


def test_one_forged_epoch_does_not_silence_a_stream(sequencer):
    sequencer.place(block(0, epoch=666))
    for i in range(9):
        assert sequencer.place(block(200 + 10 * i)) is Refusal.LATE
    assert sequencer.place(block(290)) == Placement(new_epoch=True, resync=True)
    assert sequencer.place(block(300)) == Placement()
    assert sequencer.place(block(10, epoch=666)) is Refusal.LATE


def test_late_blocks_that_do_not_follow_on_each_other_prove_nothing(sequencer):
    sequencer.place(block(1000))
    for i in range(30):
        assert sequencer.place(block(200 + 20 * i)) is Refusal.LATE
    assert sequencer.place(block(1010)) == Placement()


def test_a_good_block_between_late_ones_proves_them_wrong(sequencer):
    sequencer.place(block(1000))
    for i in range(9):
        sequencer.place(block(200 + 10 * i))
    assert sequencer.place(block(1010)) == Placement()
    assert sequencer.place(block(290)) is Refusal.LATE


def test_repeating_what_was_there_is_never_taken(sequencer):
    for i in range(30):
        assert sequencer.place(block(100 + i % 10 * 10)) is Refusal.DUPLICATE


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["next", "ahead", "old", "burst", "jump", "epoch", "return", "format"]),
        st.integers(0, 120),
        st.integers(1, 40),
    ),
    max_size=30,
)


def headers_of(steps):
    """Blocks of a source that follows its own idea of the index, disturbed in every way; see `STEPS`."""
    at = {1: 100}  # next index by epoch
    epoch = 1
    for what, a, n in steps:
        if what == "epoch":
            epoch = max(at) + 1
            at[epoch] = a
        elif what == "return":
            epoch = 1 + a % max(at)
        elif what == "jump":
            at[epoch] += HOUR + a - 60
        elif what == "ahead":
            at[epoch] += a
        if what == "old":
            yield block(max(0, at[epoch] - a), n, epoch)
        elif what == "burst":
            # A sender far behind, whose blocks follow on each other.
            first = max(0, at[epoch] - 20 * n)
            yield from (block(first + i * n, n, epoch) for i in range(8 + a % 4))
        elif what == "format":
            yield block(at[epoch], n, epoch, rate_hz=RATE_HZ + a % 2)
        else:
            yield block(at[epoch], n, epoch)
            at[epoch] += n


@settings(max_examples=300)
@given(steps=STEPS)
def test_any_sequence_of_blocks_is_counted_like_the_model(steps):
    sequencer, model = Sequencer(), Model()
    gap = accepted = resyncs = 0
    for header in headers_of(steps):
        before = sum(model.refused_blocks.values())
        wanted = model.block(header)
        placed = sequencer.place(header)
        if isinstance(placed, Refusal):
            assert sum(model.refused_blocks.values()) == before + 1
            assert not wanted
        else:
            assert header.n_frames - placed.trim == len(wanted)
            gap += placed.gap_samples
            resyncs += placed.resync
            accepted += len(wanted)
        assert (gap, accepted, resyncs) == (model.gap, model.accepted, model.resyncs)

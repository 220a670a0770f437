"""The coded sound and its decoder: whatever is done to it, the decoder says what was done."""

import itertools

import numpy as np
from counter_audio import PERIOD, WORD, Run, coded, foreign, runs_of
from hypothesis import example, given
from hypothesis import strategies as st

MICROPHONES = st.integers(0, (1 << 14) - 1)
POSITIONS = st.integers(0, PERIOD - 10_000)
LENGTHS = st.integers(3 * WORD, 500)


@given(MICROPHONES, POSITIONS, LENGTHS)
def test_what_was_sent_is_one_run(microphone, position, n):
    sound = coded(microphone, position, n)
    assert sound.dtype == np.int16
    assert runs_of(sound) == [Run(0, n, microphone, position)]
    assert foreign(sound, runs_of(sound), microphone) == 0


@st.composite
def pieces(draw):
    """Pieces of recordings one after the other, none of which continues the one before."""
    made = []
    for _ in range(draw(st.integers(1, 6))):
        piece = (draw(MICROPHONES), draw(POSITIONS), draw(LENGTHS))
        if made and piece[0] == made[-1][0] and draw(st.booleans()):
            # Likely damages: a loss, a repetition, nothing but the order of two pieces.
            piece = (piece[0], max(0, made[-1][1] + draw(st.integers(-300, 300))), piece[2])
        if not made or piece[:2] != (made[-1][0], made[-1][1] + made[-1][2]):
            made.append(piece)
    return made


@given(pieces())
@example([(1, 0, 100), (1, 104, 100)])  # a word is lost
@example([(1, 0, 100), (1, 96, 100)])  # a word comes twice
@example([(1, 0, 100), (1, 101, 100)])  # a sample is lost
@example([(1, 0, 100), (2, 100, 100), (1, 200, 100)])  # another microphone for a while
def test_every_piece_is_found_where_it_is(made):
    sound = np.concatenate([coded(*piece) for piece in made])
    found = runs_of(sound)
    assert len(found) == len(made)
    at = 0
    for run, (microphone, position, n) in zip(found, made, strict=True):
        assert run.microphone == microphone
        assert run.position - run.at == position - at
        # At a seam parts of words may fit both sides: they are counted once.
        assert abs(run.at - at) < WORD
        assert abs(run.at + run.n - (at + n)) < WORD
        at += n
    assert all(run.at + run.n <= after.at for run, after in itertools.pairwise(found))


@given(MICROPHONES, POSITIONS, st.integers(50, 200), st.integers(1, 200), st.sampled_from(["zero", "noise", "mixed"]))
def test_what_came_from_nowhere_is_seen(microphone, position, n, n_foreign, kind):
    rng = np.random.default_rng(n_foreign)
    between = {
        "zero": np.zeros(n_foreign),
        "noise": rng.integers(-(1 << 15), 1 << 15, n_foreign),
        # Two microphones in one.
        "mixed": (coded(5, position, n_foreign) // 2 + coded(6, position, n_foreign) // 2),
    }[kind].astype(np.int16)
    sound = np.concatenate([coded(microphone, position, n), between, coded(microphone, position + n, n)])
    found = runs_of(sound)
    # Random samples may be a right half word with what they stand beside; never more.
    assert abs(foreign(sound, found, microphone) - n_foreign) < 2 * WORD
    assert [run.microphone for run in found] == [microphone] * 2
    assert found[1].position - found[1].at == position - n_foreign


def test_one_changed_bit_is_seen():
    sound = coded(3, 1000, 400)
    for bit in range(16):
        damaged = sound.copy()
        damaged[200] ^= np.int16(np.uint16(1 << bit).view(np.int16))
        found = runs_of(damaged)
        assert len(found) == 2
        assert 1 <= foreign(damaged, found, 3) <= WORD


def test_nothing_is_found_where_nothing_was_sent():
    assert runs_of(np.empty(0, np.int16)) == []
    assert runs_of(np.zeros(1000, np.int16)) == []
    assert runs_of(np.random.default_rng(1).integers(-(1 << 15), 1 << 15, 1_000_000).astype(np.int16)) == []

"""Sound that says of itself where it belongs: every four samples name their microphone and their position.

A word is four samples of 16 bits. The top two bits number the sample within its word; the other fourteen hold the low
half of the word's number, its high half, the microphone, and a sum over all three. The last three are scrambled by
the first, so that samples of one word fit into no other. Silence, and any mixture of sounds, is no word.
"""

import dataclasses
import functools

import numpy as np

WORD = 4
PERIOD = WORD << 28
"""Positions are told apart modulo this: six hours at 48 kHz."""
FOURTEEN_BITS = (1 << 14) - 1
NOBODY = -1


@dataclasses.dataclass(frozen=True)
class Run:
    """Samples that follow on each other, as one microphone sent them.

    Attributes
    ----------
    at : int, place of the first one in what was received
    """

    at: int
    n: int
    microphone: int
    position: int


def coded(microphone, first_position, n):
    """Samples of a microphone from a position on, (n,) int16."""
    position = np.arange(first_position, first_position + n, dtype=np.int64)
    number, place = position // WORD, position % WORD
    low, high = number & FOURTEEN_BITS, number >> 14 & FOURTEEN_BITS
    content = np.choose(place, [low, high, microphone, _sum(low, high, microphone)])
    scrambled = content ^ np.where(place, _scramble(low, place), 0)
    return (place << 14 | scrambled).astype(np.uint16).view(np.int16)


def coded_sound(*microphones):
    """A sound for a `Microphone` of as many channels: every channel has a number of its own."""

    def sound(first_position, n):
        return np.stack([coded(number, first_position, n) for number in microphones], axis=1)

    return sound


def runs_of(samples):
    """Find all runs in (n,) int16, in order; what lies between them, or in no run, came from nowhere.

    A run is two whole words at least, for one may come about by chance. It takes in the parts of words around it as
    far as they fit; where two runs could have them, the earlier has.
    """
    microphone, offset = _words(np.asarray(samples))
    # Where a whole word of the same microphone and offset begins every four samples, it is one run.
    starts = np.flatnonzero(microphone != NOBODY)
    firsts = _first_of_runs(starts, microphone, offset)
    n_words = np.diff(np.append(firsts, len(starts)))
    firsts, n_words = starts[firsts[n_words > 1]].tolist(), n_words[n_words > 1].tolist()
    found = []
    for first, n, ceiling in zip(firsts, n_words, [*firsts, len(samples)][1:], strict=True):
        run = Run(first, WORD * n, int(microphone[first]), int(offset[first]) + first)
        found.append(_extended(run, samples, found[-1].at + found[-1].n if found else 0, ceiling))
    return _joined(found)


def foreign(samples, runs, microphone):
    """How many samples are not of a microphone."""
    return len(samples) - sum(run.n for run in runs if run.microphone == microphone)


def _sum(low, high, microphone):
    return _scramble(low, _scramble(high, microphone))


def _scramble(a, b):
    """Fourteen bits that depend on all bits of both, and not linearly: no mean of two words is a word."""
    mixed = ((a + 1) * 0x9E3B + b * 0x6F2D) & 0xFFFFFFFF
    return ((mixed ^ mixed >> 15) * 0x2C1B3C6D >> 17) & FOURTEEN_BITS


def _words(samples):
    """Microphone and offset of position to place, each (n,), where a whole word begins; elsewhere NOBODY."""
    raw = np.concatenate([samples.view(np.uint16).astype(np.int64), np.zeros(WORD - 1, np.int64)])
    at = [raw[k : k + len(samples)] for k in range(WORD)]
    low = at[0] & FOURTEEN_BITS
    high, microphone, total = ((at[k] & FOURTEEN_BITS) ^ _scramble(low, k) for k in (1, 2, 3))
    in_order = functools.reduce(np.logical_and, (at[k] >> 14 == k for k in range(WORD)))
    whole = in_order & (total == _sum(low, high, microphone))
    position = WORD * (high << 14 | low)
    return np.where(whole, microphone, NOBODY), position - np.arange(len(samples))


def _first_of_runs(starts, microphone, offset):
    """Indices into `starts` of whole words that do not follow on the one before."""
    before, after = starts[:-1], starts[1:]
    breaks = (after - before != WORD) | (microphone[before] != microphone[after]) | (offset[before] != offset[after])
    return np.flatnonzero(np.append(len(starts) > 0, breaks)[: len(starts)])


def _extended(run, samples, floor, ceiling):
    """With the parts of words around it, from `floor` up to `ceiling`."""
    head = samples[max(floor, run.at - WORD + 1) : run.at]
    head = head[max(0, len(head) - run.position) :]
    n_before = _n_equal(head[::-1], coded(run.microphone, run.position - len(head), len(head))[::-1])
    end = run.at + run.n
    tail = samples[end : min(end + WORD - 1, ceiling)]
    n_after = _n_equal(tail, coded(run.microphone, run.position + run.n, len(tail)))
    return Run(run.at - n_before, n_before + run.n + n_after, run.microphone, run.position - n_before)


def _n_equal(ours, theirs):
    """How many agree from the beginning."""
    differs = np.flatnonzero(ours != theirs)
    return int(differs[0]) if len(differs) else len(ours)


def _joined(runs):
    """Runs that follow on each other in place and position as one."""
    joined = []
    for run in runs:
        last = joined[-1] if joined else None
        if last and (last.at + last.n, last.position + last.n, last.microphone) == (
            run.at,
            run.position,
            run.microphone,
        ):
            joined[-1] = dataclasses.replace(last, n=last.n + run.n)
        else:
            joined.append(run)
    return joined

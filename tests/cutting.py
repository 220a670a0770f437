"""Any cutting of a signal into blocks, as a hypothesis strategy."""

import numpy as np
from hypothesis import strategies as st

RATES_HZ = (8000, 11025, 12800, 16000, 44100, 44101, 48000, 96000, 191999, 192000)


def cuts(length):
    """Places to cut `length` samples at, for `numpy.split`: any, many of them equal, or all alike."""
    anywhere = st.lists(st.integers(0, length), max_size=12).map(sorted)
    even = st.integers(max(1, length // 60), max(1, length)).map(lambda step: list(range(step, length, step)))
    crumbs = st.integers(0, length).map(lambda first: [min(length, first + i) for i in range(20)])
    return st.one_of(anywhere, even, crumbs)


def noise(length, seed=0, scale=0.3):
    return (scale * np.random.default_rng(seed).standard_normal(length)).astype(np.float32)

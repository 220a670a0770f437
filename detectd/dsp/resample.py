"""Bring many streams of one sample rate to the analysis rate: a zero-phase FIR as one matrix product.

Why so. A causal block of B input samples touches two consecutive blocks of g output samples when g outputs span the
filter. So each block of input, times one (B, 2 g) matrix, gives its share of this output block and of the next: an
overlap-add whose only state is g numbers and an unfinished block. The blocks of all streams are the rows of one
matrix, and BLAS does the rest at many times the speed of a polyphase loop per stream.

Where the ratio of the rates is awkward (44,101 Hz to 3,000 Hz) the matrix differs from block to block and recurs with
a period; rows of one phase are multiplied together. Nothing else changes.

The filter is a Kaiser-windowed sinc (Kaiser 1974; Oppenheim and Schafer, Discrete-Time Signal Processing, 7.5) that
passes the band and stops what would alias into it. Output sample m stands for time m / analysis rate of the segment:
the filter's delay is taken out, zeros stand before the segment's first sample and after its last.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

Samples = NDArray[np.float32]
Pieces = Sequence[NDArray[np.generic]]

STOP_BAND_DB = 101.0
"""Designed attenuation; 100 dB is promised, rounding takes the rest."""


_BOTH_SIDES_DB = 6.0
"""More where the rates are alike: there the ripples on both sides of the Nyquist frequency meet and add."""

_STEPS = 4096
"""Table steps a zero crossing of the sinc; a straight line between them is exact to 1e-7 of the peak."""

_MATRICES_BYTES = 1 << 25
"""Matrices kept of one plan; an awkward ratio with more makes them again and again, slowly, in bounded memory."""


class Plan:
    """The fixed part of a conversion between two rates; shared by all streams that need it.

    Attributes
    ----------
    outputs_per_block : int
        Output samples that one block of input completes.
    lead : int
        Output samples before time 0, produced first and thrown away.
    matrix : callable
        The matrix of a phase, made when it is first needed: awkward ratios have thousands.
    """

    def __init__(self, rate_hz: int, analysis_rate_hz: int, band_high_hz: float) -> None:
        common = math.gcd(rate_hz, analysis_rate_hz)
        self.up, self.down = analysis_rate_hz // common, rate_hz // common
        lower_hz = min(rate_hz, analysis_rate_hz)
        transition = (lower_hz - 2 * band_high_hz) / rate_hz
        stop_band_db = STOP_BAND_DB + (_BOTH_SIDES_DB if rate_hz < 2 * analysis_rate_hz else 0.0)
        half_width = (stop_band_db - 7.95) / (14.36 * transition) / 2 + 1
        # As small as causality allows: the last output of a block may reach no input behind it, rounding included.
        self.lead = math.ceil((half_width + 2) * self.up / self.down - 1)
        span = math.ceil(self.lead + half_width * self.up / self.down)
        # A multiple of `up` makes every block alike; else a block somewhat larger than needed may recur sooner.
        whole = math.ceil(span / self.up) * self.up
        near = range(span, span + span // 4 + 2)
        self.outputs_per_block = whole if whole <= 2 * span + 16 else max(near, key=lambda n: math.gcd(n, self.up))
        self.n_phases = self.up // math.gcd(self.outputs_per_block, self.up)
        self.block_samples = math.ceil(self.outputs_per_block * self.down / self.up)
        self._steps_a_sample = _STEPS * lower_hz / rate_hz
        self._filter = _kaiser_sinc(half_width, lower_hz / rate_hz, stop_band_db, self._steps_a_sample)
        size_bytes = self.block_samples * 2 * self.outputs_per_block * 4
        self.matrix = lru_cache(max(1, _MATRICES_BYTES // size_bytes))(self._matrix)

    def start_of(self, block: int) -> int:
        """First input sample of block `block`."""
        return block * self.outputs_per_block * self.down // self.up

    def _matrix(self, phase: int) -> Samples:
        """Shares of a block's input in its outputs and in the next block's; (block_samples, 2 * outputs_per_block)."""
        outputs = np.arange(2 * self.outputs_per_block)
        first, after = self.start_of(phase), self.start_of(phase + 1)
        centre = (phase * self.outputs_per_block + outputs - self.lead) * (self.down / self.up)
        place = np.abs(centre - np.arange(first, after)[:, None]) * self._steps_a_sample
        below = np.minimum(place.astype(np.intp), len(self._filter) - 2)
        lower, upper = self._filter[below], self._filter[below + 1]
        matrix = np.zeros((self.block_samples, len(outputs)), np.float32)
        matrix[: after - first] = lower + (upper - lower) * np.minimum(place - below, 1)
        matrix.setflags(write=False)
        return matrix


def _kaiser_sinc(half_width: float, cutoff: float, stop_band_db: float, steps_a_sample: float) -> NDArray[np.float64]:
    """Half of the symmetric filter, from its middle to a 0 behind its end, `steps_a_sample` values a sample."""
    beta = 0.1102 * (stop_band_db - 8.7)
    distance = np.arange(math.ceil(half_width * steps_a_sample) + 1) / steps_a_sample
    inside = np.sqrt(np.clip(1 - (distance / half_width) ** 2, 0, None))
    weights: NDArray[np.float64] = cutoff * np.sinc(cutoff * distance) * special.i0(beta * inside) / special.i0(beta)
    return np.append(weights[:-1], [0.0, 0.0])


@lru_cache(maxsize=16)
def _plan(rate_hz: int, analysis_rate_hz: int, band_high_hz: float) -> Plan:
    return Plan(rate_hz, analysis_rate_hz, band_high_hz)


class _Slot:
    """One stream: its unfinished input block and its half-summed output block."""

    __slots__ = ("block", "carry", "n_in", "n_out", "n_tail", "skip", "tail")

    def __init__(self, plan: Plan | None) -> None:
        self.block = self.n_in = self.n_out = self.n_tail = 0
        self.tail = np.empty(plan.block_samples if plan else 0, np.float32)
        self.carry = np.zeros(plan.outputs_per_block if plan else 0, np.float32)
        self.skip = plan.lead if plan else 0

    def blocks_with(self, plan: Plan, n_new: int) -> int:
        """Blocks that are whole once `n_new` more samples are here."""
        have = plan.start_of(self.block) + self.n_tail + n_new
        # The largest b with start_of(b) <= have: start_of floors, so this quotient is exact.
        return ((have + 1) * plan.up - 1) // (plan.outputs_per_block * plan.down) - self.block

    def fill(self, out: Samples, pieces: Pieces) -> None:
        """Write the tail and the new samples to `out` until it is full; what is left becomes the tail."""
        if not len(out):
            self._keep(pieces)
            return
        out[: self.n_tail] = self.tail[: self.n_tail]
        position, self.n_tail = self.n_tail, 0
        for i, piece in enumerate(pieces):
            room = len(out) - position
            if len(piece) > room:
                out[position:] = piece[:room]
                self._keep([piece[room:], *pieces[i + 1 :]])
                return
            out[position : position + len(piece)] = piece
            position += len(piece)

    def _keep(self, pieces: Pieces) -> None:
        for piece in pieces:
            self.tail[self.n_tail : self.n_tail + len(piece)] = piece
            self.n_tail += len(piece)


class Resampler:
    """State of many streams of one rate; slots are numbered by the caller.

    Parameters
    ----------
    rate_hz, analysis_rate_hz : int
        Rates before and after, in Hz.
    band_high_hz : float
        Everything up to here is kept to 1e-4, everything that would alias below it is stopped by 100 dB.
    """

    def __init__(self, rate_hz: int, analysis_rate_hz: int, band_high_hz: float) -> None:
        self._plan = _plan(rate_hz, analysis_rate_hz, band_high_hz) if rate_hz != analysis_rate_hz else None
        self._rates = rate_hz, analysis_rate_hz
        self._slots: dict[int, _Slot] = {}

    def add(self, slot: int) -> None:
        """Begin a stream at its first sample."""
        self._slots[slot] = _Slot(self._plan)

    reset = add

    def remove(self, slot: int) -> None:
        """Forget a stream."""
        del self._slots[slot]

    def push(self, batch: Sequence[tuple[int, Pieces]]) -> list[Samples]:
        """Convert what is new of several streams.

        Parameters
        ----------
        batch : sequence of (slot, pieces)
            Each slot at most once; pieces are consecutive 1-D arrays of any real type, not scaled.

        Returns
        -------
        list of float32 arrays
            The new samples at the analysis rate, one array for each entry of `batch`.
        """
        for slot, pieces in batch:
            self._slots[slot].n_in += sum(map(len, pieces))
        if self._plan is None:
            return [_joined(pieces) for _, pieces in batch]
        return self._convert(self._plan, [(self._slots[slot], pieces) for slot, pieces in batch])

    def flush(self, slot: int) -> Samples:
        """End a stream's segment: the samples that were waiting for the filter's other half. `reset` it afterwards."""
        state, plan = self._slots[slot], self._plan
        if plan is None:
            return np.empty(0, np.float32)
        due = -(-state.n_in * plan.up // plan.down) - state.n_out
        silence = np.zeros(2 * plan.block_samples, np.float32)
        return self._convert(plan, [(state, [silence])])[0][:due]

    def _convert(self, plan: Plan, batch: Sequence[tuple[_Slot, Pieces]]) -> list[Samples]:
        counts = [state.blocks_with(plan, sum(map(len, pieces))) for state, pieces in batch]
        n_rows = sum(counts)
        if plan.n_phases == 1:
            flat = np.empty(n_rows * plan.block_samples, np.float32)
            position = 0
            for (state, pieces), count in zip(batch, counts, strict=True):
                end = position + count * plan.block_samples
                state.fill(flat[position:end], pieces)
                position = end
            shares = flat.reshape(n_rows, plan.block_samples) @ plan.matrix(0)
        else:
            shares = self._awkward(plan, batch, counts)
        return _overlap_add(plan, batch, counts, shares)

    @staticmethod
    def _awkward(plan: Plan, batch: Sequence[tuple[_Slot, Pieces]], counts: list[int]) -> Samples:
        """Products where blocks differ in length and matrix: gather rows, then one product a phase."""
        rows = np.zeros((sum(counts), plan.block_samples), np.float32)
        phases = np.empty(len(rows), np.intp)
        row = 0
        for (state, pieces), count in zip(batch, counts, strict=True):
            edges = [plan.start_of(state.block + i) for i in range(count + 1)]
            flat = np.empty(edges[-1] - edges[0], np.float32)
            state.fill(flat, pieces)
            for i in range(count):
                piece = flat[edges[i] - edges[0] : edges[i + 1] - edges[0]]
                rows[row, : len(piece)] = piece
                phases[row] = (state.block + i) % plan.n_phases
                row += 1
        shares = np.empty((len(rows), 2 * plan.outputs_per_block), np.float32)
        for phase in np.unique(phases).tolist():
            mine = phases == phase
            shares[mine] = rows[mine] @ plan.matrix(phase)
        return shares


def _overlap_add(
    plan: Plan, batch: Sequence[tuple[_Slot, object]], counts: list[int], shares: Samples
) -> list[Samples]:
    """Sum each block's own share with what the block before left for it."""
    g = plan.outputs_per_block
    summed = shares[:, :g].copy()
    summed[1:] += shares[:-1, g:]
    outputs: list[Samples] = []
    row = 0
    for (state, _), count in zip(batch, counts, strict=True):
        if not count:
            outputs.append(np.empty(0, np.float32))
            continue
        # The row before the stream's first is another stream's, so that one is summed again.
        np.add(shares[row, :g], state.carry, out=summed[row])
        state.carry[:] = shares[row + count - 1, g:]
        out = summed[row : row + count].reshape(-1)[state.skip :]
        state.skip = max(0, state.skip - count * g)
        state.block += count
        state.n_out += len(out)
        outputs.append(out)
        row += count
    return outputs


def _joined(pieces: Pieces) -> Samples:
    out = np.empty(sum(map(len, pieces)), np.float32)
    position = 0
    for piece in pieces:
        out[position : position + len(piece)] = piece
        position += len(piece)
    return out

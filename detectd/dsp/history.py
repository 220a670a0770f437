"""The last rows of many streams, each contiguous in memory, so that any recent stretch is one slice."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray


class History:
    """Per slot, an append-only sequence of float32 rows of which at least the last `keep` can be read.

    Rows lie one after another; when a slot's space is used up its last `keep` rows move to the front. That costs a
    copy now and then and buys windows that need no joining.

    Parameters
    ----------
    keep : int
        Rows that stay readable however much is appended.
    room : int
        Rows that can be appended before the kept ones have to move.
    row_shape : tuple of int
        Shape of one row.
    """

    def __init__(self, keep: int, room: int, row_shape: tuple[int, ...] = ()) -> None:
        self._keep = keep
        self._capacity = keep + room
        self._row_shape = row_shape
        self._rows: NDArray[np.float32] = np.empty((0, self._capacity, *row_shape), np.float32)
        self._first: list[int] = []
        self._fill: list[int] = []

    def ensure(self, slot: int) -> None:
        """Make room for a slot number."""
        missing = slot + 1 - len(self._fill)
        if missing <= 0:
            return
        self._first += [0] * missing
        self._fill += [0] * missing
        if len(self._rows) < len(self._fill):
            # What is never written takes no memory; copying often would hold up the engine when many streams come.
            grown = np.empty((max(4, 2 * len(self._fill)), self._capacity, *self._row_shape), np.float32)
            grown[: len(self._rows)] = self._rows
            self._rows = grown

    def reset(self, slot: int, first: int = 0) -> None:
        """Begin again at a row number."""
        self._first[slot], self._fill[slot] = first, 0

    def extend(self, keep: int) -> None:
        """Keep at least so many rows from now on; what is gone does not come back."""
        if keep <= self._keep:
            return
        grown = np.empty((len(self._rows), self._capacity + keep - self._keep, *self._row_shape), np.float32)
        grown[:, : self._capacity] = self._rows
        self._rows = grown
        self._capacity += keep - self._keep
        self._keep = keep

    def first(self, slot: int) -> int:
        """Number of the oldest row that can be read."""
        return self._first[slot]

    def end(self, slot: int) -> int:
        """Rows appended since the reset; the number of the next row."""
        return self._first[slot] + self._fill[slot]

    def append(self, slot: int, rows: NDArray[np.float32]) -> None:
        """Add rows, shape ``(n, *row_shape)``; with n above `keep` the oldest of them are not kept."""
        if self._fill[slot] + len(rows) > self._capacity:
            self._make_room(slot, len(rows))
            rows = rows[-min(len(rows), self._capacity) :]
        fill = self._fill[slot]
        self._rows[slot, fill : fill + len(rows)] = rows
        self._fill[slot] = fill + len(rows)

    def take(self, slots: NDArray[np.intp], starts: NDArray[np.intp], length: int) -> NDArray[np.float32]:
        """Copy stretches of equal length.

        Parameters
        ----------
        slots, starts : int arrays, shape (n,)
            Slot and row number, counted since the reset, of each stretch.
        length : int

        Returns
        -------
        float32 array, shape (n, length, *row_shape)
        """
        first = np.array([self._first[slot] for slot in slots.tolist()], np.intp)
        position = slots * self._capacity + (starts - first)
        size = math.prod(self._row_shape)
        flat = self._rows.reshape(-1)
        stretches = as_strided(flat, (len(flat) // size - length + 1, length * size), (4 * size, 4), writeable=False)
        return stretches[position].reshape(len(slots), length, *self._row_shape)

    def _make_room(self, slot: int, n_new: int) -> None:
        kept = max(0, min(self._keep, self._capacity - n_new, self._fill[slot]))
        fill = self._fill[slot]
        self._rows[slot, :kept] = self._rows[slot, fill - kept : fill]
        self._first[slot] += fill - kept + max(0, n_new - self._capacity)
        self._fill[slot] = kept

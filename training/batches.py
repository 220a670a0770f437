"""Batches of windows: both classes equally often, and what may be changed in a window without changing its class."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data import Windows

MIN_HALF_EPOCH, MAX_HALF_EPOCH = 250, 1000
"""Windows of each class in an epoch: a small set is gone through more than once (the paper's epochs had 500 windows),
of a large one each epoch sees a part."""


class Batches:
    """Epochs of shuffled batches that hold both classes equally.

    Parameters
    ----------
    batch_size : int
    bootstrap : bool
        Draw the frames of a window anew, with replacement: the lines of a steady tone are the same in every frame, the
        noise is not. Worth up to 2 dB on still tones; destroys what is known by its modulation.
    shift : bool
        Move every other negative along frequency by a random number of bins, around the ends: what is not the target
        is not the target elsewhere either, and the network cannot learn a few negatives by heart. Half of them stay:
        moving all helps as much on synthetic tones and teaches nothing but the seam on real recordings.
    """

    def __init__(self, windows: Windows, batch_size: int, *, bootstrap: bool, shift: bool, seed: int) -> None:
        self._pictures = torch.from_numpy(windows.pictures)
        self._classes = torch.from_numpy(windows.positive.astype(np.float32))
        self._members = [np.flatnonzero(windows.positive), np.flatnonzero(~windows.positive)]
        self._half = min(max(MIN_HALF_EPOCH, *map(len, self._members)), MAX_HALF_EPOCH)
        self._batch_size = batch_size
        self._bootstrap, self._shift = bootstrap, shift
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return math.ceil(2 * self._half / self._batch_size)

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures (B, T, F) and classes (B,), 1 for the target."""
        # Positives and negatives alternate, so every batch holds as many of both, but for an odd one.
        order = np.stack([self._drawn(members) for members in self._members], axis=1).ravel()
        for first in range(0, len(order), self._batch_size):
            rows = torch.from_numpy(order[first : first + self._batch_size])
            pictures, classes = self._pictures[rows], self._classes[rows]
            if self._bootstrap:
                pictures = self._resampled(pictures)
            if self._shift:
                pictures = self._shifted(pictures, classes)
            yield pictures, classes

    def _drawn(self, members: NDArray[np.intp]) -> NDArray[np.intp]:
        rounds = -(-self._half // len(members))
        return np.concatenate([self._rng.permutation(members) for _ in range(rounds)])[: self._half]

    def _resampled(self, pictures: Tensor) -> Tensor:
        n_frames = pictures.shape[1]
        frames = torch.from_numpy(self._rng.integers(n_frames, size=pictures.shape[:2]))
        return torch.gather(pictures, 1, frames[:, :, None].expand_as(pictures))

    def _shifted(self, pictures: Tensor, classes: Tensor) -> Tensor:
        moved = torch.roll(pictures, int(self._rng.integers(pictures.shape[2])), 2)
        stays = (classes > 0) | torch.from_numpy(self._rng.random(len(classes)) < 0.5)
        return torch.where(stays[:, None, None], pictures, moved)

"""Mean and spread removed from each window, inside the graph: a score cannot depend on level."""

import torch
from torch import Tensor, nn

_TINY = 1e-12
"""Keeps digital silence finite (it becomes 0 everywhere); 100 dB below the quietest amplitude of 24-bit audio."""


class NormaliseWindow(nn.Module):
    """(batch, n_frames, n_bins) -> the same shape, each window with mean 0 and standard deviation 1."""

    def forward(self, windows: Tensor) -> Tensor:
        # Spread of the amplitudes in units of their mean: squares of very quiet windows would leave float32's range.
        relative = windows / (windows.mean((1, 2), keepdim=True) + _TINY)
        centred = relative - relative.mean((1, 2), keepdim=True)
        return centred / (torch.sqrt((centred * centred).mean((1, 2), keepdim=True)) + 1e-6)

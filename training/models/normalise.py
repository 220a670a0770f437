"""Mean and spread removed from each window, inside the graph: a score cannot depend on level."""

import torch
from torch import Tensor, nn

_TINY = 1e-12
"""Keeps digital silence finite (it becomes 0 everywhere); 100 dB below the quietest amplitude of 24-bit audio."""


_LOG_FLOOR = 1e-3
"""Of the window's mean amplitude: 60 dB below it the logarithm ends."""


class NormaliseWindow(nn.Module):
    """(batch, n_frames, n_bins) -> the same shape, each window with mean 0 and standard deviation 1.

    Parameters
    ----------
    logarithm : bool
        Take the logarithm of the amplitudes first. Still tones in even noise are told best by the amplitude itself;
        where the background falls by tens of dB along the band, only its loudest bins would count.
    """

    def __init__(self, logarithm: bool) -> None:
        super().__init__()
        self.logarithm = logarithm

    def forward(self, windows: Tensor) -> Tensor:
        # In units of the mean: squares of very quiet windows would leave float32's range.
        values = windows / (windows.mean((1, 2), keepdim=True) + _TINY)
        if self.logarithm:
            values = torch.log(values + _LOG_FLOOR)
        centred = values - values.mean((1, 2), keepdim=True)
        return centred / (torch.sqrt((centred * centred).mean((1, 2), keepdim=True)) + 1e-6)

"""LeNet-5, the baseline (LeCun et al.: Gradient-based learning applied to document recognition, Proc. IEEE, 1998).

Two 5 x 5 convolutions of 6 and 16 maps, each followed by averaging over 2 x 2, then dense layers of 120 and 84, tanh
throughout. It differs from its source in what the pictures ask for: they are 7 or 15 frames by a few hundred bins
instead of 32 x 32, so both convolutions are padded in time; averaging has no trained gain and bias; every map of the
second convolution sees all six of the first; the output is one logit instead of ten radial basis functions; and each
window is normalised in the graph.
"""

from torch import Tensor, nn

from training.models.normalise import NormaliseWindow

MAPS = (6, 16)
KERNEL = 5
DENSE = (120, 84)


class LeNet(nn.Module):
    """Windows (B, n_frames, n_bins) of at least 4 frames and 16 bins to logits (B,)."""

    def __init__(self, n_frames: int, n_bins: int, *, logarithm: bool) -> None:
        super().__init__()
        self.normalise = NormaliseWindow(logarithm)
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, MAPS[0], KERNEL, padding=KERNEL // 2),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(MAPS[0], MAPS[1], KERNEL, padding=(KERNEL // 2, 0)),
            nn.Tanh(),
            nn.AvgPool2d(2),
        )
        width = MAPS[1] * (n_frames // 2 // 2) * ((n_bins // 2 - KERNEL + 1) // 2)
        self.dense = nn.Sequential(
            nn.Linear(width, DENSE[0]), nn.Tanh(), nn.Linear(DENSE[0], DENSE[1]), nn.Tanh(), nn.Linear(DENSE[1], 1)
        )

    def forward(self, windows: Tensor) -> Tensor:
        picture = self.normalise(windows).unsqueeze(1)  # (B, T, F) -> (B, 1, T, F)
        maps = self.convolutions(picture)  # -> (B, 16, T / 4, about F / 4)
        logits: Tensor = self.dense(maps.flatten(1)).squeeze(1)  # -> (B,)
        return logits

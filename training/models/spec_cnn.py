"""Spec-CNN: a small network for pictures of a few steady lines.

After "Audio Classification of Low Feature Spectrograms Utilizing Convolutional Neural Networks": at most three
convolutions, kernels and strides long in time and short in frequency, three dense layers. A steady tone is the same in
every frame, so time may be taken in large steps; where it lies in frequency is what it is known by, so frequency is
stepped over narrowly and its position is kept to the dense layers.

Two convolutions measured as good as three. Sixteen channels fill the vector registers that ONNX Runtime uses.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from training.models.normalise import NormaliseWindow


@dataclass(frozen=True, slots=True)
class SpecCnnConfig:
    """Kernels and strides are (time, frequency)."""

    channels: int = 16
    kernels: tuple[tuple[int, int], ...] = ((4, 3), (2, 1))
    strides: tuple[tuple[int, int], ...] = ((3, 2), (2, 1))
    dense: tuple[int, int] = (64, 32)


class SpecCnn(nn.Module):
    """Windows (B, n_frames, n_bins) of at least 7 frames and 3 bins to logits (B,)."""

    def __init__(self, n_frames: int, n_bins: int, *, logarithm: bool, config: SpecCnnConfig | None = None) -> None:
        super().__init__()
        config = config or SpecCnnConfig()
        self.normalise = NormaliseWindow(logarithm)
        layers: list[nn.Module] = []
        inputs = 1
        for kernel, stride in zip(config.kernels, config.strides, strict=True):
            layers += [nn.Conv2d(inputs, config.channels, kernel, stride), nn.ReLU()]
            n_frames, n_bins = (n_frames - kernel[0]) // stride[0] + 1, (n_bins - kernel[1]) // stride[1] + 1
            inputs = config.channels
        self.convolutions = nn.Sequential(*layers)
        wide, narrow = config.dense
        self.dense = nn.Sequential(
            nn.Linear(config.channels * n_bins, wide),
            nn.ReLU(),
            nn.Linear(wide, narrow),
            nn.ReLU(),
            nn.Linear(narrow, 1),
        )

    def forward(self, windows: Tensor) -> Tensor:
        picture = self.normalise(windows).unsqueeze(1)  # (B, T, F) -> (B, 1, T, F)
        maps = self.convolutions(picture)  # -> (B, C, T', F')
        over_time = maps.mean(2)  # -> (B, C, F')
        logits: Tensor = self.dense(over_time.flatten(1)).squeeze(1)  # -> (B,)
        return logits

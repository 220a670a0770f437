"""The networks that can be trained, by name. A network maps (batch, n_frames, n_bins) to logits (batch,)."""

from typing import Protocol

from torch import nn

from training.models.lenet import LeNet
from training.models.spec_cnn import SpecCnn


class Backbone(Protocol):
    """Makes a network for windows of a shape, that sees amplitudes or their logarithm."""

    def __call__(self, n_frames: int, n_bins: int, *, logarithm: bool) -> nn.Module: ...


BACKBONES: dict[str, Backbone] = {"spec-cnn": SpecCnn, "lenet": LeNet}

AUTO = {"binary": "spec-cnn"}
"""What `--backbone auto` stands for in each regime."""

"""The networks that can be trained, by name. A network maps (batch, n_frames, n_bins) to logits (batch,)."""

from collections.abc import Callable

from torch import nn

from training.models.lenet import LeNet
from training.models.spec_cnn import SpecCnn

BACKBONES: dict[str, Callable[[int, int], nn.Module]] = {"spec-cnn": SpecCnn, "lenet": LeNet}
"""Name to a constructor of (n_frames, n_bins)."""

AUTO = {"binary": "spec-cnn"}
"""What `--backbone auto` stands for in each regime."""

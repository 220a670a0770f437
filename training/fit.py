"""The training loop: one for every network that gives a logit per window."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from detectd.errors import DetectdError
from training.batches import Batches
from training.data import Windows
from training.interrupt import Stop
from training.progress import Progress

_EVALUATION_BATCH = 256


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How to train. Batch and epochs are the paper's; the rate is the best of .0003, .001, .003 for both networks."""

    epochs: int = 20
    batch_size: int = 20
    learning_rate: float = 3e-3
    seed: int = 0
    bootstrap: bool = True
    shift: bool = True

    @property
    def patience(self) -> int:
        """Epochs without a better held-out loss after which training ends."""
        return max(3, self.epochs // 2)


@dataclass(frozen=True, slots=True)
class FitResult:
    """Which epoch was kept, how many were run, its held-out loss, and whether the user cut it short."""

    best_epoch: int
    epochs_run: int
    held_out_loss: float
    interrupted: bool


def fit_network(network: nn.Module, train: Windows, held_out: Windows, options: FitOptions, stop: Stop) -> FitResult:
    """Train `network` in place and leave it with the weights of its best epoch by held-out loss.

    Raises
    ------
    DetectdError
        If no epoch gave a finite loss.
    """
    batches = Batches(train, options.batch_size, bootstrap=options.bootstrap, shift=options.shift, seed=options.seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=0.0)
    n_steps = options.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.learning_rate, total_steps=max(n_steps, 2))
    progress = Progress("training", n_steps)
    best_loss, best_epoch, best_weights, epoch, step = float("inf"), 0, dict[str, Tensor](), 0, 0
    while epoch < options.epochs and epoch - best_epoch < options.patience and not stop.requested:
        epoch += 1
        network.train()
        for pictures, classes in batches.epoch():
            loss = binary_cross_entropy_with_logits(network(pictures), classes)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            step += 1
            progress.update(step, f"epoch {epoch} of {options.epochs}, best held-out loss {best_loss:.4f}")
            if stop.requested:
                break
        current = _balanced_loss(score_windows(network, held_out.pictures), held_out.positive)
        if current < best_loss:
            best_loss, best_epoch = current, epoch
            best_weights = {name: value.clone() for name, value in network.state_dict().items()}
    if not best_weights:
        raise DetectdError("training gave no finite loss; look for extreme values in the clips")
    network.load_state_dict(best_weights)
    network.eval()
    progress.finish(f"{epoch} epochs, best is number {best_epoch}{', stopped by you' if stop.requested else ''}")
    return FitResult(best_epoch, epoch, best_loss, stop.requested)


def score_windows(network: nn.Module, pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of windows (n, n_frames, n_bins), shape (n,)."""
    network.eval()
    with torch.inference_mode():
        parts = [
            network(torch.from_numpy(pictures[first : first + _EVALUATION_BATCH])).numpy()
            for first in range(0, len(pictures), _EVALUATION_BATCH)
        ]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def _balanced_loss(logits: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """Cross-entropy, each class weighing the same."""
    losses = np.logaddexp(0, np.where(positive, -logits, logits).astype(np.float64))
    return float(losses[positive].mean() + losses[~positive].mean()) / 2

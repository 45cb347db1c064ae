"""An exponential moving average of the weights that train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers.training_utils import EMAModel
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn


class MovingAverage(Callback):
    """Keep diffusers' EMAModel of `parameters`; it takes their place when training has ended.

    After update t the average is `d average + (1 - d) weights` with `d = min(decay, t / (t + 9))`,
    and d = 0 at t = 1. This warm-up keeps the base model's share small in a short training: a fixed
    decay of 0.9999 would leave 98 % of it after 200 updates.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.ema = EMAModel(self.parameters, decay=decay)
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the average to the weights' device."""
        self.ema.to(pl_module.device)
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average once per optimizer step, not once per micro-batch."""
        if trainer.global_step != self.step:
            self.step = trainer.global_step
            self.ema.step(self.parameters)

    def apply(self) -> None:
        """Overwrite the weights with the average, after the last checkpoint was written."""
        self.ema.copy_to(self.parameters)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Put the average in the weights' place while the context lasts, for samples and scores."""
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        try:
            yield
        finally:
            self.ema.restore(self.parameters)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and its number of updates, for a checkpoint."""
        return self.ema.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the average of a checkpoint."""
        self.ema.load_state_dict(state_dict)

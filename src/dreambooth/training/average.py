"""An exponential moving average of the weights that train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.training_utils import EMAModel
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from dreambooth.model.trainable import trainable_parameters


class MovingAverage(Callback):
    """Keep diffusers' EMAModel of what trains; it replaces the weights at the end.

    After step t the average moves by `1 - min(decay, t / (t + 9))` of the way to the weights: the
    warm-up keeps a short training from being mostly the base model.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.ema: EMAModel | None = None
        self.saved: dict = {}
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at the weights, or at the average that a checkpoint holds."""
        self._begin(pl_module)
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_) -> None:
        """Move the average once a step, not once a micro-batch."""
        if trainer.global_step != self.step:
            self.step = trainer.global_step
            self._begin(pl_module).step(_parameters(pl_module))

    def apply(self, module: LightningModule) -> None:
        """Put the average in the weights' place, once the last checkpoint is written."""
        self._begin(module).copy_to(_parameters(module))

    @contextmanager
    def swapped_in(self, module: LightningModule) -> Iterator[None]:
        """Use the average for as long as the context lasts: for samples and scores."""
        ema, parameters = self._begin(module), _parameters(module)
        ema.store(parameters)
        ema.copy_to(parameters)
        try:
            yield
        finally:
            ema.restore(parameters)

    def state_dict(self) -> dict:
        """Return what a checkpoint keeps."""
        return self.ema.state_dict() if self.ema is not None else self.saved

    def load_state_dict(self, state_dict: dict) -> None:
        """Take what a checkpoint kept; it is used from the start of training on."""
        self.saved = state_dict

    def _begin(self, module: LightningModule) -> EMAModel:
        if self.ema is None:
            self.ema = EMAModel(_parameters(module), decay=self.decay)
            if self.saved:
                self.ema.load_state_dict(self.saved)
            self.ema.to(module.device)
        return self.ema


def _parameters(module: LightningModule) -> list[nn.Parameter]:
    return list(trainable_parameters(module.model).values())

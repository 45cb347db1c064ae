"""What ends a training early: a loss that is not finite, or a signal."""

from __future__ import annotations

import math
import signal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from dreambooth.errors import UserError
from dreambooth.model.trainable import trainable_parameters

_FIX = "lower lr or use precision 32-true; the last good checkpoint is kept"


class StopOnNonFinite(Callback):
    """End the run at a NaN or infinite loss, naming the step and the files of its batch.

    Losses are looked at every `every_n_steps` micro-steps, because looking waits for the device,
    at each on a CPU, and always before a checkpoint is written, so that the last good one is kept.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.pending: list[tuple[int, list[str], Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at every loss on a CPU, where looking costs nothing."""
        if pl_module.device.type == "cpu":
            self.every_n_steps = 1

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Remember the loss; look at those remembered now and then."""
        self.pending.append((trainer.global_step, batch["names"], outputs["loss"].detach()))
        if len(self.pending) >= self.every_n_steps:
            self.check(trainer)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint) -> None:
        """Never write a checkpoint after a loss that was not finite, nor one of such weights.

        Raises:
            UserError: as `check`; or the loss was finite and its gradient was not.
        """
        self.check(trainer)
        weights = trainable_parameters(pl_module.model).values()
        if not bool(torch.stack([w.detach().isfinite().all() for w in weights]).all()):
            raise UserError(f"The weights are not finite after step {trainer.global_step}: {_FIX}.")

    def check(self, trainer: Trainer) -> None:
        """Look at the remembered losses, of every rank.

        Raises:
            UserError: one of them is not finite.
        """
        steps, names, losses = zip(*self.pending, strict=True) if self.pending else ((), (), ())
        values = torch.stack(losses).tolist() if losses else []
        self.pending = []
        seen = list(zip(steps, names, values, strict=True))
        if trainer.world_size > 1:
            parts: list = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, seen)
            seen = [entry for part in parts for entry in part]
        bad = [entry for entry in seen if not math.isfinite(entry[2])]
        if bad:
            step, _, value = min(bad)
            files = ", ".join(sorted({n for at, names, _ in bad if at == step for n in names}))
            raise UserError(f"The loss became {value} at step {step} on {files}: {_FIX}.")


class StopAtStepBoundary(Callback):
    """End training at SIGINT or SIGTERM after the step in flight; a checkpoint is then written.

    Make it before the trainer runs and call `give_back` after. It is the first of the callbacks, so
    that a signal does not interrupt what the others draw before the first step.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the two signals, also from the trainer; a second Ctrl-C acts at once."""
        self.step = trainer.global_step
        for number in self.before:
            signal.signal(number, self._receive)

    def _receive(self, number: int, _) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_) -> None:
        """Stop once an optimizer step is whole, on every rank at the same one."""
        whole, self.step = trainer.global_step != self.step, trainer.global_step
        if not whole:
            return
        if trainer.world_size > 1:
            number = torch.tensor(self.received or 0, device=pl_module.device)
            number = trainer.strategy.reduce(number, reduce_op="max")
            self.received = int(number) or None
        trainer.should_stop = trainer.should_stop or self.received is not None

    def give_back(self) -> None:
        """Restore the signals' earlier handlers, however training ended."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

"""What happens around the training steps: samples, stops, averages, costs."""

from __future__ import annotations

import math
import resource
import signal
import time
from collections.abc import Callable

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from torch import Tensor

from dreambooth.errors import UserError

_MEND = "lower lr or use precision 32-true; the last good checkpoint is kept"


class Progress(RichProgressBar):
    """Lightning's bar, over optimizer steps that belong to no epoch."""

    shown: dict = {}
    due = 0.0

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Advances once a step, not once a micro-batch."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict:
        """Both losses, images a second and memory; no version number.

        Read twice a second at most, because reading them waits for the device.
        """
        if time.monotonic() >= self.due:
            items = super().get_metrics(trainer, pl_module)
            self.shown = {k.removeprefix("loss/"): v for k, v in items.items() if k != "v_num"}
            self.due = time.monotonic() + 0.5
        return self.shown


class EveryNSteps(Callback):
    """Calls `action(trainer, module)` before the first step and every n optimizer steps.

    The action must draw no random number from a global generator, or it would change training.
    """

    def __init__(self, every_n_steps: int, action: Callable[[Trainer, LightningModule], None]):
        self.every_n_steps = every_n_steps
        self.action = action
        self.done = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Step 0 shows the model before training; a resumed run does not repeat its step."""
        if trainer.global_step == 0:
            self._act(trainer, pl_module)
        self.done = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_) -> None:
        """Acts once a step, not once a micro-batch."""
        step = trainer.global_step
        if step != self.done and step % self.every_n_steps == 0:
            self._act(trainer, pl_module)
            self.done = step

    def _act(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            with torch.no_grad():
                self.action(trainer, module)
        trainer.strategy.barrier()


class StopOnNonFinite(Callback):
    """Ends the run at a NaN or infinite loss, naming the step and the files of its batch.

    Losses are looked at every `every_n_steps` micro-steps, because looking waits for the device,
    at each on a CPU, and always before a checkpoint is written, so that the last good one is kept.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.pending: list[tuple[int, list[str], Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The module is on its device by now."""
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
        weights = pl_module.weights.parameters().values()
        if not bool(torch.stack([w.detach().isfinite().all() for w in weights]).all()):
            raise UserError(
                f"The weights are not finite after step {trainer.global_step}: {_MEND}."
            )

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
            raise UserError(f"The loss became {value} at step {step} on {files}: {_MEND}.")


class StopAtStepBoundary(Callback):
    """SIGINT and SIGTERM end training after the step in flight; a checkpoint is then written.

    Make it before the trainer runs and `give_back` after. It stands first among the callbacks, so
    that what the others draw before the first step is not broken off.
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
        """The signals' own handlers again, however training ended."""
        for number, handler in self.before.items():
            signal.signal(number, handler)


class Cost(Callback):
    """Logs images a second and memory in use, and keeps the run's own sums."""

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step = images_per_step  # instance and class images of an optimizer step
        self.seconds = 0.0
        self.steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock after setting up."""
        self.started, self.first = time.monotonic(), trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_) -> None:
        """Rates since training began, sampling included."""
        self.seconds = time.monotonic() - self.started
        self.steps = trainer.global_step - self.first
        rate = self.steps * self.images_per_step / self.seconds
        pl_module.log("images_per_second", rate, prog_bar=True, batch_size=1)
        pl_module.log("memory_gib", peak_memory_gib(), prog_bar=True, batch_size=1)


def peak_memory_gib() -> float:
    """Peak GiB so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux


class ExponentialAverage(Callback):
    """Keeps an exponential moving average of what trains; it replaces the weights at the end."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at the weights, unless a checkpoint brought an average."""
        parameters = pl_module.weights.parameters()
        if not self.average:
            self.average = {name: p.detach().clone() for name, p in parameters.items()}
        self.average = {name: a.to(parameters[name].device) for name, a in self.average.items()}
        self.step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_) -> None:
        """average = decay x average + (1 - decay) x weights, once a step."""
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        parameters = pl_module.weights.parameters()
        for name, average in self.average.items():
            average.lerp_(parameters[name].detach(), 1 - self.decay)

    @torch.no_grad()
    def apply(self, module: LightningModule) -> None:
        """Put the average in the weights' place, once the last checkpoint is written."""
        for name, parameter in module.weights.parameters().items():
            parameter.copy_(self.average[name])

    def state_dict(self) -> dict:
        """Saved in the checkpoint."""
        return {"average": self.average}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restored before training starts."""
        self.average = state_dict["average"]

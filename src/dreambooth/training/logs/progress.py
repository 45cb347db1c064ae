"""What a user sees while a phase trains: the bar, its rates, and actions every n steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from dreambooth.sampling.progress import progress_bar
from dreambooth.training.logs.memory import peak_memory_gib
from dreambooth.training.sharding import Sharded


class TrainingBar(Callback):
    """Show a phase's optimizer steps, the time left, its losses and rates, in one line.

    Args:
        has_prior: whether the loss has a prior term.
    """

    def __init__(self, has_prior: bool) -> None:
        self.losses = ("instance", "prior") if has_prior else ("instance",)
        self.due = 0.0  # when to read the numbers again
        self.note = ""
        self.bar = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin where the phase does, which a resumed run has trained in part."""
        title = "Training" if trainer.is_global_zero else ""
        bar = progress_bar(title, trainer.max_steps, trainer.global_step)
        self.advance = self.bar.enter_context(bar)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance once per optimizer step, not once per micro-batch."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.advance(1, lambda: self._numbers(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        self.bar.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove the bar, so that the error is the last thing on the screen."""
        self.bar.close()

    def _numbers(self, trainer: Trainer) -> str:
        """Write losses, images per second and memory: `instance .841 prior .662 25/s 1.1 GiB`.

        They are read at most twice a second, because reading them waits for the device.
        """
        if time.monotonic() >= self.due:
            values = trainer.progress_bar_metrics
            losses = [f"{name} {values[f'loss/{name}']:.3f}" for name in self.losses]
            rates = [f"{values['images_per_second']:.3g}/s", f"{values['memory_gib']:.3g} GiB"]
            self.note, self.due = " ".join([*losses, *rates]), time.monotonic() + 0.5
        return self.note


class EveryNSteps(Callback):
    """Call `action(step)` before the first step of a phase and every n optimizer steps.

    `last` is a step at which it is not called, because what the action does is done after it in
    any case. A resumed phase begins with the action of its step if it is not yet done, as where
    the earlier steps are of a run that ended there. The action must draw no random number from a
    global generator: it would change training.
    """

    def __init__(
        self,
        every_n_steps: int,
        action: Callable[[int], None],
        last: int | None = None,
        is_done: Callable[[int], bool] = lambda step: True,
    ) -> None:
        self.every_n_steps, self.action, self.last = every_n_steps, action, last
        self.is_done, self.done = is_done, -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act on the model before training; a resumed run does not repeat what is done."""
        step = trainer.global_step
        if step % self.every_n_steps == 0 and step != self.last:
            self._act(trainer, step > 0 and self.is_done(step))
        self.done = step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Act once per optimizer step, not once per micro-batch."""
        step = trainer.global_step
        if step != self.done and step % self.every_n_steps == 0:
            if step != self.last:
                self._act(trainer)
            self.done = step

    def _act(self, trainer: Trainer, is_done: bool = False) -> None:
        strategy = trainer.strategy
        with strategy.whole() if isinstance(strategy, Sharded) else nullcontext():
            if trainer.is_global_zero and not is_done:
                with torch.no_grad():
                    self.action(trainer.global_step)
            strategy.barrier()


class LogEveryNSteps(Callback):
    """Give `add(numbers, step)` what the module logs, every `trainer.log_every_n_steps` updates.

    `step` counts the run's updates from 0. It comes before the checkpoint of its step, which
    Lightning's own logging does not, and is there in its place. A phase that is shorter than the
    interval still logs its last update.
    """

    def __init__(self, steps_before: int, add: Callable[[Mapping[str, float], int], None]) -> None:
        self.steps_before, self.add = steps_before, add
        self.step, self.every_n_steps = 0, 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the next optimizer step."""
        interval: int = trainer.log_every_n_steps  # pyright: ignore  # set by Lightning's connector
        self.step, self.every_n_steps = trainer.global_step, min(interval, trainer.max_steps)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log once per optimizer step, with the loss of its micro-batches."""
        is_complete, self.step = trainer.global_step != self.step, trainer.global_step
        if is_complete and self.step % self.every_n_steps == 0:
            numbers = {name: float(value) for name, value in trainer.logged_metrics.items()}
            self.add(numbers, self.steps_before + self.step - 1)


class Rates(Callback):
    """Log images per second and memory in use, and keep the phase's own sums."""

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step = images_per_step  # instance and class images of an optimizer step
        self.seconds = 0.0
        self.steps = 0

    @property
    def images_per_second(self) -> float:
        """The rate since training began, sampling included."""
        return self.steps * self.images_per_step / max(self.seconds, 1e-9)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock after setting up."""
        self.started, self.first = time.monotonic(), trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the rate and the peak memory so far."""
        self.seconds = time.monotonic() - self.started
        self.steps = trainer.global_step - self.first
        pl_module.log("images_per_second", self.images_per_second, prog_bar=True, batch_size=1)
        pl_module.log("memory_gib", peak_memory_gib(), prog_bar=True, batch_size=1)

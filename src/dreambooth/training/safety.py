"""What ends a training early: a loss that is not finite, a signal, or no more progress."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from dreambooth.errors import UserError
from dreambooth.training.sharding import local

_FIX = "lower lr or use precision 32-true"


class StopOnNonFinite(Callback):
    """End the run at a NaN or infinite loss, naming the step and the files of its batch.

    Losses are read every `every_n_steps` micro-steps, because reading one waits for the device; on
    a CPU after each. They are always read before a checkpoint is written, so that the last good
    one is kept. `parameters` lists those that train.
    """

    def __init__(self, parameters: Callable[[], Sequence[Tensor]], every_n_steps: int) -> None:
        self.parameters = parameters
        self.every_n_steps = every_n_steps
        self.pending: list[tuple[int, list[str], Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read every loss on a CPU, where it costs nothing."""
        if pl_module.device.type == "cpu":
            self.every_n_steps = 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember the loss; check the remembered ones every n micro-steps."""
        self.pending.append((trainer.global_step, batch["names"], outputs["loss"].detach()))
        if len(self.pending) >= self.every_n_steps:
            self.check(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to write a checkpoint after a loss that was not finite, or of such weights.

        Raises:
            UserError: as `check`; or the loss was finite and its gradient was not.
        """
        self.check(trainer)
        finite = [local(weights.detach()).isfinite().all() for weights in self.parameters()]
        all_finite = torch.stack(finite).all()
        if trainer.world_size > 1:
            number = trainer.strategy.reduce(all_finite.float(), reduce_op="sum")
            all_finite = number == trainer.world_size
        if not bool(all_finite):
            what = f"The weights are not finite after step {trainer.global_step}"
            raise UserError(f"{what}: {_FIX}{_kept(trainer)}.")

    def check(self, trainer: Trainer) -> None:
        """Read the remembered losses of every rank.

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
            what = f"The loss became {value} at step {step} on {files}"
            raise UserError(f"{what}: {_FIX}{_kept(trainer)}.")


def _kept(trainer: Trainer) -> str:
    """Say which checkpoint of the phase is kept, if there is one."""
    saved = sorted(Path(trainer.default_root_dir).glob("*.ckpt"))
    return f"; {saved[-1]} is kept" if saved else ""


class StopWithoutProgress(Callback):
    """End training after a point of the curve at which `is_over(step)` says so.

    Points are every n optimizer steps of the phase. It comes after the callback that scores them.
    """

    def __init__(self, every_n_steps: int, is_over: Callable[[int], bool]) -> None:
        self.every_n_steps, self.is_over = every_n_steps, is_over
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the next optimizer step."""
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Decide on rank 0, which alone has the curve's points."""
        complete, self.step = trainer.global_step != self.step, trainer.global_step
        if complete and self.step % self.every_n_steps == 0:
            over = trainer.is_global_zero and self.is_over(self.step)
            over = trainer.strategy.broadcast(over)
            trainer.should_stop = trainer.should_stop or over


def _say(text: str) -> None:
    """Write a line from a signal's handler, which may have interrupted a `print`."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.write(2, f"\n{text}\n".encode())


class StopWithoutFolder(Callback):
    """End training when the run's folder is gone: nothing of it could be kept."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.known = folder, None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember which folder it is; another of the same name is not this one."""
        self.known = self._number()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look after every step.

        Raises:
            UserError: the folder was removed or replaced.
        """
        if self._number() != self.known:
            raise UserError(
                f"The run's folder {self.folder} was removed at step {trainer.global_step}: run "
                "the same command again."
            )

    def _number(self) -> int | None:
        return self.folder.stat().st_ino if self.folder.is_dir() else None


class StopAtStepBoundary(Callback):
    """End training at a signal after the step that is running; a checkpoint follows.

    The signals are SIGINT, SIGTERM, and SIGUSR1 and SIGUSR2, which queues send before a time limit.
    In a job of submitit SIGTERM only has a checkpoint written: Slurm may send it long before it
    ends the job, and with it the user's own `scancel`, after which nothing may be queued again.

    Make it before the trainer runs and call `give_back` after. It is the first of the callbacks, so
    that a signal does not interrupt what the others draw before the first step.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.checkpoint_due = False  # at a step boundary alone
        self.terminated = False
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        self.before = {number: signal.getsignal(number) for number in numbers}
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals, also from the trainer; a second Ctrl-C acts at once."""
        self.step = trainer.global_step
        for number in self.before:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM and "SUBMITIT_EXECUTOR" in os.environ:
            self.terminated = True
            return
        asked = (signal.SIGINT, signal.SIGTERM)
        if number in asked and self.received in asked:
            _say("Stopped at once; the last checkpoint is kept.")
            os._exit(128 + number)
        if self.received is None:
            _say("Stopping after this step; a second Ctrl-C stops at once.")
        self.received = self.received or number

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop when an optimizer step is complete, on every rank at the same one."""
        complete, self.step = trainer.global_step != self.step, trainer.global_step
        self.checkpoint_due = False
        if not complete:
            return
        self.checkpoint_due, self.terminated = self.terminated, False
        if trainer.world_size > 1:
            seen = torch.tensor([self.received or 0, self.checkpoint_due])
            seen = trainer.strategy.reduce(seen.to(pl_module.device), reduce_op="max")
            self.received, self.checkpoint_due = int(seen[0]) or None, bool(seen[1])
        trainer.should_stop = trainer.should_stop or self.received is not None

    def give_back(self) -> None:
        """Restore the signals' earlier handlers, however training ended."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

"""Checkpoints for resuming: written atomically, verified when read, pruned.

A checkpoint is Lightning's, with trained parameters and optimizer state only. Its record
`<name>.ckpt.json` is written after it, with its SHA-256 and the facts that the training depends on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.io import TorchCheckpointIO

from dreambooth.errors import UserError, reason
from dreambooth.files import atomic
from dreambooth.training.resuming.checkpoint_records import (
    record_path,
    verify,
    write_checkpoint_record,
)
from dreambooth.training.safety import StopAtStepBoundary


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint completely or not at all; read it only if its SHA-256 matches.

    Lightning's own class writes a temporary file elsewhere and moves it, which is a copy between
    two file systems, and flushes nothing.

    Args:
        facts: what the training depends on.
        history: makes what else the record says: `key`, `seconds`, `reused` and `log_sha256`.
    """

    def __init__(
        self, facts: Mapping[str, Any], history: Callable[[], Mapping[str, Any]] = dict
    ) -> None:
        super().__init__()
        self.facts, self.history = dict(facts), history

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write, flush and rename the file, then write the record that makes it valid."""
        path = Path(path)
        with atomic(path) as temporary, open(temporary, "wb") as file:
            hashing = _Hashing(file)
            torch.save(checkpoint, hashing)  # pyright: ignore[reportArgumentType]
        record = {"sha256": hashing.digest.hexdigest(), "step": checkpoint["global_step"]}
        write_checkpoint_record(path, {**record, "facts": self.facts, **self.history()})

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a verified checkpoint: tensors and plain values, never a pickled object.

        Raises:
            UserError: as `verify`; or the file holds anything else.
        """
        verify(path)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not {"state_dict", "global_step"} <= state.keys():
                raise ValueError("it lacks what training has saved")
        except Exception as error:  # torch.load has many types for what it does not take
            raise UserError(
                f"The checkpoint {path} cannot be read ({reason(error)}): it was not written by "
                "this program; resume from another one."
            ) from error
        return state

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the record first, so that a partly removed checkpoint is not valid."""
        record_path(path).unlink(missing_ok=True)
        Path(path).unlink(missing_ok=True)


class _Hashing:
    """A file that hashes what is written to it; the same must be read back."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


class Shared(Protocol):
    """Where checkpoints are shared with other runs."""

    def publish(self, path: Path) -> None:
        """Share a checkpoint."""

    def is_wanted(self, step: int) -> bool:
        """Tell whether another run waits for the checkpoint of `step`."""
        ...


class Checkpoints(Callback):
    """Save every n optimizer steps and at the end; remove old ones once the new one is verified.

    `write_log` is called first, so that no checkpoint is ahead of the run's log. What is saved is
    also published to `shared`, if there is one. In a single process a step for which another run
    waits is saved too, and one for which `stop` asks, because the job may soon be killed.
    """

    def __init__(
        self,
        folder: Path,
        every_n_steps: int,
        keep: int,
        stop: StopAtStepBoundary,
        shared: Shared | None = None,
        write_log: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.every_n_steps, self.keep = folder, every_n_steps, keep
        self.stop, self.shared, self.write_log = stop, shared, write_log
        self.saved = self.step = 0
        self.stale: list[Path] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find later checkpoints, of an earlier training: the first new one replaces them."""
        self.saved = self.step = trainer.global_step
        ours = self.folder / checkpoint_name(self.saved)
        self.stale = [p for p in self._recorded() if self.saved == 0 or p.name > ours.name]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save once per optimizer step, not once per micro-batch."""
        is_complete, self.step = trainer.global_step != self.step, trainer.global_step
        if not is_complete:  # within an update, of which a checkpoint would lose a part
            return
        is_due = self.step % self.every_n_steps == 0 or self.stop.checkpoint_due
        if is_due or self._is_wanted(trainer):
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step, however training ended."""
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save this step, unless it is saved already; then remove the oldest checkpoints.

        Raises:
            UserError: the file that was written reads back differently; the earlier ones stay.
        """
        if trainer.global_step == self.saved:
            return
        path = self.folder / checkpoint_name(trainer.global_step)
        self.write_log()
        trainer.save_checkpoint(path, weights_only=False)
        self.saved = trainer.global_step
        if trainer.is_global_zero:
            old = {*self._all()[: -self.keep], *self.stale} - {path}
            if old:
                verify(path)  # a disk may have kept something else
            for each in sorted(old):
                trainer.strategy.checkpoint_io.remove_checkpoint(each)
            if self.shared is not None:
                self.shared.publish(path)
        self.stale = []

    def _is_wanted(self, trainer: Trainer) -> bool:
        if self.shared is None or trainer.world_size > 1:
            return False
        return self.shared.is_wanted(self.step)

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.ckpt"))

    def _recorded(self) -> list[Path]:
        """List the checkpoints that there are, and those of which only the record is left."""
        records = self.folder.glob("step-*.ckpt.json")
        return sorted({*self._all(), *(record.with_suffix("") for record in records)})


def left_over(run: Path, keep: int) -> list[Path]:
    """List the checkpoints that a finished run needs no more: of each phase all but the newest."""
    folders = sorted((run / "checkpoints").glob("phase-*"))
    each = (sorted(folder.glob("step-*.ckpt")) for folder in folders)
    return [path for paths in each for path in paths[: len(paths) - keep]]


def remove_left_over(paths: Iterable[Path]) -> None:
    """Remove checkpoints, but leave the newest record: it says of which training a run is."""
    for path in sorted(paths):
        if any(later > path for later in path.parent.glob("step-*.ckpt")):
            record_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def checkpoint_name(step: int) -> str:
    """Name the file of a phase's checkpoint: `step-000200.ckpt`."""
    return f"step-{step:06d}.ckpt"

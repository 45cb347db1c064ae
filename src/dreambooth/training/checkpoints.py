"""Checkpoints for resuming: atomic, verified, refused for another configuration.

A checkpoint is Lightning's, with trained parameters and optimizer state only. Beside it lies
`<name>.ckpt.json` with its SHA-256 and the facts that the training depended on, written last.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.io import TorchCheckpointIO

from dreambooth.errors import UserError
from dreambooth.files import atomic, file_hash, write_json

log = logging.getLogger(__name__)


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and reads it only if its SHA-256 holds.

    Lightning's own writes its temporary file elsewhere and moves it, which is a copy between two
    file systems, and flushes nothing.
    """

    def __init__(self, facts: dict) -> None:
        super().__init__()
        self.facts = facts

    def save_checkpoint(self, checkpoint: dict, path: Any, storage_options: Any = None) -> None:
        """Write, flush, rename, then the record that makes it valid."""
        path = Path(path)
        with atomic(path) as temporary, open(temporary, "wb") as file:
            hashing = _Hashing(file)
            torch.save(checkpoint, hashing)
        record = {"sha256": hashing.digest.hexdigest(), "step": checkpoint["global_step"]}
        write_json(record_path(path), {**record, "facts": self.facts})

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None):
        """Read a verified checkpoint; tensors and plain values only, never a pickled object."""
        verify(path)
        return torch.load(path, map_location="cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the record first, so that no half-removed checkpoint looks valid."""
        record_path(path).unlink(missing_ok=True)
        Path(path).unlink(missing_ok=True)


class _Hashing:
    """A file that hashes what was meant to be written, which is then what must be read back."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


class Checkpoints(Callback):
    """Saves every n optimizer steps and at the end; prunes only after the new one was read back."""

    def __init__(self, folder: Path, every_n_steps: int, keep: int) -> None:
        self.folder, self.every_n_steps, self.keep = folder, every_n_steps, keep
        self.saved = 0
        self.stale: list[Path] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checkpoints from beyond here are of another history: the first new one replaces them."""
        self.saved = trainer.global_step
        ours = self.folder / _name(self.saved)
        self.stale = [p for p in self._all() if self.saved == 0 or p.name > ours.name]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_) -> None:
        """Acts once a step, not once a micro-batch."""
        if trainer.global_step % self.every_n_steps == 0:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What was trained is kept, however it ended."""
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save this step, unless it is saved; then remove the oldest.

        Raises:
            UserError: what was written reads back as something else; the earlier ones stay.
        """
        if trainer.global_step == self.saved:
            return
        path = self.folder / _name(trainer.global_step)
        trainer.save_checkpoint(path, weights_only=False)
        self.saved = trainer.global_step
        if trainer.is_global_zero:
            old = {*self._all()[: -self.keep], *self.stale} - {path}
            if old:
                verify(path)  # read back: a disk may have kept something else
            for each in sorted(old):
                trainer.strategy.checkpoint_io.remove_checkpoint(each)
        self.stale = []

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.ckpt"))


def _name(step: int) -> str:
    return f"step-{step:06d}.ckpt"


def record_path(path: str | Path) -> Path:
    """`last.ckpt` => `last.ckpt.json`."""
    return Path(f"{path}.json")


def verify(path: str | Path) -> dict:
    """The checkpoint's record, if the file is the one that the record describes.

    Raises:
        UserError: no such file, no record, or another content.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"The checkpoint {path} does not exist: give resume an existing .ckpt.")
    record = read_record(path)
    if record["sha256"] != file_hash(path):
        raise UserError(
            f"The checkpoint {path} is damaged (its SHA-256 differs from its record): "
            "resume from another one."
        )
    return record


def read_record(path: str | Path) -> dict:
    """`sha256`, `step` and `facts` of a checkpoint, whose content is not looked at.

    Raises:
        UserError: no record, or one that is not whole.
    """
    try:
        record = json.loads(record_path(path).read_text())
        return {key: record[key] for key in ("sha256", "step", "facts")}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"The checkpoint {path} has no readable record {record_path(path).name} beside it: "
            "it was not finished or not written by this project; resume from another one."
        ) from None


def find(folder: Path, resume: str | None) -> Path | None:
    """The checkpoint to resume from: `auto` takes the newest valid one of the folder, if any.

    A damaged one is skipped with a warning under `auto`, and refused where it is named.
    """
    if resume is None:
        return None
    if resume != "auto":
        verify(resume)
        return Path(resume)
    for path in sorted(folder.glob("*.ckpt"), reverse=True):
        try:
            verify(path)
            return path
        except UserError as error:
            log.warning("%s", error)
    return None


def refuse_other_facts(path: Path, facts: dict) -> None:
    """Refuse to continue a run whose training differs.

    Raises:
        UserError: names the keys that differ, with both values.
    """
    before, now = _flat(read_record(path)["facts"]), _flat(facts)
    differing = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]
    if differing:
        pairs = ", ".join(f"{k} (was {before.get(k)}, is {now.get(k)})" for k in differing)
        raise UserError(
            f"{path} was trained with another configuration: {pairs}. "
            "Restore these values, choose another output folder, or pass resume=null."
        )


def _flat(value: dict, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` => `{"a.b": 1}`."""
    flat = {}
    for key, inner in value.items():
        name = f"{prefix}{key}"
        flat |= _flat(inner, f"{name}.") if isinstance(inner, dict) else {name: inner}
    return flat

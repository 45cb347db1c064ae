"""Checkpoints of a network in pretraining, to resume from, and the weights that one starts from."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dreambooth.errors import UserError

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Progress:
    """How far a network is trained, and by which sessions.

    `sessions` holds one dict per process that trained it: batch size, device, and facts about its
    data. A session that equals the one before it is not repeated.
    """

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    seed: int
    sessions: list[dict[str, Any]] = field(default_factory=list)


PROGRESS = tuple(each.name for each in fields(Progress))


def read_checkpoint(
    path: Path, seed: int | None = None, device: str = "cpu", mmap: bool = False
) -> dict[str, Any]:
    """Read a checkpoint: `module`, `optimizer`, `ema`, and the fields of `Progress`.

    Raises:
        UserError: a file that is damaged, of an older form, or begun with another seed than `seed`.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
        lacks = [k for k in ("module", "optimizer", "ema", *PROGRESS) if k not in state]
    except Exception as error:  # torch has many types of its own for a damaged file
        raise UserError(f"{path} cannot be read: remove it to begin that stage anew.") from error
    if lacks:
        raise UserError(
            f"{path} is of an older form (it lacks {', '.join(lacks)}): remove it to begin that "
            "stage anew."
        )
    if seed not in (None, state["seed"]):
        raise UserError(
            f"{path} was begun with seed={state['seed']}, not {seed}: use seed={state['seed']}, or "
            "give another cache=DIR."
        )
    return state


def resume(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, seed: int, device: str
) -> tuple[list[Tensor], Progress]:
    """Load a checkpoint into `module` and `optimizer`; return the averaged weights and progress.

    Raises:
        UserError: as `read_checkpoint`, or a checkpoint of other sizes.
    """
    state = read_checkpoint(path, seed, device)
    try:
        module.load_state_dict(state["module"])
    except RuntimeError as error:
        raise _misfit(path) from error
    optimizer.load_state_dict(state["optimizer"])
    return state["ema"], progress_of(state)


def progress_of(state: dict[str, Any]) -> Progress:
    """Take the progress out of a checkpoint."""
    return Progress(**{name: state[name] for name in PROGRESS})


def load_average(module: nn.Module, path: Path) -> dict[str, Any]:
    """Load averaged weights into `module`, in evaluation mode; return the whole checkpoint.

    Raises:
        UserError: as `read_checkpoint`, or a checkpoint of other sizes.
    """
    state = read_checkpoint(path)
    parameters = [p for p in module.parameters() if p.requires_grad]
    if [p.shape for p in parameters] != [each.shape for each in state["ema"]]:
        raise _misfit(path)
    with torch.no_grad():
        for parameter, each in zip(parameters, state["ema"], strict=True):
            parameter.copy_(each)
    module.eval()
    return state


def start_from(init: Path | None, part: str, module: nn.Module, checkpoint: Path) -> bool:
    """Load `init`'s weights of `part` into `module`, unless there is a checkpoint to resume.

    Args:
        init: a pipeline folder, or None.
        part: a file or folder in it; where it is missing, the module stays as it is.

    Returns:
        Whether weights were loaded.

    Raises:
        UserError: weights that are damaged or of other sizes.
    """
    name = checkpoint.stem
    if init is None or checkpoint.exists():
        return False
    source = init / part
    if not source.exists():
        log.info("%s: starts untrained, because there is no %s", name, source)
        return False
    try:
        if source.is_file():
            weights = load_file(source)
        else:
            loaded = cast(Any, type(module)).from_pretrained(source, local_files_only=True)
            weights = loaded.state_dict()
        lacks = module.load_state_dict(weights, strict=False).missing_keys
    except Exception as error:  # each library has its own types for a damaged file
        raise _misfit(source) from error
    if lacks:
        raise _misfit(source)
    log.info("%s: starts from %s", name, source)
    return True


def training_record(progress: Progress, curve: Path) -> dict[str, Any]:
    """Collect what made a network as JSON values, with its loss curve's last row up to then."""
    rows = [json.loads(line) for line in curve.read_text().splitlines()] if curve.exists() else []
    last = [row for row in rows if row["samples"] <= progress.samples][-1:]
    return asdict(progress) | {"last": last[0] if last else {}}


def _misfit(path: Path) -> UserError:
    return UserError(
        f"{path} is damaged or not of the configured sizes: give the sizes that it was made with "
        "(channels, width, layers and the like), or start without it."
    )

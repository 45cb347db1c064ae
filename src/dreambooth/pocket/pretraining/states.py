"""What a pretraining stage keeps of itself: a state to go on from, and what made it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dreambooth.errors import UserError

log = logging.getLogger(__name__)

PROGRESS = ("step", "samples", "seconds", "seed", "sittings")  # of a state, beside its tensors


def read_state(
    path: Path, seed: int | None = None, device: str = "cpu", mmap: bool = False
) -> dict:
    """A stage's state: `module`, `optimizer`, `ema`, and what PROGRESS names.

    `sittings` holds a dict for every process that trained on it: batch size, device, facts.

    Raises:
        UserError: damaged, of another form, or of another seed than `seed`.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
        lacks = [k for k in ("module", "optimizer", "ema", *PROGRESS) if k not in state]
    except Exception as error:  # torch's own types for a damaged file are many
        raise UserError(f"{path} cannot be read: remove it to begin that stage anew.") from error
    if lacks:
        raise UserError(
            f"{path} is of an older form (it lacks {', '.join(lacks)}): remove it to begin that "
            "stage anew."
        )
    if seed not in (None, state["seed"]):
        raise UserError(
            f"{path} was begun with seed={state['seed']}, not {seed}: go on with it, or give "
            "another cache=DIR."
        )
    return state


def resume(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, seed: int, device: str
) -> tuple[list[Tensor], dict]:
    """Load a state into `module` and `optimizer` => the EMA weights, and what PROGRESS names.

    Raises:
        UserError: as `read_state`, or a state of other sizes.
    """
    state = read_state(path, seed, device)
    try:
        module.load_state_dict(state["module"])
    except RuntimeError as error:
        raise _misfit(path) from error
    optimizer.load_state_dict(state["optimizer"])
    return state["ema"], {key: state[key] for key in PROGRESS}


def average(module: nn.Module, path: Path) -> dict:
    """Load a state's EMA weights into `module`, in evaluation mode; returns the state.

    Raises:
        UserError: as `read_state`, or a state of other sizes.
    """
    state = read_state(path)
    parameters = [p for p in module.parameters() if p.requires_grad]
    if [p.shape for p in parameters] != [each.shape for each in state["ema"]]:
        raise _misfit(path)
    with torch.no_grad():
        for parameter, each in zip(parameters, state["ema"], strict=True):
            parameter.copy_(each)
    module.eval()
    return state


def begin(name: str, module: nn.Module, folder: Path, init: str | None, part: str) -> bool:
    """Whether `module` took the weights of `init`'s part, as it does where there is no state yet.

    Raises:
        UserError: they are damaged or of other sizes.
    """
    if init is None or (folder / f"{name}.pt").exists():
        return False
    source = Path(init) / part
    if not source.exists():
        log.info("%s: begins untrained, for there is no %s", name, source)
        return False
    try:
        if source.is_file():
            weights = load_file(source)
        else:
            weights = type(module).from_pretrained(source, local_files_only=True).state_dict()
        lacks = module.load_state_dict(weights, strict=False).missing_keys
    except Exception as error:  # each library has its own types for a damaged file
        raise _misfit(source) from error
    if lacks:
        raise _misfit(source)
    log.info("%s: begins from %s", name, source)
    return True


def _misfit(path: Path) -> UserError:
    return UserError(
        f"{path} is damaged or not of the configured sizes: give the sizes that it was made with "
        "(channels, width, layers and the like), or begin without it."
    )


def account(state: dict, curve: Path) -> dict:
    """What a state says of its making, JSON values, with the curve's last row up to it."""
    rows = [json.loads(line) for line in curve.read_text().splitlines()] if curve.exists() else []
    last = [row for row in rows if row["samples"] <= state["samples"]][-1:]
    return {key: state[key] for key in PROGRESS} | {"last": last[0] if last else {}}

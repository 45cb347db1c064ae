"""Factories of the optimizer and the Trainer, tried once so that bad options are refused early."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from difflib import get_close_matches
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from diffusers.optimization import get_scheduler
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from dreambooth.cli.drawing.axes import is_number
from dreambooth.cli.refusals.kinds import CHOICES
from dreambooth.errors import UserError
from dreambooth.training.logs.loggers import silence_libraries

RATES = ("own_lr", "lr_factor")  # of an optimizer's block, for the resolver `rate` alone


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value < 1


def _is_least(value: Any) -> bool:
    return is_number(value) and value >= 0


# what libraries do not check, or not before the first step; eps has two values in some classes
OPTIMIZER: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "betas": (
        "two numbers from 0 to below 1, such as [0.9,0.999]",
        lambda v: isinstance(v, list) and len(v) == 2 and all(map(_is_share, v)),
    ),
    "eps": (
        "a number, 0 or greater, or as many as the class has",
        lambda v: all(map(_is_least, v)) if isinstance(v, list) and v else _is_least(v),
    ),
    "weight_decay": ("a finite number, 0 or greater", _is_least),
}


def optimizer_factory(
    block: Mapping[str, Any], lr: float, precision: str
) -> Callable[..., torch.optim.Optimizer]:
    """Return `(parameter groups, lr) => Optimizer` of an `optimizer/*.yaml` block.

    An argument that a class does not have is left out if it is null, so that a preset can offer one
    to some classes only.

    Raises:
        UserError: a class that cannot be imported, or options that it does not know or refuses.
    """
    if precision == "16-mixed" and block.get("fused"):
        # a fused one cannot unscale half-precision gradients
        block = {**block, "fused": False}
    given = {key: value for key, value in block.items() if key not in RATES}
    try:
        factory = instantiate({k: v for k, v in given.items() if v is not None}, _convert_="all")
        _check_options(factory, given)
        _try(factory, lr)
    except UserError:
        raise
    except Exception as error:  # each class has checks of its own
        if isinstance(error.__cause__, ImportError):
            raise UserError(
                f"optimizer._target_={block['_target_']} cannot be imported: install its package, "
                "or choose optimizer=adamw."
            ) from error
        raise UserError(
            f"optimizer cannot be set up: {_reason(error)}; correct the optimizer.* keys."
        ) from error
    return factory


def _check_options(factory: partial, given: Mapping[str, Any]) -> None:
    """Refuse what is not usable, and options that a class does not have, with the nearest it has.

    Raises:
        UserError: names the option.
    """
    parameters = inspect.signature(factory.func).parameters
    for key, (kind, holds) in OPTIMIZER.items():
        if key in given and key in parameters and not holds(given[key]):
            raise UserError(f"optimizer.{key}={given[key]} is not usable: it must be {kind}.")
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in factory.keywords:
        if name not in parameters:
            known = [known for known in parameters if known not in ("params", "lr")]
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean optimizer.{near[0]}?" if near else f"use {', '.join(known)}."
            raise UserError(f"{factory.func.__name__} has no option optimizer.{name}: {hint}")


def check_schedule(name: str, warmup_steps: int, max_steps: int) -> None:
    """Refuse a learning-rate schedule that diffusers cannot make.

    Raises:
        UserError: names the schedule and those that exist.
    """
    optimizer = _try(torch.optim.SGD, lr=1.0)
    try:
        if name not in CHOICES["lr_schedule"]:
            raise ValueError("unknown schedule")
        get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=max_steps)
    except Exception as error:  # each schedule has checks of its own
        raise UserError(
            f"lr_schedule={name} cannot be set up: {_reason(error)}; use one of "
            f"{', '.join(CHOICES['lr_schedule'])}."
        ) from error


def trainer_factory(block: Mapping[str, Any]) -> Callable[..., pl.Trainer]:
    """Return what makes a Lightning Trainer of a `trainer/*.yaml` block.

    Raises:
        UserError: options that Lightning refuses, or devices that this machine lacks.
    """
    silence_libraries()  # Lightning would describe the machine once more
    factory = partial(instantiate, dict(block))
    try:
        made = factory(logger=False, enable_checkpointing=False, enable_progress_bar=False)
        if not isinstance(made, pl.Trainer):
            raise TypeError(f"{block['_target_']} makes no Trainer of Lightning")
    except Exception as error:  # Lightning has many types
        raise UserError(
            f"trainer cannot be set up: {_reason(error)}; correct the trainer.* keys."
        ) from error
    return factory


def _try(factory: Callable[..., torch.optim.Optimizer], lr: float) -> torch.optim.Optimizer:
    """Make an optimizer of one small parameter."""
    with redirect_stdout(io.StringIO()):  # Prodigy prints
        return factory([{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": lr}], lr=lr)


def _reason(error: Exception) -> str:
    """Return what a library said, on one line and without a full stop."""
    cause = error.__cause__ if isinstance(error, InstantiationException) else None
    return " ".join(str(cause or error).split("\n\n")[0].split()).rstrip(".")

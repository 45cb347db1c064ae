"""Factories of the optimizer and the Trainer, tried once so that bad options are refused early."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from diffusers.optimization import get_scheduler
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from dreambooth.cli.checks import CHOICES
from dreambooth.errors import UserError
from dreambooth.training.loggers import silence_libraries


def optimizer_factory(
    block: Mapping[str, Any], lr: float, precision: str
) -> Callable[..., torch.optim.Optimizer]:
    """Return `(parameter groups, lr) => Optimizer` of an `optimizer/*.yaml` block.

    An argument that is null is left out, so that a preset can offer one to some classes only.

    Raises:
        UserError: a class that cannot be imported, or options that it refuses.
    """
    if precision == "16-mixed" and block.get("fused"):
        # a fused one cannot unscale half-precision gradients
        block = {**block, "fused": False}
    block = {key: value for key, value in block.items() if value is not None}
    try:
        factory = instantiate(dict(block), _convert_="all")
        _try(factory, lr)
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
        factory(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    except Exception as error:  # Lightning has many types
        raise UserError(
            f"trainer cannot be set up: {_reason(error)}; correct the trainer.* keys."
        ) from error
    return factory


def _try(factory: Callable[..., torch.optim.Optimizer], lr: float) -> torch.optim.Optimizer:
    """Make an optimizer of one small parameter."""
    return factory([{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": lr}], lr=lr)


def _reason(error: Exception) -> str:
    """Return what a library said, on one line and without a full stop."""
    cause = error.__cause__ if isinstance(error, InstantiationException) else None
    return " ".join(str(cause or error).split("\n\n")[0].split()).rstrip(".")

"""What a command line may hold, and values of a training configuration that no run could use.

Imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from dreambooth.cli.configuration.configs import COMMANDS, CONF, files_of, groups_of, keys_of
from dreambooth.cli.drawing.axes import SEED, is_number, is_seed, is_whole
from dreambooth.cli.refusals.kinds import (
    CHOICES,
    FOLDERS,
    LISTS,
    METHOD,
    NOT_NEGATIVE,
    OPTIONAL,
    POSITIVE,
    SEEDS,
    SWITCHES,
    TEXTS,
    TRAINER,
    WHOLE,
)
from dreambooth.cli.refusals.suggest import EARLIER, OTHERS, no_key, no_trainer_key
from dreambooth.errors import UserError
from dreambooth.packages import need
from dreambooth.study.push import require_token


def check_added(command: str, overrides: Iterable[str], folders: Sequence[Path]) -> None:
    """Refuse `+key=value` for a key that the command does not read.

    Options of the command's groups are open (`+scheduler.options.beta_start=0.01`), and so are
    groups that only the user's own folders have.

    Raises:
        UserError: names the key and the nearest one that exists, or the command that reads it.
    """
    ours = {group for name in COMMANDS for group in groups_of(name)}
    own = [folder for folder in folders if folder != CONF]
    for override in overrides:
        if not override.startswith("+"):
            continue
        key = override.lstrip("+").partition("=")[0]
        block = re.split("[.@/]", key)[0]
        if block == "method" and key.split(".")[1:2] and key.split(".")[1] not in METHOD:
            raise UserError(_no_key_of_a_method(key))
        if block == "hydra" or block in groups_of(command):
            continue
        if block not in ours and files_of(block, own):
            continue
        if key not in keys_of(command, folders):
            raise UserError(no_key(command, key, folders))


def _no_key_of_a_method(key: str) -> str:
    last = key.rpartition(".")[2]
    meant = EARLIER.get(key) or OTHERS.get(last, (f"method.adapter.{last}",))[0]
    return f"no method reads {key}: did you mean {meant}? A method has {', '.join(METHOD)}."


def check(cfg: DictConfig) -> None:
    """Refuse values that no run could use.

    Raises:
        UserError: names the key, the value and what it must be.
    """
    for key in cfg.trainer:
        if key not in TRAINER:
            raise UserError(no_trainer_key(str(key), TRAINER))
    world = ("subject.identity",) if "identity" in cfg.subject else ()
    for keys, kind, holds in (
        (WHOLE + world, "a whole number", is_whole),
        (POSITIVE + NOT_NEGATIVE, "a finite number", is_number),
        (POSITIVE, "greater than 0", lambda v: v > 0),
        (NOT_NEGATIVE, "0 or greater", lambda v: v >= 0),
        (("prior.num_class_images",), "at most 100000", lambda v: v <= 100_000),
        (("augment.num_crops",), "at most 1000, for each photo", lambda v: v <= 1000),
        (("resolution",), "a multiple of 8, 16 or greater", lambda v: v % 8 == 0 and v >= 16),
        (SEEDS, SEED, is_seed),
        (SWITCHES, "true or false", lambda v: isinstance(v, bool)),
        (TEXTS, "a text in quotes", lambda v: isinstance(v, str) and bool(v.strip())),
        (("export.verify",), "auto, true or false", lambda v: v == "auto" or isinstance(v, bool)),
        (("init_adapter",), "null, or a file or folder that exists", is_path_or_none),
        (FOLDERS, "null or a folder", lambda v: v is None or isinstance(v, str) and bool(v)),
        (("resume",), "auto, null or a .ckpt", lambda v: v is None or isinstance(v, str)),
    ):
        for key in keys:
            hold(cfg, key, kind, holds)
    for key, (kind, holds) in OPTIONAL.items():
        hold(cfg, key, kind, lambda v, h=holds: v is None or is_number(v) and h(v))
    for key, choices in CHOICES.items():
        named = ", ".join("null" if choice is None else choice for choice in choices)
        hold(cfg, key, f"one of {named}", lambda v, c=choices: v in c)
    for key, (example, holds) in LISTS.items():
        hold_list(cfg, key, example, holds)
    if cfg.export.push_to_hub is not None:
        require_token(str(cfg.export.push_to_hub))
    if cfg.lr_warmup_steps and cfg.lr_schedule == "constant":
        raise UserError(
            "lr_warmup_steps has no effect with lr_schedule=constant: set "
            "lr_schedule=constant_with_warmup."
        )


def is_path_or_none(value: object) -> bool:
    """Tell whether a value is None, or the path of a file or a folder."""
    return value is None or isinstance(value, str) and bool(value) and Path(value).exists()


def hold(cfg: DictConfig, key: str, kind: str, holds: Callable[[Any], bool]) -> None:
    """Refuse a value that does not hold.

    Args:
        kind: what the value must be, in words.

    Raises:
        UserError: names the key, the value and the kind.
    """
    value = OmegaConf.select(cfg, key, throw_on_missing=True)
    if not holds(value):
        raise UserError(f"{key}={value} is not usable: {key} must be {kind}.")


def hold_list(cfg: DictConfig, key: str, example: str, holds: Callable[[Any], bool]) -> None:
    """Refuse what is no list, is empty, or has an entry that does not hold.

    Args:
        example: a list as one would write it.

    Raises:
        UserError: names the key and the value, and shows the example.
    """
    each = f", each {SEED}" if holds is is_seed else ""
    hold(
        cfg,
        key,
        f"a list that is not empty, such as '{key}={example}'{each}",
        lambda v: isinstance(v, ListConfig) and len(v) > 0 and all(holds(each) for each in v),
    )


def check_packages(cfg: DictConfig) -> None:
    """Refuse options whose package is not installed; without W&B a run warns and goes on.

    Raises:
        UserError: names the option and the package.
    """
    target = OmegaConf.select(cfg, "optimizer._target_")
    if target is not None:
        need(target.partition(".")[0], f"optimizer={target}", "choose optimizer=adamw")
    for key in ("scheduler", "prior.sampler"):
        if OmegaConf.select(cfg, f"{key}.name") == "LMSDiscreteScheduler":
            need("scipy", f"{key}.name=LMSDiscreteScheduler", f"choose another {key}")
    if OmegaConf.select(cfg, "evaluation.every_n_steps"):
        need("matplotlib", "evaluation.every_n_steps", "set it to 0 for no curve")
    if OmegaConf.select(cfg, "logger.tensorboard"):
        need("tensorboard", "logger=tensorboard", "choose logger=csv")


def refuse_missing(cfg: DictConfig) -> None:
    """Refuse a configuration that lacks required values, as `subject=folder` lacks its photos.

    Raises:
        UserError: names all of them.
    """
    missing = sorted(_missing(OmegaConf.to_container(cfg)))
    if missing:
        verb, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        values = " ".join(f"{key}=VALUE" for key in missing)
        listed = " and ".join(missing)
        raise UserError(f"{listed} {verb} missing: give {values}; --help explains {them}.")


def _missing(node: object, key: str = "") -> Iterator[str]:
    """Find the keys that have no value yet; OmegaConf's own search stops at an interpolation."""
    if isinstance(node, Mapping):
        for name, child in node.items():
            yield from _missing(child, f"{key}.{name}" if key else str(name))
    elif node == "???":
        yield key

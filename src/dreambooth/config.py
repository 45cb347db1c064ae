"""Checks that need a composed config or the command line; imports nothing heavy.

The only module below the entry scripts that sees a config object.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreambooth.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"

OmegaConf.register_new_resolver("if", lambda when, yes, no: yes if when else no, replace=True)
OmegaConf.register_new_resolver("last_word", lambda text: text.split()[-1], replace=True)
OmegaConf.register_new_resolver(
    # overrides as one folder name: no separators, no spaces, not longer than file systems allow
    "slug", lambda text: re.sub(r"[^A-Za-z0-9._=,+-]+", "-", text)[:200] or "run", replace=True
)

POSITIVE = (
    "lr", "max_steps", "resolution", "batch_size", "accumulate", "max_grad_norm",
    "augment.num_crops", "prior.num_class_images", "prior.batch_size",
    "prior.num_inference_steps", "checkpoint.every_n_steps", "checkpoint.keep",
    "sampling.num_inference_steps", "sampling.batch_size", "photos.rendered",
)  # fmt: skip
NOT_NEGATIVE = (
    "seed", "prior.seed", "prior.weight", "prior.guidance_scale", "sampling.guidance_scale",
    "lr_warmup_steps", "loss.noise_offset", "samples.every_n_steps",
)  # fmt: skip
WHOLE = (
    "seed", "prior.seed", "max_steps", "resolution", "batch_size", "accumulate",
    "augment.num_crops", "prior.num_class_images", "prior.batch_size", "lr_warmup_steps",
    "prior.num_inference_steps", "checkpoint.every_n_steps", "checkpoint.keep",
    "sampling.num_inference_steps", "sampling.batch_size", "samples.every_n_steps",
)  # fmt: skip
SWITCHES = (
    "ppl", "train_text_encoder", "gradient_checkpointing", "compile",
    "augment.random_crop", "augment.flip",
)  # fmt: skip
CHOICES = {
    "pairing": ("independent", "diffusers"),
    "loss.noise_schedule_dtype": ("float32", "latents"),
    "frozen_dtype": ("float32", "bfloat16", "float16"),
    "lr_schedule": (
        "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts",
        "polynomial", "piecewise_constant",
    ),
}  # fmt: skip


def check(cfg: DictConfig) -> None:
    """Refuse values that no run could use.

    Raises:
        UserError: names the key, the value and what it must be.
    """
    for keys, kind, holds in (
        (WHOLE, "a whole number", lambda v: isinstance(v, int)),
        (POSITIVE + NOT_NEGATIVE, "a number", lambda v: isinstance(v, int | float)),
        (POSITIVE, "greater than 0", lambda v: v > 0),
        (NOT_NEGATIVE, "0 or greater", lambda v: v >= 0),
    ):
        for key in keys:
            _hold(cfg, key, f"must be {kind}", lambda v, h=holds: not isinstance(v, bool) and h(v))
    for key in SWITCHES:
        _hold(cfg, key, "must be true or false", lambda v: isinstance(v, bool))
    for key, choices in CHOICES.items():
        _hold(cfg, key, f"must be one of {', '.join(choices)}", lambda v, c=choices: v in c)


def _hold(cfg: DictConfig, key: str, sentence: str, holds: Callable[[object], bool]) -> None:
    value = OmegaConf.select(cfg, key, throw_on_missing=True)
    if not holds(value):
        raise UserError(f"{key}={value} is not usable: {key} {sentence}.")


def check_choices(arguments: list[str]) -> None:
    """Refuse `group=name` where the group has no such file, and suggest the nearest.

    Raises:
        UserError: names the choice and the nearest one there is.
    """
    for argument in arguments:
        group, _, values = argument.lstrip("+").partition("=")
        if "(" in values or not group or not (CONF / group).is_dir():
            continue
        names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        for value in values.split(","):
            if value not in names and value != "null":
                near = get_close_matches(value, names, n=1, cutoff=0.4)
                hint = f"did you mean {group}={near[0]}?" if near else f"choose {', '.join(names)}."
                own = " For your own photos: subject=folder subject.photos=DIR"
                own = own + " subject.class_noun=dog." if group == "subject" else ""
                raise UserError(f"{group}={value} does not exist: {hint}{own}")


def entry(name: str, run: Callable[[DictConfig], int | None]) -> None:
    """Compose `conf/<name>.yaml` with the command line and run; a user's error exits with 2."""

    @hydra.main(config_path=str(CONF), config_name=name, version_base="1.3")
    def main(cfg: DictConfig) -> None:
        try:
            code = run(cfg)
        except UserError as error:
            _refuse(str(error))
        except OmegaConfBaseException as error:
            _refuse(f"The configuration is not complete: {str(error).splitlines()[0]}.")
        if code:
            sys.exit(code)

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # speaks of kernels nobody uses
    try:
        check_choices(sys.argv[1:])
    except UserError as error:
        _refuse(str(error))
    main()


def _refuse(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(2)

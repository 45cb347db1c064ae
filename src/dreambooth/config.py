"""Checks that need a composed config or the command line; imports nothing heavy.

The only module below the entry scripts that sees a config object.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreambooth.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"

OmegaConf.register_new_resolver("if", lambda when, yes, no: yes if when else no, replace=True)
OmegaConf.register_new_resolver("last_word", lambda text: text.split()[-1], replace=True)
OmegaConf.register_new_resolver("slug", lambda text: _slug(text), replace=True)

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
OPTIONAL = {
    "text_encoder_lr": ("null or greater than 0", lambda v: v > 0),
    "loss.min_snr_gamma": ("null or greater than 0", lambda v: v > 0),
    "ema_decay": ("null or between 0 and 1", lambda v: 0 < v < 1),
}
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
        "polynomial",
    ),
}  # fmt: skip


DIFFUSERS = {
    "learning_rate": "lr", "max_train_steps": "max_steps", "with_prior_preservation": "ppl",
    "train_batch_size": "batch_size", "gradient_accumulation_steps": "accumulate",
    "prior_loss_weight": "prior.weight", "mixed_precision": "trainer.precision",
    "pretrained_model_name_or_path": "model.path", "instance_data_dir": "subject.photos",
    "class_data_dir": "prior.images_dir", "snr_gamma": "loss.min_snr_gamma",
}  # fmt: skip


def _slug(text: str) -> str:
    """Overrides as one folder name: no separators or spaces, as long as file systems allow.

    Two long texts that begin alike keep two names, or two runs of a sweep would share a folder.
    """
    slug = re.sub(r"[^A-Za-z0-9._=,+-]+", "-", text) or "run"
    if len(slug) <= 200:
        return slug
    return f"{slug[:190]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def check(cfg: DictConfig) -> None:
    """Refuse values that no run could use.

    Raises:
        UserError: names the key, the value and what it must be.
    """
    for keys, kind, holds in (
        (WHOLE, "a whole number", lambda v: isinstance(v, int)),
        (POSITIVE + NOT_NEGATIVE, "a finite number", _is_number),
        (POSITIVE, "greater than 0", lambda v: v > 0),
        (NOT_NEGATIVE, "0 or greater", lambda v: v >= 0),
        (("resolution",), "a multiple of 8", lambda v: v % 8 == 0),
    ):
        for key in keys:
            _hold(cfg, key, f"must be {kind}", lambda v, h=holds: not isinstance(v, bool) and h(v))
    for key, (kind, holds) in OPTIONAL.items():
        _hold(cfg, key, f"must be {kind}", lambda v, h=holds: v is None or _is_number(v) and h(v))
    for key in SWITCHES:
        _hold(cfg, key, "must be true or false", lambda v: isinstance(v, bool))
    for key, choices in CHOICES.items():
        _hold(cfg, key, f"must be one of {', '.join(choices)}", lambda v, c=choices: v in c)


def _is_number(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


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
    """Compose `conf/<name>.yaml` with the command line and run; a user's error exits with 2.

    In a sweep the other runs go on, and the exit code says that one failed.
    """
    failed = []

    @hydra.main(config_path=str(CONF), config_name=name, version_base="1.3")
    def main(cfg: DictConfig) -> None:
        code = None
        try:
            code = run(cfg)
        except (UserError, OmegaConfBaseException) as error:
            failed.append(error)
            _say(error)
        if code:
            sys.exit(code)

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra's own errors arrive here, to be worded
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # speaks of kernels nobody uses
    try:
        check_choices(sys.argv[1:])
        main()
    except (UserError, OmegaConfBaseException) as error:
        failed.append(error)
        _say(error)
    except HydraException as error:
        failed.append(error)
        _say(UserError(_worded(name, error)))
    except KeyboardInterrupt:
        print("\nStopped. The same command begins again with what is cached.", file=sys.stderr)
        sys.exit(130)
    if failed:
        sys.exit(2)


def _say(error: Exception) -> None:
    text = str(error)
    if isinstance(error, OmegaConfBaseException):
        text = f"The configuration is not complete: {text.splitlines()[0]}."
    if "LOCAL_RANK" not in os.environ or os.environ["LOCAL_RANK"] == "0":  # one rank speaks
        print(f"error: {text}", file=sys.stderr, flush=True)


def _worded(name: str, error: HydraException) -> str:
    """Hydra's error as one sentence; of an unknown key, with the nearest one there is."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    unknown = re.match(r"Could not override '([^']+)'", lines[0])
    if unknown is None:
        return f"The command line cannot be read: {lines[0].rstrip('.')}."
    key, known = unknown[1], _keys(OmegaConf.load(CONF / f"{name}.yaml"))
    for file in CONF.glob("*/*.yaml"):
        known |= {file.parent.name} | _keys(OmegaConf.load(file), f"{file.parent.name}.")
    # a key is also meant by its last word, or by the name that diffusers' script gives it
    meant = {k.split(".")[-1]: k for k in sorted(known)} | DIFFUSERS | {k: k for k in known}
    near = get_close_matches(key, sorted(meant), n=1)
    hint = f"did you mean {meant[near[0]]}?" if near else f"conf/{name}.yaml lists every key."
    return f"There is no key {key}: {hint}"


def _keys(node: DictConfig, prefix: str = "") -> set[str]:
    """Every key of a config, dotted."""
    keys = set()
    for key, value in node.items_ex(resolve=False):
        keys.add(f"{prefix}{key}")
        if isinstance(value, DictConfig):
            keys |= _keys(value, f"{prefix}{key}.")
    return keys

"""What a command line may hold, and values of a composed config that no run could use.

Imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from dreambooth.cli.axes import SEED, is_number, is_seed, is_whole, parse_axes
from dreambooth.cli.configs import COMMANDS, CONF, files_of, groups_of, keys_of
from dreambooth.cli.suggest import no_key
from dreambooth.errors import UserError
from dreambooth.packages import need
from dreambooth.study.push import require_token

POSITIVE = (
    "lr",
    "max_steps",
    "resolution",
    "batch_size",
    "accumulate",
    "max_grad_norm",
    "augment.num_crops",
    "prior.num_class_images",
    "prior.batch_size",
    "prior.num_inference_steps",
    "checkpoint.every_n_steps",
    "checkpoint.keep",
    "sampling.num_inference_steps",
    "sampling.batch_size",
    "photos.rendered",
    "reuse.keep_gib",
    "logger.wait",
)
NOT_NEGATIVE = (
    "prior.weight",
    "prior.weight_end",
    "prior.guidance_scale",
    "sampling.guidance_scale",
    "lr_warmup_steps",
    "loss.noise_offset",
    "samples.every_n_steps",
)
WHOLE = (
    "max_steps",
    "resolution",
    "batch_size",
    "accumulate",
    "augment.num_crops",
    "prior.num_class_images",
    "prior.batch_size",
    "lr_warmup_steps",
    "prior.num_inference_steps",
    "checkpoint.every_n_steps",
    "checkpoint.keep",
    "sampling.num_inference_steps",
    "sampling.batch_size",
    "samples.every_n_steps",
)
OPTIONAL = {
    "text_encoder_lr": ("null or greater than 0", lambda v: v > 0),
    "text_encoder_stop_step": (
        "null or a whole number greater than 0",
        lambda v: is_whole(v) and v > 0,
    ),
    "loraplus_lr_ratio": ("null or a number, 1 or greater", lambda v: v >= 1),
    "loss.min_snr_gamma": ("null or greater than 0", lambda v: v > 0),
    "ema_decay": ("null or between 0 and 1", lambda v: 0 < v < 1),
    "checkpoint.patience": (
        "null or a whole number greater than 0",
        lambda v: is_whole(v) and v > 0,
    ),
    "checkpoint.keep_when_finished": (
        "null or a whole number, 0 or greater",
        lambda v: is_whole(v) and v >= 0,
    ),
    "photos.use": ("null or a whole number greater than 0", lambda v: is_whole(v) and v > 0),
}
SEEDS = ("seed", "prior.seed")
TEXTS = ("instance_prompt", "class_prompt", "subject_phrase", "identifier", "cache_dir")
TEXTS += ("output_dir", "model.name", "model.path", "method.name", "subject.name")
TEXTS += ("subject.class_noun", "scheduler.name", "prior.sampler.name")
LISTS = {
    "samples.prompts": ('["a {subject}"]', lambda v: isinstance(v, str) and bool(v.strip())),
    "samples.seeds": ("[0,1]", is_seed),
    "export.layouts": (
        "[diffusers,kohya]",
        lambda v: v in ("diffusers", "kohya", "peft", "single_file"),
    ),
    "evaluation.metrics": ("[dino,clip_t]", lambda v: isinstance(v, str)),
}
COUNT = (
    "null or a whole number greater than 0",
    lambda v: v is None or is_whole(v) and v > 0,
)
SWITCHES = (
    "dry_run",
    "ppl",
    "train_text_encoder",
    "gradient_checkpointing",
    "compile",
    "augment.random_crop",
    "augment.flip",
    "reuse.enabled",
    "logger.wandb",
    "logger.tensorboard",
    "logger.artifacts",
)
CHOICES = {
    "pairing": ("independent", "diffusers"),
    "prior.kind": ("images", "prediction"),
    "prior.weight_schedule": ("constant", "linear", "cosine"),
    "loss.noise_schedule_dtype": ("float32", "latents"),
    "frozen_dtype": ("float32", "bfloat16", "float16"),
    "export.kind": ("auto", "full", "lora", "none"),
    "export.dtype": ("float32", "float16", "bfloat16"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.precision": ("32-true", "bf16-mixed", "16-mixed"),
    "lr_schedule": (
        "constant",
        "constant_with_warmup",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
    ),
}

DEVICE = ("one of auto, cpu, cuda", lambda v: v in ("auto", "cpu", "cuda"))
DRAWING = {  # of generate.py
    "prompts_file": ("null or a file", lambda v: v is None or isinstance(v, str)),
    "adapter_weight": ("a finite number", lambda v: is_number(v)),
    "step": (
        "null or a whole number, 0 or greater",
        lambda v: v is None or is_whole(v) and v >= 0,
    ),
    "grid.columns": COUNT,
    "grid.cell": ("a whole number, 16 or greater", lambda v: is_whole(v) and v >= 16),
    "morph.keyframes": COUNT,
    "morph.seconds": ("a number greater than 0", lambda v: is_number(v) and v > 0),
    "morph.fps": ("a number greater than 0", lambda v: is_number(v) and v > 0),
    "subject_phrase": ("null or a text in quotes", lambda v: v is None or isinstance(v, str) and v),
    "morph.size": (
        "null or an even number greater than 0",
        lambda v: v is None or is_whole(v) and v > 0 and v % 2 == 0,
    ),
}


BENCHMARK = {  # of evaluate.py
    **dict.fromkeys(
        ("run", "images", "tree", "manifest", "output_dir", "identifier", "published"),
        ("null or a text", lambda v: v is None or isinstance(v, str) and bool(v.strip())),
    ),
    "layout": ("a text such as {subject}/{prompt}/{seed}.png", lambda v: isinstance(v, str)),
    "prompts": ("the name of a prompt set", lambda v: isinstance(v, str)),
    "images_per_prompt": ("a whole number greater than 0", lambda v: is_whole(v) and v > 0),
    "first_index": ("null, 0 or 1", lambda v: v is None or is_whole(v) and v in (0, 1)),
}


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
        if block == "hydra" or block in groups_of(command):
            continue
        if block not in ours and files_of(block, own):
            continue
        if key not in keys_of(command, folders):
            raise UserError(no_key(command, key, folders))


def check(cfg: DictConfig) -> None:
    """Refuse values that no run could use.

    Raises:
        UserError: names the key, the value and what it must be.
    """
    world = ("subject.identity",) if "identity" in cfg.subject else ()
    for keys, kind, holds in (
        (WHOLE + world, "a whole number", is_whole),
        (POSITIVE + NOT_NEGATIVE, "a finite number", is_number),
        (POSITIVE, "greater than 0", lambda v: v > 0),
        (NOT_NEGATIVE, "0 or greater", lambda v: v >= 0),
        (("resolution",), "a multiple of 8, 16 or greater", lambda v: v % 8 == 0 and v >= 16),
        (SEEDS, SEED, is_seed),
        (SWITCHES, "true or false", lambda v: isinstance(v, bool)),
        (TEXTS, "a text in quotes", lambda v: isinstance(v, str) and bool(v.strip())),
        (("export.verify",), "auto, true or false", lambda v: v == "auto" or isinstance(v, bool)),
        (("init_adapter",), "null or a file", lambda v: v is None or isinstance(v, str)),
        (("resume",), "auto, null or a .ckpt", lambda v: v is None or isinstance(v, str)),
    ):
        for key in keys:
            _hold(cfg, key, kind, holds)
    for key, (kind, holds) in OPTIONAL.items():
        _hold(cfg, key, kind, lambda v, h=holds: v is None or is_number(v) and h(v))
    for key, choices in CHOICES.items():
        _hold(cfg, key, f"one of {', '.join(choices)}", lambda v, c=choices: v in c)
    for key, (example, holds) in LISTS.items():
        _hold_list(cfg, key, example, holds)
    if cfg.export.push_to_hub is not None:
        require_token(str(cfg.export.push_to_hub))
    if cfg.lr_warmup_steps and cfg.lr_schedule == "constant":
        raise UserError(
            "lr_warmup_steps has no effect with lr_schedule=constant: set "
            "lr_schedule=constant_with_warmup."
        )


def check_generate(cfg: DictConfig) -> None:
    """`check` for generate.py; null takes the run's own value.

    Raises:
        UserError: names the key, the value and what it must be.
    """
    for name in ("prompts", "seeds"):
        _hold_list(cfg, name, *LISTS[f"samples.{name}"])
    _hold(cfg, "negative_prompt", "a text in quotes", lambda v: isinstance(v, str))
    for key, (kind, holds) in DRAWING.items():
        _hold(cfg, key, kind, holds)
    if cfg.morph.prompts is not None:
        _hold_list(cfg, "morph.prompts", *LISTS["samples.prompts"])
    kinds = "a list of gif and mp4, such as 'morph.formats=[gif]'"
    _hold(cfg, "morph.formats", kinds, lambda v: bool(v) and {*v} <= {"gif", "mp4"})
    parse_axes(cfg.grid)
    _check_added_files(cfg)
    _check_drawing(cfg)


def check_evaluate(cfg: DictConfig) -> None:
    """`check` for evaluate.py; null takes the run's own value.

    Raises:
        UserError: names the key, the value and what it must be.
    """
    _hold_list(cfg, "evaluation.metrics", *LISTS["evaluation.metrics"])
    _hold(cfg, "subject_phrase", *DRAWING["subject_phrase"])
    _check_added_files(cfg)
    for key, (kind, holds) in BENCHMARK.items():
        _hold(cfg, key, kind, holds)
    _check_drawing(cfg)


def check_report(cfg: DictConfig) -> None:
    """`check` for report.py.

    Raises:
        UserError: `runs` is not a folder.
    """
    if not isinstance(cfg.runs, str) or not Path(cfg.runs).is_dir():
        raise UserError(f"runs={cfg.runs} is not a folder: give the output folder of train.py.")


def check_extract(cfg: DictConfig) -> None:
    """`check` for `dreambooth extract`.

    Raises:
        UserError: names the key, the value and what it must be.
    """
    _hold(cfg, "rank", "a whole number greater than 0", lambda v: is_whole(v, 1))
    _hold(cfg, "device", *DEVICE)


def check_merge(cfg: DictConfig) -> None:
    """`check` for `dreambooth merge`.

    Raises:
        UserError: names the key, the value and what it must be.
    """
    _check_added_files(cfg)
    _hold(cfg, "adapter_weight", *DRAWING["adapter_weight"])


def check_tokens(cfg: DictConfig) -> None:
    """`check` for `dreambooth tokens`; null takes the model's own value.

    Raises:
        UserError: names the key, the value and what it must be.
    """
    _hold(cfg, "class_noun", "a text in quotes", lambda v: isinstance(v, str) and bool(v.strip()))
    if cfg.candidates is not None:
        _hold_list(cfg, "candidates", "[sks,zwx]", lambda v: isinstance(v, str) and bool(v.strip()))
    for key in ("screened", "drawn"):
        _hold(cfg, key, "a whole number greater than 0", lambda v: is_whole(v, 1))
    _hold(cfg, "images", "a whole number, 2 or greater", lambda v: is_whole(v, 2))
    _hold(cfg, "seed", SEED, is_seed)
    _check_drawing(cfg)


def _check_added_files(cfg: DictConfig) -> None:
    for key in ("adapters", "embeddings"):
        kind = f"a list of files or folders, such as '{key}=[FILE]'"
        _hold(
            cfg,
            key,
            kind,
            lambda v: isinstance(v, ListConfig) and all(isinstance(f, str) and f for f in v),
        )


def _check_drawing(cfg: DictConfig) -> None:
    for key in ("num_inference_steps", "batch_size"):
        _hold(cfg, key, *COUNT)
    kind = "null or a number, 0 or greater"
    _hold(cfg, "guidance_scale", kind, lambda v: v is None or is_number(v) and v >= 0)
    _hold(cfg, "device", *DEVICE)


def _hold(cfg: DictConfig, key: str, kind: str, holds: Callable[[Any], bool]) -> None:
    value = OmegaConf.select(cfg, key, throw_on_missing=True)
    if not holds(value):
        raise UserError(f"{key}={value} is not usable: {key} must be {kind}.")


def _hold_list(cfg: DictConfig, key: str, example: str, holds: Callable[[Any], bool]) -> None:
    each = f", each {SEED}" if holds is is_seed else ""
    _hold(
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

"""Values that the commands beside train.py could not use; `checks` has those of train.py.

Imports nothing heavy.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from dreambooth.cli.drawing.axes import SEED, is_number, is_seed, is_whole, parse_axes
from dreambooth.cli.refusals.checks import hold, hold_list
from dreambooth.cli.refusals.kinds import LISTS
from dreambooth.errors import UserError

COUNT = (
    "null or a whole number greater than 0",
    lambda v: v is None or is_whole(v) and v > 0,
)
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


def check_generate(cfg: DictConfig) -> None:
    """`check` for generate.py; null takes the run's own value.

    Raises:
        UserError: names the key, the value and what it must be.
    """
    for name in ("prompts", "seeds"):
        hold_list(cfg, name, *LISTS[f"samples.{name}"])
    hold(cfg, "negative_prompt", "a text in quotes", lambda v: isinstance(v, str))
    for key, (kind, holds) in DRAWING.items():
        hold(cfg, key, kind, holds)
    if cfg.morph.prompts is not None:
        hold_list(cfg, "morph.prompts", *LISTS["samples.prompts"])
    kinds = "a list of gif and mp4, such as 'morph.formats=[gif]'"
    hold(cfg, "morph.formats", kinds, lambda v: bool(v) and {*v} <= {"gif", "mp4"})
    parse_axes(cfg.grid)
    _check_added_files(cfg)
    _check_drawing(cfg)


def check_evaluate(cfg: DictConfig) -> None:
    """`check` for evaluate.py; null takes the run's own value.

    Raises:
        UserError: names the key, the value and what it must be.
    """
    hold_list(cfg, "evaluation.metrics", *LISTS["evaluation.metrics"])
    hold(cfg, "subject_phrase", *DRAWING["subject_phrase"])
    _check_added_files(cfg)
    for key, (kind, holds) in BENCHMARK.items():
        hold(cfg, key, kind, holds)
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
    hold(cfg, "rank", "a whole number greater than 0", lambda v: is_whole(v, 1))
    hold_list(cfg, "evaluation.metrics", *LISTS["evaluation.metrics"])
    hold(cfg, "photos", "null or a folder", lambda v: v is None or isinstance(v, str))
    hold(cfg, "device", *DEVICE)


def check_merge(cfg: DictConfig) -> None:
    """`check` for `dreambooth merge`.

    Raises:
        UserError: names the key, the value and what it must be.
    """
    _check_added_files(cfg)
    hold(cfg, "adapter_weight", *DRAWING["adapter_weight"])


def check_tokens(cfg: DictConfig) -> None:
    """`check` for `dreambooth tokens`; null takes the model's own value.

    Raises:
        UserError: names the key, the value and what it must be.
    """
    hold(cfg, "class_noun", "a text in quotes", lambda v: isinstance(v, str) and bool(v.strip()))
    if cfg.candidates is not None:
        hold_list(cfg, "candidates", "[sks,zwx]", lambda v: isinstance(v, str) and bool(v.strip()))
    for key in ("screened", "drawn"):
        hold(cfg, key, "a whole number greater than 0", lambda v: is_whole(v, 1))
    hold(cfg, "images", "a whole number, 2 or greater", lambda v: is_whole(v, 2))
    hold(cfg, "seed", SEED, is_seed)
    _check_drawing(cfg)


def _check_added_files(cfg: DictConfig) -> None:
    for key in ("adapters", "embeddings"):
        kind = f"a list of files or folders, such as '{key}=[FILE]'"
        hold(
            cfg,
            key,
            kind,
            lambda v: isinstance(v, ListConfig) and all(isinstance(f, str) and f for f in v),
        )


def _check_drawing(cfg: DictConfig) -> None:
    if "scheduler" in cfg and "model" not in cfg:
        if OmegaConf.is_interpolation(cfg.scheduler, "name"):
            raise UserError(
                "scheduler=auto is the sampler of a base model (model=NAME), and a run draws with "
                "its own: leave scheduler out."
            )
    for key in ("num_inference_steps", "batch_size"):
        hold(cfg, key, *COUNT)
    kind = "null or a number, 0 or greater"
    hold(cfg, "guidance_scale", kind, lambda v: v is None or is_number(v) and v >= 0)
    hold(cfg, "device", *DEVICE)

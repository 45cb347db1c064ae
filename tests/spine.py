"""The main job on a tiny model: in this process, or as a user would start it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from dreambooth.cli.configuration import resolvers  # noqa: F401  registers what the YAML files use
from dreambooth.cli.configuration.configs import CONF
from dreambooth.cli.refusals.checks import check
from dreambooth.scratch import make_scratch

if TYPE_CHECKING:
    from dreambooth.training.spec import TrainSpec

ROOT = CONF.parent
SMALL = (
    "subject=folder",
    "subject.class_noun=dog",
    "resolution=16",
    "batch_size=1",
    "max_steps=2",
    "lr=1e-3",
    "prior.num_class_images=2",
    "prior.num_inference_steps=2",
    "sampling.num_inference_steps=2",
    "samples.every_n_steps=0",
    "samples.seeds=[0]",
    "samples.prompts=['a {subject}']",
    "trainer=cpu",
    "logger=csv",
    "evaluation=none",
    "checkpoint.keep_when_finished=2",
    "export.verify=false",  # tests that look at it ask for it
    "reuse=off",  # tests share a cache, and each trains what it looks at
)
CONSTANT = ("max_steps=4", "checkpoint.every_n_steps=100", "checkpoint.keep=2")


class Spine:
    """Runs `train.py` on three photos of noise and two class images."""

    def __init__(self, model: Path, root: Path, own: tuple[str, ...] = ()) -> None:
        torch.set_num_threads(1)
        self.model, self.own = model, own
        self.cache, self.photos = root / "cache", root / "photos"
        self.photos.mkdir()
        for i in range(3):
            draw = np.random.default_rng(i).integers(0, 256, (24, 20, 3), dtype=np.uint8)
            Image.fromarray(draw).save(self.photos / f"{i}.png")

    def overrides(self, *more: str) -> list[str]:
        """Everything but the output folder."""
        own = (*self.own, f"subject.photos='{self.photos}'", f"cache_dir='{self.cache}'")
        own += (f"model.path='{self.model}'",)
        return [*SMALL, *own, *more]

    def compose(self, out: Path, *more: str) -> DictConfig:
        """The checked config of a run in `out`."""
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", self.overrides(*more, f"output_dir='{out}'"))
        check(cfg)
        return cfg

    def run(self, out: Path, *more: str) -> Path:
        """The whole job in this process; returns its folder."""
        from dreambooth.training.job import run

        spec = self.spec(out, *more)
        out.mkdir(parents=True, exist_ok=True)
        assert run(spec).code == 0
        return out

    def whole_and_resumed(self, root: Path, *more: str) -> tuple[Path, Path]:
        """A run that keeps its second step, and one that goes on from there."""
        whole = self.run(root / "whole", *more, "checkpoint.every_n_steps=2")
        copy_checkpoint(whole, root / "parts", "checkpoints/phase-0/step-000002.ckpt")
        return whole, self.run(root / "parts", *more)

    def spec(self, out: Path, *more: str) -> TrainSpec:
        """The typed values of a run in `out`."""
        from dreambooth.cli.configuration.specs import train_spec

        return train_spec(self.compose(out, *more))

    def command(self, *arguments: str) -> list[str]:
        """The command line of `python train.py`."""
        return [sys.executable, str(ROOT / "train.py"), *self.overrides(*arguments)]

    def shell(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
        """`python train.py ...` started in `folder`."""
        command, quiet = self.command(*arguments), {"capture_output": True, "text": True}
        return subprocess.run(command, cwd=folder, env=environment(), timeout=300, **quiet)


def environment() -> dict[str, str]:
    """This process's, with one thread and without what would change a run."""
    dropped = ("DREAMBOOTH_", "WANDB_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    return {**kept, "OMP_NUM_THREADS": "1"}


def checkpoint(out: Path, phase: int = 0) -> dict:
    """The newest checkpoint of a run."""
    newest = sorted((out / "checkpoints" / f"phase-{phase}").glob("*.ckpt"))[-1]
    return torch.load(newest, weights_only=True)


def copy_checkpoint(source: Path, target: Path, name: str) -> Path:
    """A checkpoint and its record, alone in another run's folder."""
    for suffix in ("", ".json"):
        file = target / f"{name}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((source / f"{name}{suffix}").read_bytes())
    return target / name


def same(a: object, b: object) -> bool:
    """Equal to the last bit, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def left_behind(target: Path) -> Path:
    """Make the temporary folder that a process left which was killed while it wrote `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = make_scratch(target)
    return scratch.rename(str(scratch).replace(f"-{os.getpid()}-", "-999999999-"))

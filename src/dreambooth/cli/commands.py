"""The bodies of the commands: check the command line first, and import torch only afterwards."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreambooth.cli.checks import check, check_evaluate, check_generate, check_packages
from dreambooth.cli.objective import check_objective, objective_of
from dreambooth.cli.startup import postponed_imports
from dreambooth.heap import keep_heap
from dreambooth.training.distributed import is_first


def train(cfg: DictConfig) -> int | float:
    """Fine-tune on a subject's photos, export, draw samples, score.

    Returns:
        the exit code, or the objective of a run that has one.
    """
    check(cfg)
    check_packages(cfg)
    check_objective(cfg.objective, cfg.evaluation.metrics if cfg.evaluation.prompts else ())
    with postponed_imports():
        from dreambooth.cli.processes import same_job
        from dreambooth.cli.specs import train_spec
        from dreambooth.training.job import run

    keep_heap()
    spec = train_spec(cfg)
    with same_job(cfg.output_dir):
        outcome = run(spec)
    if outcome.code or cfg.objective is None or not is_first():
        return outcome.code
    return objective_of(cfg.objective, outcome.scores.summary if outcome.scores else {})


def generate(cfg: DictConfig) -> int:
    """Draw images with a finished run's model; return the exit code."""
    check_generate(cfg)
    check_packages(cfg)
    with postponed_imports():
        from dreambooth.cli import generate as command

    keep_heap()
    return command.generate(cfg)


def evaluate(cfg: DictConfig) -> int:
    """Score a finished run, a folder of images, or photos against themselves; return the code."""
    check_evaluate(cfg)
    check_packages(cfg)
    with postponed_imports():
        from dreambooth.cli import evaluate as command

    keep_heap()
    return command.evaluate(cfg)


def report(cfg: DictConfig) -> int:
    """Compare many runs in tables; return the exit code."""
    with postponed_imports():
        from dreambooth.cli.specs import report_spec
        from dreambooth.study import tables

    return tables.report(report_spec(cfg))


def pretrain(cfg: DictConfig) -> None:
    """Pretrain the embedded base model, stage by stage."""
    with postponed_imports():
        from dreambooth.pocket.pretraining import spec, stages

    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    stages.pretrain(spec.from_plain(plain))

"""The bodies of the commands: check the command line first, and import torch only afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreambooth.cli.checks import check, check_evaluate, check_generate, check_packages
from dreambooth.cli.jobs import is_of_sweep
from dreambooth.cli.objective import check_objective, objective_of
from dreambooth.cli.startup import postponed_imports
from dreambooth.heap import keep_heap
from dreambooth.quoting import quoted, typed
from dreambooth.training.distributed import is_first
from dreambooth.training.finished import finished


def train(cfg: DictConfig) -> int | float:
    """Fine-tune on a subject's photos, export, draw samples, score.

    Returns:
        the exit code, or the objective of a run that has one.
    """
    check(cfg)
    check_packages(cfg)
    check_objective(cfg.objective, cfg.evaluation.metrics if cfg.evaluation.prompts else ())
    config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    if cfg.dry_run:
        from dreambooth.cli.dry_run import print_run

        print_run(config)
        return 0
    folder = Path(cfg.output_dir)
    scores = finished(folder, config)
    if scores is not None:
        if is_first():
            print(f"{folder} is finished, and stays as it is; resume=null trains it anew.")
        return 0 if cfg.objective is None else objective_of(cfg.objective, scores)
    with postponed_imports():
        from dreambooth.cli.processes import same_job
        from dreambooth.cli.specs import train_spec
        from dreambooth.training.job import run

    keep_heap()
    spec = train_spec(cfg)
    with same_job(cfg.output_dir):
        outcome = run(spec)
    if outcome.code:
        say_stopped(folder)
    elif is_first():
        show_page(spec.folder)
    if outcome.code or cfg.objective is None or not is_first():
        return outcome.code
    return objective_of(cfg.objective, outcome.scores.summary if outcome.scores else {})


def say_stopped(folder: Path) -> None:
    """Say how to go on with a run that a signal stopped; a sweep says it once for all runs."""
    print("\nStopped; everything is saved.", end="")
    if is_of_sweep():
        print(flush=True)
    else:
        again = typed(f"hydra.run.dir={quoted(folder)}")
        print(f" Continue with the same command and {again}", flush=True)


def show_page(folder: Path) -> None:
    """Write a finished run's `run.html`, and outside of a sweep print where it is.

    An error is a warning.
    """
    with postponed_imports():
        from dreambooth.study.looks import attempted
        from dreambooth.study.page.write import write_run_page

    page = attempted("run.html", lambda: write_run_page(folder))
    if page is not None and not is_of_sweep():
        print(f"\nThe run's page: {page}")


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
    code = command.evaluate(cfg)
    if not code and cfg.run is not None:
        show_page(Path(cfg.run))
    return code


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

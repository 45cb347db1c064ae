"""The bodies of the commands: check the command line first, and import torch only afterwards."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from dreambooth.cli.refusals.checks import check_packages
from dreambooth.cli.refusals.command_checks import (
    check_evaluate,
    check_extract,
    check_generate,
    check_merge,
    check_report,
    check_tokens,
)
from dreambooth.cli.refusals.rehearsal import checked
from dreambooth.cli.refusals.resources import refuse_full_disk, refuse_small_memory, show_needs
from dreambooth.cli.startup import postponed_imports
from dreambooth.cli.sweeps.objective import objective_of
from dreambooth.cli.sweeps.sweep_lines import Place, in_its_sweep, result
from dreambooth.heap import keep_heap
from dreambooth.quoting import quoted, typed
from dreambooth.scratch import remove_leftovers
from dreambooth.study.costs.step_memory import memory_of
from dreambooth.training.distributed import is_first
from dreambooth.training.resuming.finished import changed_logs, damaged, finished

if TYPE_CHECKING:
    from dreambooth.training.logs.summary import Finished

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> int | float:
    """Fine-tune on a subject's photos, export, draw samples, score.

    Returns:
        the exit code, or the objective of a run that has one.
    """
    config = checked(cfg)
    from dreambooth.cli.refusals.photos import refuse_bad_photos  # imports Pillow

    if cfg.dry_run:
        from dreambooth.cli.sweeps.dry_run import print_run

        print_run(cfg)
        return 0
    folder, place = Path(cfg.output_dir), Place.current()
    scores = finished(folder, config)
    changed = None if scores is None else damaged(folder)
    if changed is not None:
        log.warning(
            "%s is not what the run wrote: it is made again, from the last checkpoint if there is "
            "one.",
            changed,
        )
    elif scores is not None:
        if is_first():
            for path in changed_logs(folder):
                log.warning(
                    "%s is not what the run wrote, and only training anew would make it again: "
                    "reports show this run as unreadable. Model and scores are whole.",
                    path,
                )
            remove_leftovers(folder, deep=True)
            kept = f"{folder} is finished, and stays as it is; resume=null trains it anew."
            print(kept if place is None else place.line("was finished before"), flush=True)
            upload(folder, cfg.export.push_to_hub)
        return 0 if cfg.objective is None else objective_of(cfg.objective, scores)
    refuse_bad_photos(config)
    refuse_full_disk([config])
    with postponed_imports():
        from dreambooth.cli.configuration.specs import train_spec
        from dreambooth.cli.refusals.processes import same_job
        from dreambooth.training.exports.fresh_process import fresh_process
        from dreambooth.training.job import run
        from dreambooth.training.logs.memory import memory_gib
        from dreambooth.training.logs.summary import refuse_unverified

    keep_heap()
    spec = train_spec(cfg)
    device = spec.hardware.device
    memory, there = memory_of(config, on_gpu=device == "cuda"), memory_gib(device)
    if is_first() and (place is None or place.number == 1):  # a sweep says it once
        show_needs(config, memory, there)
    refuse_small_memory(config, memory, there)
    if spec.export.verify is not False and device == "cpu" and is_first():
        fresh_process().fork()  # before this process computes
    with same_job(cfg.output_dir), in_its_sweep(place):
        outcome = run(spec, None if memory is None else memory.total)
    if outcome.code:
        say_stopped(folder, place)
    elif outcome.finished is not None:
        say_finished(outcome.finished, place)
        upload(folder, spec.export.push_to_hub)
        refuse_unverified(outcome.finished)
    if outcome.code or cfg.objective is None or not is_first():
        return outcome.code
    return objective_of(cfg.objective, outcome.scores.summary if outcome.scores else {})


def upload(folder: Path, repo: str | None) -> None:
    """Upload a finished run to the model hub, if it asks for that, and say where it is."""
    if repo is not None:
        with postponed_imports():
            from dreambooth.study.push import push

        print(f"\nUploaded: {push(folder, repo)}", flush=True)


def say_stopped(folder: Path, place: Place | None) -> None:
    """Say how to go on with a run that a signal stopped; a sweep says it once for all runs."""
    print("\nStopped; everything is saved.", end="")
    if place is not None:
        print(flush=True)
    else:
        again = typed(f"hydra.run.dir={quoted(folder)}")
        print(f" Continue with the same command and {again}", flush=True)


def say_finished(run: Finished, place: Place | None) -> None:
    """Write a finished run's `run.html`, and print its summary; a run of a sweep is one line."""
    write_page(run.folder)
    if place is not None:
        scores = run.scores.summary if run.scores else {}
        print(place.line(result(run.costs, scores)), flush=True)
        return
    from dreambooth.training.logs.summary import print_summary

    print_summary(run)


def show_page(folder: Path) -> None:
    """Write a finished run's `run.html` and print where it is; an error is a warning."""
    page = write_page(folder)
    if page is not None:
        print(f"\nThe run's page: {page}")


def write_page(folder: Path) -> Path | None:
    """Write a finished run's `run.html` and card; return the page, or None after a warning."""
    with postponed_imports():
        from dreambooth.study.card import write_card
        from dreambooth.study.looks import attempted
        from dreambooth.study.page.write import write_run_page

    attempted("README.md", lambda: write_card(folder))
    return attempted("run.html", lambda: write_run_page(folder))


def generate(cfg: DictConfig) -> int:
    """Draw images with a finished run's model; return the exit code."""
    check_generate(cfg)
    check_packages(cfg)
    with postponed_imports():
        from dreambooth.cli.drawing import generate as command

    keep_heap()
    return command.generate(cfg)


def evaluate(cfg: DictConfig) -> int:
    """Score a finished run, a folder of images, or photos against themselves; return the code."""
    check_evaluate(cfg)
    check_packages(cfg)
    with postponed_imports():
        from dreambooth.cli.scoring import evaluate as command

    keep_heap()
    code = command.evaluate(cfg)
    if not code and cfg.run is not None:
        show_page(Path(cfg.run))
    return code


def extract(cfg: DictConfig) -> int:
    """Make a LoRA from a full fine-tune; return the exit code."""
    check_extract(cfg)
    with postponed_imports():
        from dreambooth.cli import extract as command

    return command.extract(cfg)


def merge(cfg: DictConfig) -> int:
    """Merge adapters into full weights; return the exit code."""
    check_merge(cfg)
    with postponed_imports():
        from dreambooth.cli import merge as command

    return command.merge(cfg)


def tokens(cfg: DictConfig) -> int:
    """Rank words as identifiers by how little the base model knows of them; return the code."""
    check_tokens(cfg)
    with postponed_imports():
        from dreambooth.cli import tokens as command

    keep_heap()
    return command.tokens(cfg)


def report(cfg: DictConfig) -> int:
    """Compare many runs in tables; return the exit code."""
    check_report(cfg)
    with postponed_imports():
        from dreambooth.cli.configuration.specs import report_spec
        from dreambooth.study import tables

    return tables.report(report_spec(cfg))


def pretrain(cfg: DictConfig) -> None:
    """Pretrain the embedded base model, stage by stage."""
    with postponed_imports():
        from dreambooth.pocket.pretraining import spec, stages

    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    stages.pretrain(spec.from_plain(plain))

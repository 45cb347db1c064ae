"""The bodies of the commands: check the command line first, and import torch only afterwards."""

from __future__ import annotations

from omegaconf import DictConfig

from dreambooth.cli.checks import check, check_evaluate, check_generate, check_packages


def train(cfg: DictConfig) -> int:
    """Fine-tune on a subject's photos, export, draw samples, score; return the exit code."""
    check(cfg)
    check_packages(cfg)
    from dreambooth.training.job import run

    return run(cfg)


def generate(cfg: DictConfig) -> int:
    """Draw images with a finished run's model; return the exit code."""
    check_generate(cfg)
    check_packages(cfg)
    from dreambooth.cli.generate import draw

    return draw(cfg)


def evaluate(cfg: DictConfig) -> int:
    """Score a finished run, a folder of images, or photos against themselves; return the code."""
    check_evaluate(cfg)
    check_packages(cfg)
    from dreambooth.cli.evaluate import assess

    return assess(cfg)


def report(cfg: DictConfig) -> int:
    """Compare many runs in tables; return the exit code."""
    from dreambooth.study.tables import report as report_runs

    return report_runs(cfg.runs, cfg.other_subjects, cfg.device, cfg.encoders_dir, cfg.cache_dir)


def pretrain(cfg: DictConfig) -> None:
    """Pretrain the embedded base model, stage by stage."""
    from dreambooth.pocket.pretraining.stages import pretrain as run_stages

    run_stages(cfg)

"""What a run of train.py would refuse before its first expensive step, without running it."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreambooth.cli.refusals.checks import check, check_packages
from dreambooth.cli.startup import postponed_imports
from dreambooth.cli.sweeps.objective import check_objective
from dreambooth.study.costs.sizes import ON_GPU


def checked(cfg: DictConfig) -> dict[str, Any]:
    """Check a run's settings without libraries; return them as plain values.

    Raises:
        UserError: a value that no run could use, or an option without its package.
    """
    check(cfg)
    check_packages(cfg)
    check_objective(cfg.objective, cfg.evaluation.metrics if cfg.evaluation.prompts else ())
    config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    return config


def rehearse(cfg: DictConfig, elsewhere: bool) -> None:
    """Refuse what the run would refuse.

    Args:
        elsewhere: whether the run is for another machine, whose devices are not known here.

    Raises:
        UserError: the sentence that the run would end with.
    """
    from dreambooth.cli.refusals.photos import refuse_bad_photos  # imports Pillow

    refuse_bad_photos(checked(cfg))
    with postponed_imports():
        from dreambooth.cli.configuration.specs import train_spec

    train_spec(_with_a_cpu(cfg) if elsewhere else cfg)


def is_elsewhere(cfg: DictConfig, launcher: str) -> bool:
    """Tell whether a run is for another machine: Slurm's, or one with a GPU where there is none.

    Args:
        launcher: the class of Hydra's launcher.
    """
    if "slurm" in launcher.lower():
        return True
    if cfg.trainer.accelerator not in ON_GPU:
        return False
    import torch

    return not torch.cuda.is_available()


def _with_a_cpu(cfg: DictConfig) -> DictConfig:
    """Copy a configuration with a Trainer that every machine can make."""
    trainer: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "precision": "32-true"}
    if "num_nodes" in cfg.trainer:
        trainer["num_nodes"] = 1
    return OmegaConf.merge(cfg, {"trainer": trainer})  # type: ignore[return-value]

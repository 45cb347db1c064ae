"""The jobs of a sweep before they run: each composed, with its folder and its configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write


@dataclass(frozen=True)
class PlannedJob:
    """A job of a sweep: its overrides, its folder within the sweep's, and its configuration.

    `config` holds no `hydra`, and is not resolved.
    """

    overrides: Sequence[str]
    folder: str
    config: DictConfig
    hydra: DictConfig

    def resolved(self) -> dict[str, Any]:
        """Return the job's configuration as plain values, every reference resolved.

        Raises:
            OmegaConfBaseException: a value that is missing or cannot be resolved.
        """
        with _as_job(self.hydra):
            config: Any = OmegaConf.to_container(self.config, resolve=True, throw_on_missing=True)
        return config


def planned_jobs(
    loader: ConfigLoader, sweep: DictConfig, overrides: Sequence[Sequence[str]]
) -> list[PlannedJob]:
    """Compose every job of a sweep as its launcher will.

    Args:
        sweep: the configuration of the sweep, with `hydra`.
        overrides: of each job.

    Raises:
        ConfigCompositionException: overrides that do not compose.
    """
    jobs = []
    for number, own in enumerate(overrides):
        composed = loader.load_sweep_config(sweep, list(own))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
        with _as_job(composed):
            folder = str(composed.hydra.sweep.subdir)
            path = os.path.abspath(Path(str(composed.hydra.sweep.dir)) / folder)
        with read_write(composed.hydra.runtime), open_dict(composed.hydra.runtime):
            composed.hydra.runtime.output_dir = path
        config = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        jobs.append(PlannedJob(own, folder, config, composed))
    return jobs


@contextmanager
def _as_job(composed: DictConfig) -> Iterator[None]:
    """Let the resolver `${hydra:...}` read a job's configuration."""
    hydra = HydraConfig.instance()
    before = hydra.cfg
    hydra.set_config(composed)
    try:
        yield
    finally:
        hydra.cfg = before

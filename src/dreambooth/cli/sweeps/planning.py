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
from omegaconf.errors import OmegaConfBaseException

from dreambooth.cli.refusals.checks import refuse_missing
from dreambooth.cli.refusals.error_sentences import sentence
from dreambooth.cli.refusals.rehearsal import rehearse
from dreambooth.errors import UserError
from dreambooth.files import cache_key
from dreambooth.training.resuming.fingerprint import NEITHER, flat, is_under


@dataclass(frozen=True)
class PlannedJob:
    """A job of a sweep: its overrides, its folder within the sweep's, and its configuration.

    `config` holds no `hydra`, and is not resolved.
    """

    overrides: Sequence[str]
    folder: str
    config: DictConfig
    hydra: DictConfig

    def refused(self, elsewhere: bool) -> str | None:
        """Return the sentence that the job would end with before its first step; None without one.

        Args:
            elsewhere: as in `rehearse`.
        """
        with _as_job(self.hydra):
            try:
                refuse_missing(self.config)
                rehearse(self.config, elsewhere)
            except Exception as error:
                text = sentence(error)
                if text is None:
                    raise
                return text
        return None

    def resolved(self) -> dict[str, Any]:
        """Return the job's configuration as plain values, every reference resolved.

        Raises:
            OmegaConfBaseException: a value that is missing or cannot be resolved.
        """
        with _as_job(self.hydra):
            config: Any = OmegaConf.to_container(self.config, resolve=True, throw_on_missing=True)
        return config

    @property
    def settings(self) -> str:
        """A hash of what a run is compared by, before references are resolved."""
        config: Any = OmegaConf.to_container(self.config, resolve=False)
        return cache_key(**{k: v for k, v in flat(config).items() if not is_under(k, NEITHER)})


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


def refuse_shared_folders(jobs: Sequence[PlannedJob]) -> None:
    """Refuse different jobs with one folder, of which the second would replace the first.

    Raises:
        UserError: names the folder and both jobs.
    """
    first: dict[str, PlannedJob] = {}
    for job in jobs:
        other = first.setdefault(job.folder, job)
        if other.overrides != job.overrides:
            alike = set(job.overrides) & set(other.overrides)
            one, two = (
                " ".join(override for override in each.overrides if override not in alike)
                for each in (other, job)
            )
            raise UserError(
                f"{one} and {two} would write into the same folder, {job.folder}: add "
                "'hydra.sweep.subdir=${hydra.job.num}', or start a sweep for each."
            )


def to_run(jobs: Sequence[PlannedJob]) -> list[dict[str, Any]]:
    """Return the configurations of the jobs that have left no record; others add next to nothing.

    One that cannot be resolved is left out: it fails by itself, with the others running.
    """
    configs = []
    for job in jobs:
        try:
            config = job.resolved()
        except (OmegaConfBaseException, UserError):
            continue
        if not (Path(config["output_dir"]) / "run.json").exists():
            configs.append(config)
    return configs


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

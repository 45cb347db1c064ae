"""Where the numbers go: CSV always, Weights & Biases beside it, offline where it must be."""

from __future__ import annotations

import csv
import logging
import netrc
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse

from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from dreambooth.files import atomic

log = logging.getLogger(__name__)


class TolerantWandbLogger(WandbLogger):
    """What W&B raises is said once; from then on the run goes on without it."""

    failed = False

    def attempt(self, call: Callable, *args, **kwargs) -> None:
        """Call it unless W&B has failed before."""
        if self.failed:
            return
        try:
            call(*args, **kwargs)
        except Exception as error:  # whatever W&B raises, training is worth more
            self.failed = True
            log.warning("Weights & Biases failed (%s): metrics.csv has everything.", error)

    @property
    def version(self) -> str | None:
        """The run's id, which the progress bar asks for; None without a run."""
        try:
            return super().version
        except Exception:
            return None

    def log_metrics(self, *args, **kwargs) -> None:
        """Numbers of one step."""
        self.attempt(super().log_metrics, *args, **kwargs)

    def log_hyperparams(self, *args, **kwargs) -> None:
        """Lightning's; the run's configuration is given at the start."""
        self.attempt(super().log_hyperparams, *args, **kwargs)

    def log_image(self, *args, **kwargs) -> None:
        """Images with captions."""
        self.attempt(super().log_image, *args, **kwargs)

    def finalize(self, status: str) -> None:
        """At the end of a training phase."""
        self.attempt(super().finalize, status)


def make_loggers(
    folder: Path, wandb: bool, project: str, name: str, group: str, tags: list[str], config: dict
) -> list[Logger]:
    """CSV files under `logs/`, one a sitting, and a W&B run of the same name.

    Without a key W&B runs offline. It never blocks the run's end for an upload, and if it cannot
    start, the run goes on with the CSV alone.
    """
    loggers: list[Logger] = [CSVLogger(folder, name="logs")]
    if not wandb:
        return loggers
    try:
        logger = _wandb(folder, project, name, group, tags)
        logger.experiment.config.update(config, allow_val_change=True)
        loggers.append(logger)
    except Exception as error:  # whatever W&B raises, training is worth more
        log.warning("Weights & Biases did not start (%s): metrics.csv has everything.", error)
    return loggers


def _wandb(folder: Path, project: str, name: str, group: str, tags: list[str]) -> WandbLogger:
    import wandb

    mode = os.environ.get("WANDB_MODE", "online" if _has_key() else "offline")
    settings = wandb.Settings(
        init_timeout=30, finish_timeout=60, console="off", silent=True, mode=mode
    )
    os.environ.setdefault("WANDB_SILENT", "true")  # it warns of its own settings before a run
    return TolerantWandbLogger(
        project=project,
        name=name,
        group=group,
        tags=tags,
        save_dir=folder,
        settings=settings,
        offline=mode == "offline",
    )


def _has_key() -> bool:
    """Whether W&B could log in without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc().authenticators(host or "") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def log_images(loggers: list[Logger], key: str, images: list, captions: list[str]) -> None:
    """Show images with their prompts in W&B, at the step that W&B stands at."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, images, caption=captions)


def merge_csv(folder: Path) -> None:
    """Join the sittings under `logs/` into `metrics.csv`.

    A resumed sitting begins again at its checkpoint, so its rows replace those from there on.
    """
    rows: list[dict[str, str]] = []
    sittings = (folder / "logs").glob("version_*/metrics.csv")
    for path in sorted(sittings, key=lambda p: int(p.parent.name.split("_")[1])):
        with open(path, newline="") as file:
            new = list(csv.DictReader(file))
        if new:
            rows = [r for r in rows if float(r["step"]) < float(new[0]["step"])] + new
    if rows:
        names = sorted({key for row in rows for key in row} - {"step", "epoch"})
        with atomic(folder / "metrics.csv") as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, ["step", *names], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)


def finish(loggers: list[Logger], summary: dict, folder: Path, failed: bool = False) -> None:
    """Write `metrics.csv` and the run's summary, and close W&B without ever failing the run."""
    try:
        for logger in loggers:
            logger.save()
        merge_csv(folder)
    finally:  # a run left open would take the numbers of a sweep's next one
        for logger in loggers:
            if isinstance(logger, TolerantWandbLogger):
                logger.attempt(lambda run=logger: run.experiment.summary.update(summary))
                logger.failed = False  # it may still close
                logger.attempt(lambda run=logger: run.experiment.finish(exit_code=int(failed)))

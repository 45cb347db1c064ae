"""Where the numbers go: CSV files always, Weights & Biases too, offline without a key."""

from __future__ import annotations

import logging
import netrc
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import urlparse

from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from dreambooth.evaluation.record import Scores
from dreambooth.evaluation.write import COLUMNS
from dreambooth.files import read_csv, write_csv
from dreambooth.training.distributed import is_first
from dreambooth.training.spec import LoggerSpec

log = logging.getLogger(__name__)


class TolerantWandbLogger(WandbLogger):
    """Disable W&B after its first error, with one warning."""

    failed = False

    def attempt(self, call: Callable, *args, **kwargs) -> None:
        """Call a function of W&B, unless W&B has failed before."""
        if self.failed:
            return
        try:
            call(*args, **kwargs)
        except Exception as error:  # whatever W&B raises, training is worth more
            self.failed = True
            log.warning("Weights & Biases failed (%s): metrics.csv has everything.", error)

    @property
    def version(self) -> str | None:
        """Return the run's id, which the progress bar asks for; None without a run."""
        try:
            return super().version
        except Exception:
            return None

    def log_metrics(self, *args, **kwargs) -> None:
        """Log the numbers of one step."""
        self.attempt(super().log_metrics, *args, **kwargs)

    def log_hyperparams(self, *args, **kwargs) -> None:
        """Log what Lightning gives; the run's configuration is logged at the start."""
        self.attempt(super().log_hyperparams, *args, **kwargs)

    def log_image(self, *args, **kwargs) -> None:
        """Log images with captions."""
        self.attempt(super().log_image, *args, **kwargs)

    def finalize(self, status: str) -> None:
        """Close the logger at the end of a training phase."""
        self.attempt(super().finalize, status)


def silence_libraries() -> None:
    """Silence warnings that a user can do nothing about."""
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*lr_scheduler.step.*",
        ".*in eval mode at the start of training.*",
    ):
        warnings.filterwarnings("ignore", message)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def make_loggers(folder: Path, spec: LoggerSpec, config: Mapping[str, Any]) -> list[Logger]:
    """Open CSV files under `logs/`, one folder per session, and a W&B run if `spec` asks for it.

    Without a key W&B runs offline. It delays the end of a run by a minute at most, and if it cannot
    start, the run goes on with the CSV alone.
    """
    loggers: list[Logger] = [CSVLogger(folder, name="logs")]
    if not (spec.wandb and is_first()):
        return loggers
    try:
        logger = _wandb(folder, spec)
        with _without_launch():
            run = logger.experiment
        run.config.update(dict(config), allow_val_change=True)
        loggers.append(logger)
    except Exception as error:  # whatever W&B raises, training is worth more
        log.warning("Weights & Biases did not start (%s): metrics.csv has everything.", error)
    return loggers


def _wandb(folder: Path, spec: LoggerSpec) -> WandbLogger:
    import wandb

    mode: Any = os.environ.get("WANDB_MODE", "online" if _has_key() else "offline")
    settings = wandb.Settings(
        init_timeout=30, finish_timeout=60, console="off", silent=True, mode=mode
    )
    os.environ.setdefault("WANDB_SILENT", "true")  # it warns of its own settings before a run
    return TolerantWandbLogger(
        project=spec.project,
        name=spec.name,
        group=spec.group,
        tags=list(spec.tags),
        save_dir=folder,
        settings=settings,
        offline=mode == "offline",
    )


@contextmanager
def _without_launch() -> Iterator[None]:
    """Begin a W&B run without importing W&B Launch, which takes longer than all of the rest.

    A run asks it for inputs that a program has staged with it; a program that has imported it.
    """
    name = "wandb.sdk.launch.inputs.internal"
    if "wandb.sdk.launch" in sys.modules:
        yield
        return
    nothing: Any = ModuleType(name)
    nothing.StagedLaunchInputs = lambda: SimpleNamespace(apply=lambda run: None)
    sys.modules[name] = nothing
    try:
        yield
    finally:
        sys.modules.pop(name, None)


def _has_key() -> bool:
    """Tell whether W&B could log in without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc().authenticators(host or "") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def log_images(
    loggers: list[Logger], key: str, images: list[Image.Image], captions: list[str]
) -> None:
    """Show images with their prompts in W&B, at its present step."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, images, caption=captions)


def log_image_table(loggers: list[Logger], scores: Scores, folder: Path) -> None:
    """Log a table of every scored image, its prompt and scores in W&B; an error is a warning."""
    rows = [row for row in scores.rows if row["set"] != "photo"]
    names = list(dict.fromkeys(key for row in rows for key in row if key not in COLUMNS))
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            try:
                import wandb

                data = [
                    [
                        _picture(wandb, folder / row["file"]),
                        *(row[c] for c in COLUMNS),
                        *(row.get(name) for name in names),
                    ]
                    for row in rows
                ]
                logger.log_table("scores", ["image", *COLUMNS, *names], data)
            except Exception as error:  # whatever W&B raises, the files hold everything
                log.warning("Weights & Biases did not take the scores' images (%s).", error)


def _picture(wandb, path: Path):
    with Image.open(path) as image:
        return wandb.Image(image.copy())


def read_logs(folder: Path) -> list[dict[str, str]]:
    """Join the logs of a run's sessions.

    A resumed session begins at its checkpoint, so its rows replace the earlier ones from there on.
    A row without its step is left out: a killed process, or a full disk, has cut it off.
    """
    rows: list[dict[str, str]] = []
    sessions = (folder / "logs").glob("version_*/metrics.csv")
    for path in sorted(sessions, key=lambda p: int(p.parent.name.split("_")[1])):
        new = [row for row in read_csv(path) if _is_number(row.get("step"))]
        if new:
            rows = [r for r in rows if float(r["step"]) < float(new[0]["step"])] + new
    return rows


def _is_number(text: str | None) -> bool:
    return text is not None and text.isdecimal()


def merge_csv(folder: Path) -> None:
    """Write the joined logs of a run's sessions as `metrics.csv`."""
    if rows := read_logs(folder):
        names = sorted({key for row in rows for key in row} - {"step", "epoch"})
        write_csv(folder / "metrics.csv", rows, ["step", *names])


def finish_loggers(
    loggers: list[Logger], summary: Mapping[str, Any], folder: Path, failed: bool = False
) -> None:
    """Write `metrics.csv` and the run's summary, and close W&B; an error of W&B is a warning."""
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

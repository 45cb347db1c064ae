"""Where a run's numbers and pictures go: its own log always, and the viewers that it asks for."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from dreambooth.errors import reason
from dreambooth.evaluation.record import Scores
from dreambooth.sampling.manifest import Item
from dreambooth.training.distributed import is_first
from dreambooth.training.logs.run_log import RunLog
from dreambooth.training.logs.shown_names import Shown, shown_numbers, shown_scores
from dreambooth.training.spec import TrainSpec

log = logging.getLogger(__name__)


class Viewer(Protocol):
    """A place where a run is looked at. Nothing that goes wrong there is an error of the run."""

    def numbers(self, numbers: Mapping[str, float], step: int) -> None:
        """Show numbers of a step, under their short names."""

    def samples(self, folder: Path, items: Sequence[Item], step: int) -> None:
        """Show sample images by their prompts."""

    def photos(self, files: Sequence[Path]) -> None:
        """Show the photos that the run trains on, unless an earlier session did."""

    def scores(self, shown: Shown, folder: Path, step: int) -> None:
        """Show the scores of an evaluation, and its images, which lie in `folder`."""

    def end(self, costs: Mapping[str, float], export: Path | None, failed: bool) -> None:
        """Show what the run cost, give away its export if that is wanted, and close."""


class Loggers:
    """A run's log, and its viewers."""

    def __init__(self, log: RunLog, viewers: Sequence[Viewer] = ()) -> None:
        self.log, self.viewers = log, list(viewers)

    def numbers(self, numbers: Mapping[str, float], step: int) -> None:
        """Log numbers of a step, under their full names."""
        self.log.add(numbers, step)
        self._show(lambda viewer: viewer.numbers(shown_numbers(numbers), step))

    def samples(self, folder: Path, items: Sequence[Item], step: int) -> None:
        """Show sample images, which lie in `folder`, by their prompts."""
        self._show(lambda viewer: viewer.samples(folder, items, step))

    def photos(self, files: Sequence[Path]) -> None:
        """Show the photos that the run trains on."""
        self._show(lambda viewer: viewer.photos(files))

    def scores(self, scores: Scores, evaluation: str | None, folder: Path, step: int) -> None:
        """Show the scores of images that lie in `folder`; the run's own evaluation is None."""
        shown = shown_scores(scores, evaluation)
        self._show(lambda viewer: viewer.scores(shown, folder, step))

    def end(
        self, costs: Mapping[str, Any], export: Path | None = None, failed: bool = False
    ) -> None:
        """Write the log, and close the viewers."""
        names = ("seconds", "peak_memory_gib", "bytes_written")
        shown = {f"cost/{name}": costs[name] for name in names if name in costs}
        try:
            self.log.write()
        finally:  # a viewer left open would take the numbers of a sweep's next run
            self._show(lambda viewer: viewer.end(shown, export, failed))

    def _show(self, action: Callable[[Viewer], None]) -> None:
        """Act on each viewer; one that fails is told nothing more."""
        for viewer in tuple(self.viewers):
            try:
                action(viewer)
            except Exception as error:  # of whatever library it is
                name = type(viewer).__name__
                log.warning("%s failed and is shown nothing more: %s.", name, reason(error))
                self.viewers.remove(viewer)
                with suppress(Exception):  # left open, it would take a sweep's next run's numbers
                    viewer.end({}, None, True)


def make_loggers(spec: TrainSpec, done: int, log_sha256: str | None = None) -> Loggers:
    """Go on with the run's log from step `done`, and open the viewers that `spec` asks for.

    Args:
        log_sha256: of the log when the checkpoint of step `done` was written, if that is known.
    """
    own = RunLog.resumed(spec.folder, done, is_first(), log_sha256)
    viewers: list[Viewer] = []
    if is_first() and spec.logger.wandb:
        from dreambooth.training.logs.wandb_run import WandbRun

        begins_anew = spec.checkpoint.resume is None
        viewers.append(WandbRun.begun(spec.folder, spec.logger, begins_anew))
    if is_first() and spec.logger.tensorboard:
        from dreambooth.training.logs.tensorboard import TensorBoard

        viewers.append(TensorBoard(spec.folder, done))
    return Loggers(own, viewers)


def viewers_of(folder: Path) -> Loggers:
    """Open the viewers again that a finished run was shown in."""
    from dreambooth.training.logs.tensorboard import TensorBoard
    from dreambooth.training.logs.wandb_run import WandbRun

    found: list[Viewer | None] = [WandbRun.again(folder), TensorBoard.again(folder)]
    return Loggers(RunLog(folder, writes=False), [viewer for viewer in found if viewer])


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

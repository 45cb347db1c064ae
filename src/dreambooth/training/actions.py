"""What a phase does beside training, every n steps: draw samples, score the curve."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import pytorch_lightning as pl

from dreambooth.evaluation.curve import Curve
from dreambooth.model.interface import BaseModel
from dreambooth.sampling.provenance import Weights
from dreambooth.sampling.samples import step_name
from dreambooth.training.average import MovingAverage
from dreambooth.training.logs.loggers import Loggers
from dreambooth.training.logs.progress import EveryNSteps
from dreambooth.training.safety import StopWithoutProgress
from dreambooth.training.spec import TrainSpec


@dataclass(frozen=True)
class Actions:
    """Draw and score in phase `number` of a run, on the average of the weights if there is one."""

    spec: TrainSpec
    number: int
    model: BaseModel
    loggers: Loggers
    curve: Curve | None
    average: MovingAverage | None

    @property
    def callbacks(self) -> list[pl.Callback]:
        """Make the callbacks that draw and score.

        The phase's last step is left out: `Finish` draws and scores it, or the next phase begins
        with it. Where `Finish` exports the best step instead, the last one is drawn here.
        """
        spec, made, last = self.spec, [], self.spec.method.phases[self.number].max_steps
        exports_best = spec.checkpoint.best is not None and self._is_last_phase
        if every := spec.samples.every_n_steps:
            made.append(
                EveryNSteps(every, self.draw, None if exports_best else last, self._is_drawn)
            )
        if spec.curve is not None and self.curve is not None:
            made.append(EveryNSteps(spec.curve.every_n_steps, self._score, last, self._is_scored))
            made.append(StopWithoutProgress(spec.curve.every_n_steps, self.is_over))
        return made

    def draw(self, step: int) -> None:
        """Draw the samples of a step of this phase."""
        samples, spec, step = self.spec.samples.set, self.spec, self._steps_before + step
        base = {"base": self.model.weights_hash()}
        weights = Weights(spec.model.name, spec.method.export, spec.folder.name, base, step)
        folder, name = spec.folder / "samples", step_name(step)
        self._on_average(lambda: samples.draw(self.model, weights, folder, name))
        self.loggers.samples(folder / name, samples.items, step)

    def is_over(self, step: int) -> bool:
        """Tell whether the curve up to a step of this phase says that the phase ends there."""
        patience, before = self.spec.checkpoint.patience, self._steps_before
        if patience is None or self.curve is None or not self._is_last_phase:
            return False
        return self.curve.points_since_best(before, before + step) >= patience

    def _score(self, step: int) -> None:
        assert self.curve is not None
        scored, at = self.curve, self._steps_before + step
        self._on_average(lambda: self.loggers.numbers(scored.score(at), at))

    def _on_average(self, action: Callable[[], object]) -> None:
        with self.average.swapped_in() if self.average is not None else nullcontext():
            action()

    def _is_drawn(self, step: int) -> bool:
        name = step_name(self._steps_before + step)
        return (self.spec.folder / "samples" / f"{name}.png").exists()

    def _is_scored(self, step: int) -> bool:
        assert self.curve is not None
        scored = self.curve.last_step
        return scored is not None and scored >= self._steps_before + step

    @property
    def _steps_before(self) -> int:
        return self.spec.method.steps_before(self.number)

    @property
    def _is_last_phase(self) -> bool:
        return self.number == len(self.spec.method.phases) - 1

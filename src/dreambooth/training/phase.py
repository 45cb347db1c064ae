"""Train one phase after another, each from its newest checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch

from dreambooth.data.batches import DreamBoothData, KeyedBatches
from dreambooth.data.prompts import fill
from dreambooth.errors import UserError
from dreambooth.evaluation.curve import Curve
from dreambooth.model.base_prediction import BasePrediction
from dreambooth.model.interface import BaseModel
from dreambooth.model.offload import put_to_work
from dreambooth.training.actions import Actions
from dreambooth.training.average import MovingAverage
from dreambooth.training.distributed import is_first
from dreambooth.training.logs.loggers import Loggers
from dreambooth.training.logs.memory import free_memory
from dreambooth.training.logs.progress import LogEveryNSteps, Rates, TrainingBar
from dreambooth.training.module import DreamBooth
from dreambooth.training.prepare import Prepared
from dreambooth.training.resuming import checkpoints
from dreambooth.training.resuming.resume import Start
from dreambooth.training.safety import (
    StopAtStepBoundary,
    StopOnNonFinite,
    StopWithoutFolder,
)
from dreambooth.training.spec import TrainSpec

log = logging.getLogger(__name__)


def train_phases(
    prepared: Prepared, starts: list[Start], loggers: Loggers, curve: Curve | None
) -> tuple[dict[str, dict], int | None]:
    """Train every phase; return their costs, and the signal that stopped the last one, if any."""
    costs, stopped, base = {}, None, _base_prediction(prepared)
    put_to_work(prepared.model, _trained_networks(prepared.spec, prepared.model))
    for number, start in enumerate(starts):
        phase = _Phase(prepared, number, loggers, curve, base)
        costs[f"phase_{number}"] = result = phase.train(start)
        del phase
        free_memory()  # the phase's optimizer state, before anything else needs room
        if start.trained is not None:
            start.trained.release()
        stopped = result["stopped"]
        if stopped is not None:
            break
    return costs, stopped


def _trained_networks(spec: TrainSpec, model: BaseModel) -> set[str]:
    """Name the networks whose weights a step of some phase needs: the denoiser, and what trains."""
    kinds = [kind for phase in spec.method.phases for kind in phase.parts.kinds(model).items()]
    return {model.denoiser} | {network for network, kind in kinds if kind != "frozen"}


def _base_prediction(prepared: Prepared) -> BasePrediction | None:
    """Make what predicts as the model does now, before it trains, if the prior loss asks for it."""
    spec, examples = prepared.spec, prepared.batches.prior
    if spec.prior is None or spec.prior.kind != "prediction" or examples is None:
        return None
    dtype = getattr(torch, spec.hardware.frozen_dtype)
    return BasePrediction(prepared.model, examples.prompts, dtype)


class _Phase:
    """One phase: its module, its batches and its callbacks."""

    def __init__(
        self,
        prepared: Prepared,
        number: int,
        loggers: Loggers,
        curve: Curve | None,
        base: BasePrediction | None,
    ) -> None:
        self.spec, self.weights, self.model = prepared.spec, prepared.weights, prepared.model
        self.number, self.phase = number, self.spec.method.phases[number]
        self.loggers = loggers
        self.module = self._module(base)
        self.trained = list(self.weights.parameters().values())
        self.batches = self._batches(prepared.batches)
        decay = self.spec.optimizer.ema_decay
        self.average = None if decay is None else MovingAverage(self.trained, decay)
        self.actions = Actions(self.spec, number, self.model, loggers, curve, self.average)
        images = self.batches.batch_size
        images += self.batches.prior_batch_size if self.batches.prior else 0
        self.rates = Rates(images * self.spec.optimizer.accumulate)

    def train(self, start: Start) -> dict[str, Any]:
        """Train from `start` to the phase's last step; the weights stay in the model.

        Returns:
            `seconds`, `steps`, `images_per_second`, `trained_parameters`, `stopped` (a signal's
            number, or None), `stopped_early_at` (the run's step at which the curve had not risen
            for `checkpoint.patience` points, or None), and `reused` (`run`, `step` and `seconds` of
            a training that was taken over, or None).

        Raises:
            UserError: a loss that is not finite, or a training that ended for no known reason.
        """
        self.module.embed_once(self.batches.prompts)
        stop, history = StopAtStepBoundary(), start.history  # training may remove the checkpoint
        first = history["step"]
        self._draw_undrawn(start)
        if first < self.phase.max_steps and not self.actions.is_over(first):
            self._fit(start, stop)
        else:
            self._load(start)
        if self.average is not None and stop.received is None:
            self.average.apply()
        step = first + self.rates.steps
        is_early = step < self.phase.max_steps and stop.received is None
        if is_early and is_first():  # which alone has the curve
            if not self.actions.is_over(step):
                raise UserError(
                    f"Training ended at step {step} of {self.phase.max_steps} for a reason that is "
                    "not known: run the same command again, which goes on from the last checkpoint."
                )
            points = self.spec.checkpoint.patience
            log.info("Stopped at step %d: no better point of the curve in %d points.", step, points)
        return {
            "seconds": round(self.rates.seconds, 2),
            "steps": self.rates.steps,
            "images_per_second": round(self.rates.images_per_second, 2),
            "stopped": stop.received,
            "stopped_early_at": self.module.steps_before + step if is_early else None,
            "trained_parameters": sum(p.numel() for p in self.trained),
            "reused": history["reused"],
        }

    def _module(self, base: BasePrediction | None) -> DreamBooth:
        """Make the model train this phase's parts, and the module that trains them."""
        spec, method, hardware = self.spec, self.spec.method, self.spec.hardware
        self.weights.prepare(self.phase.parts)
        if base is not None:
            base.keep()
        if hardware.gradient_checkpointing:
            self.model.enable_gradient_checkpointing()
        if hardware.compile:
            self.model.network(self.model.denoiser).compile()
        steps_before = method.steps_before(self.number)
        return DreamBooth(self.weights, spec.loss, spec.optimizer, self.phase, steps_before, base)

    def _batches(self, batches: KeyedBatches) -> KeyedBatches:
        """Give a phase that trains a token its templates.

        Where nothing else trains, the class images are left out: no class prompt holds the token.
        """
        parts, subject = self.phase.parts, self.spec.subject
        if parts.text_encoder != "token":
            return batches
        if parts.unet == "frozen":
            batches = replace(batches, prior=None)
        filled = tuple(fill(t, subject.words.phrase, "") for t in self.spec.method.templates)
        return replace(batches, variants={subject.instance_prompt: filled} if filled else {})

    def _fit(self, start: Start, stop: StopAtStepBoundary) -> None:
        """Run Lightning's Trainer, with our handling of signals."""
        if start.checkpoint is not None and start.taken is None:
            log.info("Resuming from %s.", start.checkpoint)
        trainer = self._trainer(start, stop)
        data = DreamBoothData(self.batches)
        try:
            trainer.fit(self.module, data, ckpt_path=start.checkpoint, weights_only=True)
        except SystemExit:  # Lightning's answer to a Ctrl-C before the first step
            raise KeyboardInterrupt from None
        finally:
            stop.give_back()

    def _draw_undrawn(self, start: Start) -> None:
        """Draw the samples of steps that another run has trained, where their weights are kept."""
        for step, path in sorted(start.undrawn.items()):
            try:
                if path is not None:
                    self._load(replace(start, checkpoint=path))
            except UserError as error:  # removed in the meantime, or damaged
                log.warning("no samples of step %d: %s", self.module.steps_before + step, error)
                continue
            with torch.no_grad():
                self.actions.draw(step)

    def _load(self, start: Start) -> None:
        """Load the weights of a checkpoint."""
        io = checkpoints.VerifiedCheckpointIO(start.facts)
        state = io.load_checkpoint(start.checkpoint)
        self.module.on_load_checkpoint(state)
        if self.average is not None:
            self.average.load_state_dict(state["callbacks"][self.average.state_key])

    def _trainer(self, start: Start, stop: StopAtStepBoundary) -> pl.Trainer:
        spec, average = self.spec, [] if self.average is None else [self.average]
        return spec.hardware.trainer(
            logger=False,  # LogEveryNSteps is in its place
            max_steps=self.phase.max_steps,
            max_epochs=-1,
            accumulate_grad_batches=spec.optimizer.accumulate,
            plugins=[checkpoints.VerifiedCheckpointIO(start.facts, self._history(start))],
            callbacks=[
                stop,
                StopWithoutFolder(spec.folder),
                self.rates,
                LogEveryNSteps(self.module.steps_before, self.loggers.numbers),
                TrainingBar(has_prior=self.batches.prior is not None),
                *average,  # before the actions, which show it
                *self.actions.callbacks,
                StopOnNonFinite(lambda: list(self.weights.parameters().values()), 10),
                checkpoints.Checkpoints(
                    start.folder,
                    spec.checkpoint.every_n_steps,
                    spec.checkpoint.keep,
                    stop,
                    start.trained,
                    self.loggers.log.write,
                ),
            ],
            enable_progress_bar=False,  # Lightning's own; ours is a callback
            enable_model_summary=False,
            enable_checkpointing=False,  # as above
            use_distributed_sampler=False,
            default_root_dir=start.folder,
        )

    def _history(self, start: Start) -> Callable[[], dict[str, Any]]:
        """Make what a checkpoint's record says of the training up to it."""
        before, key = start.history, start.trained.key if start.trained else None
        first = self.module.steps_before + before["step"]
        return lambda: {
            "key": key,
            "seconds": round(before["seconds"] + self.rates.seconds, 2),
            "reused": before["reused"],
            "log_sha256": self.loggers.log.hash_before(first + self.rates.steps),
        }

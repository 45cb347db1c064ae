"""Train one phase after another, each from its newest checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger

from dreambooth.data.batches import DreamBoothData, KeyedBatches
from dreambooth.errors import UserError
from dreambooth.evaluation.curve import Curve
from dreambooth.model.trainable import prepare as prepare_phase
from dreambooth.model.trainable import trainable_parameters
from dreambooth.training import checkpoints
from dreambooth.training.average import MovingAverage
from dreambooth.training.fingerprint import facts_of_phases
from dreambooth.training.loggers import log_images
from dreambooth.training.module import DreamBooth, Optimization
from dreambooth.training.prepare import Prepared
from dreambooth.training.progress import EveryNSteps, Progress, Rates
from dreambooth.training.safety import StopAtStepBoundary, StopOnNonFinite
from dreambooth.training.spec import TrainSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Where a phase begins: its folder, what it depends on, and a checkpoint to go on from."""

    folder: Path
    facts: Mapping[str, Any]
    checkpoint: Path | None

    @property
    def step(self) -> int:
        """Optimizer steps of this phase that are done."""
        return checkpoints.read_record(self.checkpoint)["step"] if self.checkpoint else 0


def find_starts(spec: TrainSpec, facts: Mapping[str, Any]) -> list[Start]:
    """Find each phase's checkpoint; a wrong one is refused before any phase trains.

    Raises:
        UserError: a checkpoint of another configuration, or of more steps than the phase has.
    """
    starts, resume = [], spec.checkpoint.resume
    for number, own in enumerate(facts_of_phases(spec, facts)):
        folder = spec.folder / "checkpoints" / f"phase-{number}"
        named = resume if number == 0 or resume is None else "auto"
        start = Start(folder, own, checkpoints.find(folder, named))
        if start.checkpoint is not None:
            checkpoints.refuse_other_facts(start.checkpoint, own)
            most = spec.method.phases[number].max_steps
            if start.step > most:
                raise UserError(
                    f"{start.checkpoint} was trained for {start.step} steps, more than "
                    f"max_steps={most}: raise max_steps, choose another output folder, or pass "
                    "resume=null."
                )
        starts.append(start)
    return starts


def train_phases(
    prepared: Prepared, starts: list[Start], loggers: list[Logger], curve: Curve | None
) -> tuple[dict[str, dict], int | None]:
    """Train every phase; return their costs, and the signal that stopped the last one, if any."""
    costs, stopped = {}, None
    for number, start in enumerate(starts):
        costs[f"phase_{number}"] = result = _Phase(prepared, number, loggers, curve).train(start)
        stopped = result["stopped"]
        if stopped is not None:
            break
    return costs, stopped


class _Phase:
    """One phase: its module, its batches and its callbacks."""

    def __init__(
        self, prepared: Prepared, number: int, loggers: list[Logger], curve: Curve | None
    ) -> None:
        self.spec, self.model = prepared.spec, prepared.model
        self.number, self.phase = number, self.spec.method.phases[number]
        self.loggers, self.curve = loggers, curve
        self.module = self._module()
        self.batches = self._batches(prepared.batches)
        decay = self.spec.optimizer.ema_decay
        self.average = MovingAverage(decay) if decay is not None else None
        images = self.batches.batch_size
        images += self.batches.prior_batch_size if self.batches.prior else 0
        self.rates = Rates(images * self.spec.optimizer.accumulate)

    def train(self, start: Start) -> dict[str, Any]:
        """Train from `start` to the phase's last step; the weights stay in the model.

        Returns:
            `seconds`, `steps`, `images_per_second`, `trained_parameters`, and `stopped` (a
            signal's number, or None).

        Raises:
            UserError: a loss that is not finite.
        """
        self.module.embed_once(
            {*self.batches.instance.prompts, *getattr(self.batches.prior, "prompts", ())}
        )
        stop = StopAtStepBoundary()
        if start.step < self.phase.max_steps:
            self._fit(start, stop)
        else:
            self._load(start)
        if self.average is not None and stop.received is None:
            self.average.apply(self.module)
        trained = trainable_parameters(self.model).values()
        rates = self.rates
        per_second = rates.steps * rates.images_per_step / max(rates.seconds, 1e-9)
        return {
            "seconds": round(rates.seconds, 2),
            "steps": rates.steps,
            "images_per_second": round(per_second, 2),
            "stopped": stop.received,
            "trained_parameters": sum(p.numel() for p in trained),
        }

    def _module(self) -> DreamBooth:
        spec, method, hardware = self.spec, self.spec.method, self.spec.hardware
        dtype = getattr(torch, hardware.frozen_dtype)
        prepare_phase(self.model, self.phase.parts, method.lora, method.token, spec.seed, dtype)
        if hardware.gradient_checkpointing:
            self.model.enable_gradient_checkpointing()
        if hardware.compile:
            self.model.unet.compile()
        o = spec.optimizer
        is_token = self.phase.parts.text_encoder == "token"  # whose rate is the phase's own
        optimization = Optimization(
            o.factory,
            self.phase.lr,
            None if is_token else o.text_encoder_lr,
            o.lr_schedule,
            o.lr_warmup_steps,
            self.phase.max_steps,
            o.max_grad_norm,
        )
        return DreamBooth(self.model, spec.loss, optimization, method.steps_before(self.number))

    def _batches(self, batches: KeyedBatches) -> KeyedBatches:
        parts = self.phase.parts
        if (parts.unet, parts.text_encoder) == ("frozen", "token"):
            return replace(batches, prior=None)  # a class prompt does not hold the new token
        return batches

    def _fit(self, start: Start, stop: StopAtStepBoundary) -> None:
        if start.checkpoint is not None:
            log.info("Resuming from %s.", start.checkpoint)
        trainer = self._trainer(start, stop)
        data = DreamBoothData(self.batches)
        try:
            trainer.fit(self.module, data, ckpt_path=start.checkpoint, weights_only=True)
        except SystemExit:  # what Lightning makes of a Ctrl-C that came before the first step
            raise KeyboardInterrupt from None
        finally:
            stop.give_back()

    def _load(self, start: Start) -> None:
        """Load a phase that is finished."""
        io = checkpoints.VerifiedCheckpointIO(start.facts)
        state = io.load_checkpoint(start.checkpoint)
        self.module.on_load_checkpoint(state)
        if self.average is not None:
            self.average.load_state_dict(state["callbacks"][self.average.state_key])

    def _trainer(self, start: Start, stop: StopAtStepBoundary) -> pl.Trainer:
        spec = self.spec
        saving = checkpoints.Checkpoints(
            start.folder, spec.checkpoint.every_n_steps, spec.checkpoint.keep
        )
        average = [self.average] if self.average is not None else []
        trainer = spec.hardware.trainer(
            logger=self.loggers,
            max_steps=self.phase.max_steps,
            max_epochs=-1,
            accumulate_grad_batches=spec.optimizer.accumulate,
            plugins=[checkpoints.VerifiedCheckpointIO(start.facts)],
            callbacks=[
                stop,
                Progress(),
                self.rates,
                *average,  # before the actions, which look at it
                *self._actions(),
                StopOnNonFinite(10),
                saving,
            ],
            enable_progress_bar=True,
            enable_model_summary=False,
            enable_checkpointing=False,  # Lightning's own; ours is a callback
            use_distributed_sampler=False,
            default_root_dir=start.folder,
        )
        # a run shorter than the interval still logs
        trainer.log_every_n_steps = min(trainer.log_every_n_steps, self.phase.max_steps)
        return trainer

    def _actions(self) -> list[pl.Callback]:
        """Draw samples and score the curve every n steps, of the average where there is one."""
        spec, actions = self.spec, []
        if every := spec.samples.every_n_steps:
            is_last = self.number == len(spec.method.phases) - 1
            last = self.phase.max_steps if is_last else None  # which `final` shows
            actions.append(EveryNSteps(every, self._averaged(self._draw), last))
        if spec.curve is not None and self.curve is not None:
            actions.append(EveryNSteps(spec.curve.every_n_steps, self._averaged(self._score)))
        return actions

    def _averaged(self, action: Callable[[int], None]) -> Callable:
        def act(trainer: pl.Trainer, module: pl.LightningModule) -> None:
            with self._shown_weights():
                action(self.module.steps_before + trainer.global_step)

        return act

    @contextmanager
    def _shown_weights(self) -> Iterator[None]:
        if self.average is None:
            yield
        else:
            with self.average.swapped_in(self.module):
                yield

    def _draw(self, step: int) -> None:
        samples = self.spec.samples.set
        images = samples.draw(self.model, self.spec.folder / "samples", f"step-{step:06d}")
        log_images(self.loggers, "samples", images, samples.captions)

    def _score(self, step: int) -> None:
        assert self.curve is not None
        scores = self.curve.score(step)
        for logger in self.loggers:
            logger.log_metrics(scores, step=step)

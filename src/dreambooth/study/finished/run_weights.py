"""The weights of a finished run: as exported, of any step with a checkpoint, and scaled."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.model.adapters.additions import Additions, adapter_hash
from dreambooth.model.adapters.continuation import InitialAdapter
from dreambooth.model.adapters.formats import find_adapter
from dreambooth.model.interface import BaseModel
from dreambooth.model.peft_layers import scale_adapters
from dreambooth.model.trainable import TrainableWeights
from dreambooth.sampling.provenance import Weights, export_hashes
from dreambooth.study.finished.base_model import base_hash, load_base
from dreambooth.study.finished.runs import Run
from dreambooth.training.average import MovingAverage
from dreambooth.training.resuming.checkpoint_records import verify
from dreambooth.training.resuming.checkpoints import VerifiedCheckpointIO, checkpoint_name
from dreambooth.training.spec import MethodSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunWeights:
    """Weights of a finished run; `step` None is the exported model, 0 the model before training.

    `method` is the run's, and None where no step is asked for. `additions` are put in afterwards;
    `adapter_weight` multiplies the run's own adapter only.
    """

    run: Run
    method: MethodSpec | None
    step: int | None = None
    additions: Additions = Additions()

    def check(self) -> None:
        """Refuse a step that no checkpoint holds; nothing is loaded.

        Raises:
            UserError: names the steps that there are, or a checkpoint that is damaged.
        """
        if self.step is None:
            self.run.require_model()
        if not self.step:
            return
        path = self._checkpoint()
        if path is None or not path.is_file():
            steps = ", ".join(str(step) for step in self.steps())
            raise UserError(
                f"step={self.step} has no checkpoint in {self.run.folder}, which has {steps}: "
                "choose among these, or train a run with checkpoint.keep=100 and "
                "checkpoint.every_n_steps=N."
            )
        verify(path)

    def steps(self) -> list[int]:
        """List the steps that can be loaded, from 0, which is the model before training."""
        found = [0]
        for number in range(len(self._method.phases)):
            before = self._method.steps_before(number)
            for path in sorted(self._folder(number).glob("step-*.ckpt")):
                found.append(before + int(path.stem.removeprefix("step-")))
        return found

    def describe(self, adapter_weight: float = 1.0) -> Weights:
        """Name these weights by their hashes, without loading them.

        Raises:
            UserError: nothing was exported, or the base model is not there.
        """
        run, checkpoint = self.run, self._checkpoint()
        with run.reading():
            name, kind = run.record["model"]["name"], run.record["export"]
        if self.step is None:
            hashes = export_hashes(run.folder / "model", self._base_hash)
        else:
            hashes = {"base": self._base_hash()}
            if start := run.config.get("init_adapter"):
                hashes["init_adapter"] = adapter_hash(find_adapter(start))
        if checkpoint is not None:
            hashes["checkpoint"] = verify(checkpoint)["sha256"]
        folder, added = run.folder.resolve().name, self.additions.record
        return Weights(name, kind, folder, hashes, self.step, adapter_weight, added)

    def load(self, adapter_weight: float = 1.0) -> BaseModel:
        """Load the model with these weights, frozen, in evaluation mode, on the CPU."""
        model = self.run.load_model() if self.step is None else self._load_step()
        scale_adapters(model, adapter_weight)
        for line in self.additions.put_into(model):
            log.info(line)
        return model.requires_grad_(False).eval()

    @property
    def _method(self) -> MethodSpec:
        assert self.method is not None, "a step needs the run's method"
        return self.method

    def _base_hash(self) -> str:
        return base_hash(self.run.base)

    def _load_step(self) -> BaseModel:
        """Load the base model, and into it what the phases up to this step had trained."""
        model, config = load_base(self.run.base), self.run.config
        start = config.get("init_adapter")
        weights = TrainableWeights(
            model,
            config["seed"],
            self._method.adapter,
            self._method.token,
            initial=InitialAdapter(model, start) if start else None,
        )
        for phase in self._method.phases[: self._phase() + 1]:
            weights.prepare(phase.parts)
        checkpoint = self._checkpoint()
        if checkpoint is not None:
            state = VerifiedCheckpointIO({}).load_checkpoint(checkpoint)
            weights.load(state["state_dict"])
            if config["ema_decay"] is not None:  # pictures are of the average, as the export is
                average = MovingAverage(list(weights.parameters().values()), config["ema_decay"])
                average.load_state_dict(state["callbacks"][average.state_key])
                average.apply()
        return model

    def _phase(self) -> int:
        """The number of the phase that ends with or after this step; the last one if none does."""
        numbers = range(len(self._method.phases))
        reached = (n for n in numbers if (self.step or 0) <= self._method.steps_before(n + 1))
        return next(reached, numbers[-1])

    def _checkpoint(self) -> Path | None:
        """Where this step's checkpoint is kept; None before training."""
        if not self.step:
            return None
        number = self._phase()
        own = self.step - self._method.steps_before(number)
        return self._folder(number) / checkpoint_name(own)

    def _folder(self, number: int) -> Path:
        return self.run.folder / "checkpoints" / f"phase-{number}"

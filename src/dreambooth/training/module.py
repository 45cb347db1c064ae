"""The LightningModule: one training step of DreamBooth, for every method and model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from diffusers.optimization import get_scheduler
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from dreambooth.diffusion.loss import (
    error_per_sample,
    scheduled_weight,
    two_term_loss,
)
from dreambooth.model.base_prediction import BasePrediction
from dreambooth.model.embeddings import Embeddings
from dreambooth.model.offload import alone
from dreambooth.model.trainable import TrainableWeights
from dreambooth.training.sharding import gathered
from dreambooth.training.spec import Loss, OptimizerSpec, PhaseSpec


class DreamBooth(pl.LightningModule):
    """Train the weights of a base model that are already prepared for `phase`.

    Checkpoints hold only what trains; see `checkpoints.py`. `steps_before` counts the optimizer
    steps of earlier phases, so that the logged step continues from there. With `base`, the target
    of prior rows is its prediction.
    """

    def __init__(
        self,
        weights: TrainableWeights,
        loss: Loss,
        optimization: OptimizerSpec,
        phase: PhaseSpec,
        steps_before: int = 0,
        base: BasePrediction | None = None,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # checkpoints leave the frozen weights out
        self.weights = weights
        self.model = weights.model
        self.loss = loss
        self.optimization, self.phase = optimization, phase
        self.steps_before, self.base = steps_before, base
        self.trains_text = self.model.trains_text
        self._embedded: dict[str, Embeddings] = {}
        self._terms: list[Tensor] = []  # of this update's micro-batches so far

    def embed_once(self, prompts: Iterable[str]) -> None:
        """Embed every prompt before training if the text encoder is frozen: no step runs it."""
        if not self.trains_text:
            unique = sorted(set(prompts))
            with torch.no_grad(), alone(self.model, *self.model.prompt_encoders):
                self._embedded = dict(zip(unique, self.model.embed(unique), strict=True))

    def embeddings(self, prompts: list[str]) -> Embeddings:
        """Embed N prompts, each unique one at most once."""
        if not self.trains_text:
            return Embeddings.stack([self._embedded[p] for p in prompts]).to(self.device)
        unique = sorted(set(prompts))
        # several processes wait for every gradient, and drop those of a stopped text encoder later
        is_needed = not self._text_has_stopped or self.trainer.world_size > 1
        with torch.set_grad_enabled(torch.is_grad_enabled() and is_needed):
            return self.model.embed(unique)[[unique.index(prompt) for prompt in prompts]]

    def errors(self, batch: dict) -> Tensor:
        """Compute each sample's squared error `[N]`, weighted as the loss asks.

        Weights apply per sample, before the loss splits instance from prior rows.
        """
        process = self.model.process
        latents = self.model.sample_latents(
            batch["mean"], batch["logvar"], batch["posterior_noise"]
        )
        noise, timesteps = batch["noise"], batch["timesteps"]
        if self.loss.noise_schedule_dtype == "latents":
            half = torch.is_autocast_enabled(self.device.type)
            dtype = torch.get_autocast_dtype(self.device.type) if half else latents.dtype
            latents, noise = latents.to(dtype), noise.to(dtype)
        noisy = process.add_noise(latents, noise, timesteps)
        embeddings = self.model.condition(self.embeddings(batch["prompts"]), batch["sizes"])
        prediction = self.model.predict(noisy, timesteps, embeddings)
        aim = process.target(latents, noise, timesteps)
        rows = [row for row, kind in enumerate(batch["kinds"]) if kind == "prior"]
        if self.base is not None and rows:
            told = self.base.embeddings([batch["prompts"][row] for row in rows]).to(self.device)
            told = self.model.condition(told, batch["sizes"][rows])
            aim = aim.clone()  # it may be the batch's noise
            aim[rows] = self.base.predict(noisy[rows], timesteps[rows], told).to(aim)
        error = error_per_sample(prediction, aim)
        weights = process.weights(timesteps, self.loss.min_snr_gamma, self.loss.weighting)
        return error if weights is None else error * weights

    def prior_weight(self) -> float:
        """Compute the weight of the prior loss at this optimizer step of the phase."""
        loss, step, steps = self.loss, self.global_step, self.phase.max_steps
        ends = (loss.prior_loss_weight, loss.prior_weight_end)
        return scheduled_weight(*ends, loss.prior_weight_schedule, step, steps)

    def on_train_batch_start(self, batch: dict, batch_idx: int) -> None:
        """Seed the global generators for each batch, for dropout."""
        torch.manual_seed(batch["key"])
        if self._text_has_stopped:
            for name in self.model.text_encoders:
                self.model.network(name).eval()

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        """Compute the two-term loss; log the instance, prior and total terms.

        The log has their means over the micro-batches of an update.
        """
        terms = two_term_loss(self.errors(batch), batch["is_prior"], self.prior_weight())
        self._terms.append(torch.stack(tuple(terms)).detach())
        means = torch.stack(self._terms).mean(0)
        for name, value in zip(terms._fields, means, strict=True):
            self.log(f"loss/{name}", value, prog_bar=name != "total", batch_size=1)
        if self.loss.prior_weight_schedule != "constant":
            self.log("prior_weight", self.prior_weight(), batch_size=1)
        return terms.total

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make one optimizer with its schedule: a group for each part and learning rate.

        The text encoder may have its own rate, a token has that of its phase or the phase's
        `token_lr`. With `loraplus_lr_ratio` B and vectors train at so many times the rate of A, as
        in PEFT's `create_loraplus_optimizer` (Hayou et al. 2024, arXiv:2402.12354).
        """
        spec, lr = self.optimization, self.phase.lr
        groups: dict[tuple[str, float], list[nn.Parameter]] = {}
        for name, parameter in self.weights.parameters().items():
            part = "image" if name.startswith(f"{self.model.denoiser}.") else "text"
            rate = lr if part == "image" else self._text_lr
            if ".lora_" in name and (".lora_B." in name or parameter.ndim == 1):
                rate *= spec.loraplus_lr_ratio or 1
            groups.setdefault((part, rate), []).append(parameter)
        listed = [{"params": groups[key], "lr": key[1]} for key in sorted(groups)]
        optimizer = spec.factory(listed, lr=lr)
        schedule = get_scheduler(
            spec.lr_schedule,
            optimizer,
            num_warmup_steps=spec.lr_warmup_steps,
            num_training_steps=self.phase.max_steps,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    @property
    def _text_lr(self) -> float:
        """The learning rate of what trains of the text encoders."""
        phase, own = self.phase, self.optimization.text_encoder_lr
        if phase.parts.text_encoder == "token":
            return phase.lr if phase.token_lr is None else phase.token_lr
        return phase.lr if own is None else own

    @property
    def _text_has_stopped(self) -> bool:
        """Whether `text_encoder_stop_step` of this phase's steps are behind; the U-Net goes on."""
        stop = self.optimization.text_encoder_stop_step
        return stop is not None and self.phase.parts.unet != "frozen" and self.global_step >= stop

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the joint norm of all gradients, as diffusers does.

        A text encoder that has stopped has none, so that no optimizer moves or decays it.
        """
        if self._text_has_stopped:
            for name in self.model.text_encoders:
                for parameter in self.model.network(name).parameters():
                    parameter.grad = None
        # not Lightning's own clipping, which refuses fused optimizers
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(trained, self.optimization.max_grad_norm)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Update, then drop the gradients and restore every token but the new ones."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self._terms.clear()
        optimizer.zero_grad(set_to_none=True)
        self.weights.after_step()

    def optimizer_zero_grad(
        self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer
    ) -> None:
        """Do nothing: Lightning would keep the old gradients through the whole forward pass."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what trains and leave the frozen weights out."""
        checkpoint["state_dict"] = gathered(self.weights.state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load what trained; refuse a checkpoint that holds more or less."""
        self.weights.load(checkpoint["state_dict"])
        checkpoint["state_dict"] = {}

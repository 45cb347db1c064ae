"""The LightningModule: one training step of DreamBooth, for every method and model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from diffusers.optimization import get_scheduler
from torch import Tensor, nn

from dreambooth.diffusion.loss import error_per_sample, min_snr_weights, two_term_loss
from dreambooth.diffusion.noise import add_noise, snr, target
from dreambooth.model.interface import Embeddings
from dreambooth.model.trainable import TrainableWeights


@dataclass(frozen=True)
class Loss:
    """`prior_loss_weight` is the paper's lambda; `min_snr_gamma` None leaves errors unweighted.

    `noise_schedule_dtype` "latents" casts the schedule as diffusers does; float32 is right.
    """

    prior_loss_weight: float
    min_snr_gamma: float | None = None
    noise_schedule_dtype: str = "float32"


@dataclass(frozen=True)
class Optimization:
    """`optimizer` is `(parameter groups, lr) => Optimizer`; steps are optimizer updates."""

    optimizer: Callable[..., torch.optim.Optimizer]
    lr: float
    text_encoder_lr: float | None
    lr_schedule: str
    lr_warmup_steps: int
    max_steps: int
    max_grad_norm: float


class DreamBooth(pl.LightningModule):
    """Trains the prepared weights of a base model.

    Checkpoints hold only what trains; see `checkpoints.py`. `steps_before` counts the optimizer
    steps of earlier phases, so that the logged step goes on from there.
    """

    strict_loading = False  # checkpoints leave the frozen weights out

    def __init__(
        self,
        weights: TrainableWeights,
        loss: Loss,
        optimization: Optimization,
        steps_before: int = 0,
    ) -> None:
        super().__init__()
        self.weights = weights
        self.model = weights.model
        self.loss = loss
        self.optimization = optimization
        self.steps_before = steps_before
        self.register_buffer("alphas_cumprod", self.model.alphas_cumprod, persistent=False)
        self.trains_text = self.model.trains_text
        self._embedded: dict[str, Embeddings] = {}

    def embed_once(self, prompts: Iterable[str]) -> None:
        """Embed every prompt now, if the text encoder is frozen: it then never runs in a step."""
        if not self.trains_text:
            unique = sorted(set(prompts))
            with torch.no_grad():
                self._embedded = dict(zip(unique, self.model.embed(unique), strict=True))

    def embeddings(self, prompts: list[str]) -> Embeddings:
        """Embed N prompts, each unique one at most once."""
        if not self.trains_text:
            return Embeddings.stack([self._embedded[p] for p in prompts]).to(self.device)
        unique = sorted(set(prompts))
        return self.model.embed(unique)[[unique.index(prompt) for prompt in prompts]]

    def errors(self, batch: dict) -> Tensor:
        """Each sample's error `[N]`, weighted by Min-SNR where asked (before any splitting)."""
        latents = self.model.sample_latents(
            batch["mean"], batch["logvar"], batch["posterior_noise"]
        )
        noise, timesteps = batch["noise"], batch["timesteps"]
        alphas_cumprod = self.alphas_cumprod
        if self.loss.noise_schedule_dtype == "latents":
            half = torch.is_autocast_enabled(self.device.type)
            dtype = torch.get_autocast_dtype(self.device.type) if half else latents.dtype
            latents, noise = latents.to(dtype), noise.to(dtype)
            alphas_cumprod = alphas_cumprod.to(dtype)
        noisy = add_noise(latents, noise, timesteps, alphas_cumprod)
        prediction = self.model.predict(noisy, timesteps, self.embeddings(batch["prompts"]))
        prediction_type = self.model.prediction_type
        aim = target(prediction_type, latents, noise, timesteps, alphas_cumprod)
        error = error_per_sample(prediction, aim)
        if self.loss.min_snr_gamma is None:
            return error
        ratio = snr(timesteps, self.alphas_cumprod)
        return error * min_snr_weights(ratio, self.loss.min_snr_gamma, prediction_type)

    def on_train_batch_start(self, batch: dict, batch_idx: int) -> None:
        """What a network draws from the global generators, as dropout does, is keyed too."""
        torch.manual_seed(batch["key"])

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        """The two-term loss; all three terms are logged."""
        terms = two_term_loss(self.errors(batch), batch["is_prior"], self.loss.prior_loss_weight)
        for name, value in terms._asdict().items():
            self.log(f"loss/{name}", value, prog_bar=name != "total", batch_size=1)
        if self.steps_before:
            # "step" is Lightning's own name for the x-axis of every logger
            self.log("step", float(self.steps_before + self.global_step), batch_size=1)
        return terms.total

    def configure_optimizers(self):
        """One optimizer; the text encoder may have its own learning rate."""
        o = self.optimization
        parameters, denoiser = self.weights.parameters(), f"{self.model.denoiser}."
        text = [p for name, p in parameters.items() if not name.startswith(denoiser)]
        image = [p for name, p in parameters.items() if name.startswith(denoiser)]
        groups = [
            {"params": image, "lr": o.lr},
            {"params": text, "lr": o.lr if o.text_encoder_lr is None else o.text_encoder_lr},
        ]
        optimizer = o.optimizer([g for g in groups if g["params"]], lr=o.lr)
        schedule = get_scheduler(
            o.lr_schedule,
            optimizer,
            num_warmup_steps=o.lr_warmup_steps,
            num_training_steps=o.max_steps,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, **_) -> None:
        """One joint norm over everything that trains, as diffusers."""
        # not Lightning's own clipping, which refuses fused optimizers
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(trained, self.optimization.max_grad_norm)

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None) -> None:
        """An update, after which no gradient is held and every token but the new ones is kept."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad(set_to_none=True)
        self.weights.after_step()

    def optimizer_zero_grad(self, *_) -> None:
        """Nothing: Lightning would keep the old gradients through the whole forward pass."""

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keep what trains and leave the frozen weights out."""
        checkpoint["state_dict"] = self.weights.state()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Load what trained, strictly."""
        self.weights.load(checkpoint["state_dict"])
        checkpoint["state_dict"] = {}

"""A pretrained text-to-image latent diffusion model: its three networks and what they compute."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import torch
from diffusers import SchedulerMixin, StableDiffusionPipeline
from diffusers.loaders import TextualInversionLoaderMixin
from torch import nn

from dreambooth.model.loading import (
    WEIGHT_PARTS,
    check_complete,
    check_fit,
    hash_folder,
    load_part,
    load_schedulers,
    load_tokenizer,
    locate,
)
from dreambooth.model.pipeline_export import write_pipeline

log = logging.getLogger(__name__)


class LatentDiffusion(nn.Module):
    """U-Net, VAE and text encoder of a Stable Diffusion pipeline, with its tokenizer.

    `noise_scheduler` is the training noise schedule (its `alphas_cumprod` and `prediction_type`).
    `masters` holds float32 copies, on the CPU, of parts cast to a smaller dtype while frozen.
    """

    def __init__(
        self,
        unet: nn.Module,
        vae: nn.Module,
        text_encoder: nn.Module,
        tokenizer,
        noise_scheduler: SchedulerMixin,
        sampler: SchedulerMixin,
        *,
        folder: Path,
        path: str,
        variant: str | None,
        commit: str | None,
    ):
        super().__init__()
        self.unet, self.vae, self.text_encoder = unet, vae, text_encoder
        self.tokenizer = tokenizer
        self.noise_scheduler = noise_scheduler
        self.path = path
        self.masters: dict[str, dict[str, torch.Tensor]] = {}
        self._sampler = sampler
        self._folder, self._variant, self._commit = folder, variant, commit
        self._weights_hash: str | None = None
        self._truncated: set[str] = set()  # prompts already warned of

    @classmethod
    def from_pretrained(
        cls, path: str, revision: str | None = None, variant: str | None = None
    ) -> LatentDiffusion:
        """Load a local diffusers folder or a hub id: float32, frozen, safetensors only.

        `variant` names a set of weight files (`fp16`). Raises UserError, naming the part, for a
        model that is unreachable, incomplete, damaged or of another kind.
        """
        folder, commit = locate(str(path), revision, variant)
        check_complete(folder, variant)
        tokenizer = load_tokenizer(folder)
        noise_scheduler, sampler = load_schedulers(folder)
        parts = {part: load_part(folder, part, variant) for part in WEIGHT_PARTS}
        check_fit(folder, tokenizer, **parts)
        where = {"folder": folder, "path": str(path), "variant": variant, "commit": commit}
        return cls(
            **parts, tokenizer=tokenizer, noise_scheduler=noise_scheduler, sampler=sampler, **where
        )

    @property
    def prediction_type(self) -> str:
        """`epsilon` or `v_prediction`: what the U-Net was trained to predict."""
        return self.noise_scheduler.config.prediction_type

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.vae.config.latent_channels

    @property
    def downsampling(self) -> int:
        """Pixels to a side of one latent element, 8 in Stable Diffusion."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def embed(self, prompts: list[str]) -> torch.Tensor:
        """Prompts (N) => embeddings `[N,L,D]`, as diffusers' pipelines compute them.

        The last hidden state after the final LayerNorm, every prompt padded to L tokens. A token
        of several vectors is spelled out. What goes beyond L is cut, with one warning a prompt.
        """
        if any(word.endswith("_1") for word in self.tokenizer.get_added_vocab()):
            spell_out = TextualInversionLoaderMixin().maybe_convert_prompt
            prompts = spell_out(list(prompts), self.tokenizer)
        length = self.tokenizer.model_max_length
        cut = {"padding": "max_length", "max_length": length, "truncation": True}
        ids = self.tokenizer(list(prompts), **cut, return_tensors="pt").input_ids
        self._warn_of_truncation(prompts, ids)
        return self.text_encoder(ids.to(self.text_encoder.device))[0]

    def encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`pixels [N,3,H,W]` in [-1,1] => posterior `mean, logvar [N,C,h,w]`, float32, unscaled."""
        posterior = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist
        return posterior.mean.float(), posterior.logvar.float()

    def sample_latents(
        self, mean: torch.Tensor, logvar: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """Posterior sample, scaled for the U-Net: `(mean + std * noise - shift) * scale`.

        All `[N,C,h,w]`; `noise` standard normal. `shift_factor` is 0 where the VAE has none.
        """
        latents = mean + torch.exp(0.5 * logvar) * noise
        shift = self.vae.config.get("shift_factor") or 0.0
        return (latents - shift) * self.vae.config.scaling_factor

    def predict(
        self, noisy_latents: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor
    ) -> torch.Tensor:
        """`[N,C,h,w]`, int64 `[N]`, `[N,L,D]` => prediction `[N,C,h,w]` in the U-Net's dtype."""
        dtype = self.unet.dtype
        return self.unet(noisy_latents.to(dtype), timesteps, embeddings.to(dtype)).sample

    def pipeline(self, scheduler: SchedulerMixin | None = None) -> StableDiffusionPipeline:
        """A diffusers pipeline over these very modules, with `scheduler` or the model's own."""
        pipeline = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=scheduler or type(self._sampler).from_config(self._sampler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass: less memory, about a third more time."""
        self.unet.enable_gradient_checkpointing()
        text = self.text_encoder  # transformers renamed the method within version 5
        enable = getattr(text, "activation_checkpointing_enable", None)
        # The re-entrant form gives no gradient to adapters behind an input that needs none.
        (enable or text.gradient_checkpointing_enable)({"use_reentrant": False})

    def base_state(self, part: str) -> dict[str, torch.Tensor]:
        """Weights of `unet`, `vae` or `text_encoder` under their own names, without adapters.

        References, not copies. An adapter that is merged is in them.
        """
        state = getattr(self, part).state_dict()
        return {
            name.replace(".base_layer.", "."): tensor
            for name, tensor in state.items()
            if ".lora_" not in name
        }

    def restore(self, part: str) -> None:
        """Bring a part that was cast while frozen back to its exact float32 weights."""
        master = self.masters.pop(part, None)
        if master is None:
            return
        nn.Module.to(getattr(self, part), torch.float32)  # diffusers' own `to` warns of nothing
        for name, tensor in self.base_state(part).items():
            tensor.copy_(master[name])

    def export(self, folder: str | Path) -> None:
        """Write a whole diffusers pipeline folder, float32 safetensors, new tokens included.

        Adapters are left out unless they are merged. Written beside `folder` and renamed, so that
        `folder` is never half-written; an earlier `folder` is replaced.
        """
        write_pipeline(self, Path(folder))

    def weights_hash(self) -> str:
        """SHA-256 hex of what was loaded: the files' content, or hub id and resolved commit."""
        if self._weights_hash is None:
            if self._commit is None:
                self._weights_hash = hash_folder(self._folder, self._variant)
            else:
                name = f"{self.path}@{self._commit}:{self._variant}"
                self._weights_hash = hashlib.sha256(name.encode()).hexdigest()
        return self._weights_hash

    def _warn_of_truncation(self, prompts: list[str], ids: torch.Tensor) -> None:
        length = ids.shape[1]
        for prompt, row in zip(prompts, ids, strict=True):
            if row[-2] == self.tokenizer.eos_token_id or prompt in self._truncated:
                continue  # padded, so nothing is cut; or said before
            whole = self.tokenizer(prompt, verbose=False).input_ids
            if len(whole) > length:
                self._truncated.add(prompt)
                cut = self.tokenizer.decode(whole[length - 1 : -1])
                log.warning("a prompt is longer than %d tokens, so this is cut: %s", length, cut)

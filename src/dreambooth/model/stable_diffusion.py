"""Stable Diffusion 1.x and 2.x, and the embedded model: three networks and what they compute."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from dreambooth.errors import UserError
from dreambooth.model.embeddings import Embeddings
from dreambooth.model.interface import BaseModel
from dreambooth.model.loading import check_fit, load_network, load_schedulers, load_tokenizer
from dreambooth.model.pipeline_export import write_pipeline
from dreambooth.model.source import Layout, Source, check_complete, locate

log = logging.getLogger(__name__)


class StableDiffusion(BaseModel):
    """U-Net, VAE and CLIP text encoder of a Stable Diffusion pipeline, with its tokenizer.

    `noise_scheduler` is the training noise schedule, `sampler` the one that the folder names.
    """

    layout = Layout(
        StableDiffusionPipeline,
        {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel},
        "Stable Diffusion 1.x and 2.x, or the embedded model",
    )
    denoiser, autoencoder, text_encoders = "unet", "vae", ("text_encoder",)
    token_encoders: ClassVar[Mapping[str, str]] = {"text_encoder": "clip_l"}

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer

    def __init__(
        self,
        networks: dict[str, Any],
        tokenizer: CLIPTokenizer,
        noise_scheduler: Any,
        sampler: SchedulerMixin,
        source: Source,
    ):
        super().__init__()
        self.layout = source.layout
        for name in self.layout.networks:
            self.add_module(name, networks[name])
        self.tokenizer = tokenizer
        self.noise_scheduler = noise_scheduler
        self.sampler: Any = sampler
        self.source = source
        self.masters = {}
        self.kept = {}
        self._truncated: set[str] = set()  # prompts already warned of

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        revision: str | None = None,
        variant: str | None = None,
        max_sequence_length: int | None = None,
    ) -> StableDiffusion:
        """Load a local diffusers folder or a hub id: float32, frozen, safetensors only.

        `variant` names a set of weight files (`fp16`).

        Raises:
            UserError: names the part of a model that is unreachable, incomplete, damaged or of
                another kind.
        """
        refuse_length(path, max_sequence_length)
        source = locate(str(path), revision, variant, cls.layout)
        check_complete(source)
        tokenizer = load_tokenizer(source.folder)
        noise_scheduler, sampler = load_schedulers(source.folder)
        networks = {name: load_network(source, name) for name in cls.layout.networks}
        check_fit(source.folder, tokenizer, **networks)
        return cls(networks, tokenizer, noise_scheduler, sampler, source)

    def embed(self, prompts: Sequence[str]) -> Embeddings:
        """Embed N prompts as diffusers' pipeline does: `[N,L,D]`.

        The last hidden state after the final LayerNorm, every prompt padded to L tokens. A token
        of several vectors is spelled out. What goes beyond L is cut, with one warning per prompt.
        """
        ids = self._token_ids(list(prompts), self.tokenizer)
        return Embeddings(self.text_encoder(ids.to(self.text_encoder.device))[0])

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode `pixels [N,3,H,W]` in [-1,1] as posterior `mean, logvar [N,C,h,w]`, float32.

        Neither is scaled for the U-Net.
        """
        encoded: Any = self.vae.encode(pixels.to(self.vae.dtype))
        posterior = encoded.latent_dist
        return posterior.mean.float(), posterior.logvar.float()

    def sample_latents(self, mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
        """Draw a posterior sample, scaled for the U-Net; all `[N,C,h,w]`, `noise` standard normal.

            latents = (mean + exp(logvar / 2) noise - shift_factor) x scaling_factor

        `shift_factor` is 0 where the VAE has none.
        """
        latents = mean + torch.exp(0.5 * logvar) * noise
        shift = self.vae.config.get("shift_factor") or 0.0
        return (latents - shift) * self.vae.config["scaling_factor"]

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, embeddings: Embeddings) -> Tensor:
        """Run the U-Net: `[N,C,h,w]`, int64 `[N]`, N prompts => `[N,C,h,w]` in its dtype."""
        dtype = self.unet.dtype
        return self.unet(noisy_latents.to(dtype), timesteps, embeddings.tokens.to(dtype)).sample

    def pipeline(self, scheduler: SchedulerMixin | None = None) -> Any:
        """Make a diffusers pipeline over these networks, with `scheduler` or the model's own."""
        own = type(self.sampler).from_config(self.sampler.config)
        networks = {name: self.network(name) for name in self.layout.networks}
        pipeline = assemble(networks, self.tokenizer, scheduler or own)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass: less memory, about a third more time."""
        self.network(self.denoiser).enable_gradient_checkpointing()
        for name in self.text_encoders:
            text = self.network(name)  # transformers renamed the method within version 5
            enable = getattr(text, "activation_checkpointing_enable", None)
            # The re-entrant form gives no gradient to adapters behind an input that needs none.
            (enable or text.gradient_checkpointing_enable)({"use_reentrant": False})

    def export(
        self,
        folder: str | Path,
        scheduler: SchedulerMixin | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Write a whole diffusers pipeline folder, safetensors in `dtype`, new tokens included.

        `scheduler`, or else the model's own, becomes the folder's sampler; the training noise
        schedule is kept beside it. Adapters are left out unless they are merged. The folder is
        written beside its place and renamed, so that it is never half-written; an earlier one is
        replaced.
        """
        write_pipeline(self, Path(folder), scheduler, dtype)

    def _token_ids(self, texts: list[str], tokenizer: CLIPTokenizer) -> Tensor:
        """Cut N prompts into tokens `[N,L]`."""
        if any(word.endswith("_1") for word in tokenizer.get_added_vocab()):
            spell_out: Any = TextualInversionLoaderMixin().maybe_convert_prompt
            texts = spell_out(texts, tokenizer)
        length = tokenizer.model_max_length
        cut = {"padding": "max_length", "max_length": length, "truncation": True}
        ids = tokenizer(texts, **cut, return_tensors="pt").input_ids
        self._warn_of_truncation(texts, ids)
        return ids

    def _warn_of_truncation(self, prompts: list[str], ids: Tensor) -> None:
        """Warn once of each prompt that is longer than the text encoder takes, naming the cut."""
        length = ids.shape[1]
        for prompt, row in zip(prompts, ids, strict=True):
            if row[-2] == self.tokenizer.eos_token_id or prompt in self._truncated:
                continue  # padded, so nothing is cut; or warned of before
            whole = self.tokenizer(prompt, verbose=False).input_ids
            if len(whole) > length:
                self._truncated.add(prompt)
                cut = self.tokenizer.decode(whole[length - 1 : -1])
                log.warning("a prompt is longer than %d tokens, so this is cut: %s", length, cut)


def refuse_length(path: str, max_sequence_length: int | None) -> None:
    """Refuse a length of prompts for a model whose pipeline takes none.

    Raises:
        UserError: names the model.
    """
    if max_sequence_length is not None:
        raise UserError(
            f"model.max_sequence_length={max_sequence_length} is for models such as "
            f"model=sd35_medium, and {path} is of another kind: choose the model= of its kind."
        )


def assemble(
    networks: dict[str, Any], tokenizer: CLIPTokenizer, scheduler: SchedulerMixin
) -> StableDiffusionPipeline:
    """Make a diffusers pipeline of `unet`, `vae` and `text_encoder`, without a safety checker."""
    without: dict[str, Any] = {"safety_checker": None, "feature_extractor": None}
    parts: dict[str, Any] = {**networks, "tokenizer": tokenizer, "scheduler": scheduler}
    return StableDiffusionPipeline(**parts, **without, requires_safety_checker=False)

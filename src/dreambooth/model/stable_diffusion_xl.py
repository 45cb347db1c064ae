"""Stable Diffusion XL (Podell et al. 2023, arXiv:2307.01952): two text encoders, told of sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from dreambooth.errors import UserError
from dreambooth.model.embeddings import Embeddings
from dreambooth.model.loading import check_fit, load_network, load_schedulers, load_tokenizer
from dreambooth.model.source import Layout, check_complete, fix_for, locate
from dreambooth.model.stable_diffusion import StableDiffusion, refuse_length

NUM_SIZES = 6  # what `condition` is given of an image


class StableDiffusionXL(StableDiffusion):
    """The base model of Stable Diffusion XL; what is not here is as in `StableDiffusion`.

    A prompt is embedded by both text encoders; the denoiser is also told the second one's pooled
    embedding and the sizes of the image.
    """

    layout = Layout(
        StableDiffusionXLPipeline,
        {
            "unet": UNet2DConditionModel,
            "vae": AutoencoderKL,
            "text_encoder": CLIPTextModel,
            "text_encoder_2": CLIPTextModelWithProjection,
        },
        "Stable Diffusion XL base",
        ("tokenizer", "tokenizer_2"),
    )
    text_encoders = ("text_encoder", "text_encoder_2")
    token_encoders: ClassVar[Mapping[str, str]] = {
        "text_encoder": "clip_l",
        "text_encoder_2": "clip_g",
    }

    text_encoder_2: CLIPTextModelWithProjection
    tokenizer_2: CLIPTokenizer

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        revision: str | None = None,
        variant: str | None = None,
        max_sequence_length: int | None = None,
    ) -> StableDiffusionXL:
        """Load a local diffusers folder or a hub id: float32, frozen, safetensors only.

        Raises:
            UserError: names the part of a model that is unreachable, incomplete, damaged or of
                another kind.
        """
        refuse_length(path, max_sequence_length)
        source = locate(str(path), revision, variant, cls.layout)
        check_complete(source)
        first, second = (load_tokenizer(source.folder, name) for name in cls.layout.tokenizers)
        noise_scheduler, sampler = load_schedulers(source.folder)
        networks = {name: load_network(source, name) for name in cls.layout.networks}
        encoders = [networks[name] for name in cls.text_encoders]
        check_fit(source.folder, first, networks["unet"], networks["vae"], *encoders)
        check_fit(source.folder, second, networks["unet"], networks["vae"], *reversed(encoders))
        told = encoders[1].config.projection_dim
        told += NUM_SIZES * networks["unet"].config.addition_time_embed_dim
        if told != networks["unet"].config.projection_class_embeddings_input_dim:
            raise UserError(
                f"{source.folder}/unet is not told {NUM_SIZES} sizes and a pooled embedding of its "
                f"text_encoder_2: {fix_for(source.folder, 'take the base model, not a refiner')}."
            )
        model = cls(networks, first, noise_scheduler, sampler, source)
        model.tokenizer_2 = second
        return model

    @property
    def modelspec(self) -> str:
        """The name of the architecture in the metadata of files."""
        return "stable-diffusion-xl-v1-base"

    @property
    def overflows_in_float16(self) -> bool:
        """Whether the autoencoder does: the published one, but not those made for float16."""
        return self.vae.config.get("force_upcast", True)

    def embed(self, prompts: Sequence[str]) -> Embeddings:
        """Embed N prompts as diffusers' pipeline does: `[N,L,D1+D2]`, and `text_embeds [N,P]`.

        The last hidden state but one of both encoders, and the projected, pooled embedding of the
        second. What goes beyond L tokens is cut, with one warning per prompt.
        """
        states, pooled = [], torch.empty(0)
        for name in self.text_encoders:
            encoder = self.network(name)
            ids = self._token_ids(list(prompts), self.tokenizer_of(name))
            output = encoder(ids.to(encoder.device), output_hidden_states=True)
            states.append(output.hidden_states[-2])
            pooled = output[0]
        return Embeddings(torch.cat(states, dim=-1), {"text_embeds": pooled})

    def embed_negative(self, prompt: str) -> Embeddings:
        """Embed what guidance leads away from; nothing at all is zeros if the model says so."""
        embeddings = self.embed([prompt])
        if prompt or not self._zeros_for_empty:
            return embeddings
        extra = {key: torch.zeros_like(value) for key, value in embeddings.extra.items()}
        return Embeddings(torch.zeros_like(embeddings.tokens), extra)

    def condition(self, embeddings: Embeddings, sizes: Tensor) -> Embeddings:
        """Add the sizes `[N,6]` as `time_ids`: of the photo, of the view's corner, of the view."""
        time_ids = sizes.to(embeddings.tokens.device)
        return Embeddings(embeddings.tokens, {**embeddings.extra, "time_ids": time_ids})

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, embeddings: Embeddings) -> Tensor:
        """Run the U-Net: `[N,C,h,w]`, int64 `[N]`, N conditioned prompts => `[N,C,h,w]`."""
        dtype = self.unet.dtype
        return self.unet(
            noisy_latents.to(dtype),
            timesteps,
            embeddings.tokens.to(dtype),
            added_cond_kwargs={key: value.to(dtype) for key, value in embeddings.extra.items()},
        ).sample

    def pipeline(self, scheduler: SchedulerMixin | None = None) -> Any:
        """Make a diffusers pipeline over these networks, with `scheduler` or the model's own."""
        own = type(self.sampler).from_config(self.sampler.config)
        parts: dict[str, Any] = {name: self.network(name) for name in self.layout.networks}
        parts |= {name: getattr(self, name) for name in self.layout.tokenizers}
        parts["scheduler"] = scheduler or own
        pipeline = StableDiffusionXLPipeline(
            **parts,
            force_zeros_for_empty_prompt=self._zeros_for_empty,
            add_watermarker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @property
    def _zeros_for_empty(self) -> bool:
        index = json.loads((self.source.folder / "model_index.json").read_text())
        return index.get("force_zeros_for_empty_prompt", True)

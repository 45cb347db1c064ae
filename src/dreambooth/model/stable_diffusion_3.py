"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv:2403.03206): flow matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
    T5Tokenizer,
)

from dreambooth.errors import UserError
from dreambooth.model.embeddings import Embeddings
from dreambooth.model.loading import (
    check_words,
    load_network,
    load_schedulers,
    load_tokenizer,
    refuse_misfit,
    require_length,
)
from dreambooth.model.source import Layout, Source, check_complete, locate
from dreambooth.model.stable_diffusion import StableDiffusion

T5_KEPT = 256  # prompts whose T5 embeddings are kept


class StableDiffusion3(StableDiffusion):
    """The base model of Stable Diffusion 3; what is not here is as in `StableDiffusion`.

    Two CLIP text encoders, which can train, and T5, which is always frozen and may be absent. Then
    zeros stand in its place, as in diffusers' pipeline: `max_sequence_length` of them, even none.
    """

    layout: Layout = Layout(
        StableDiffusion3Pipeline,
        {
            "transformer": SD3Transformer2DModel,
            "vae": AutoencoderKL,
            "text_encoder": CLIPTextModelWithProjection,
            "text_encoder_2": CLIPTextModelWithProjection,
            "text_encoder_3": T5EncoderModel,
        },
        "Stable Diffusion 3 and 3.5",
        ("tokenizer", "tokenizer_2", "tokenizer_3"),
        optional=("text_encoder_3", "tokenizer_3"),
    )
    denoiser, text_encoders = "transformer", ("text_encoder", "text_encoder_2")
    # diffusers' pipeline loads no embeddings of words
    token_encoders: ClassVar[Mapping[str, str]] = {}
    export_layouts: ClassVar[tuple[str, ...]] = ("diffusers", "peft")

    transformer: SD3Transformer2DModel
    text_encoder_2: CLIPTextModelWithProjection
    text_encoder_3: T5EncoderModel
    tokenizer_2: CLIPTokenizer
    tokenizer_3: T5Tokenizer

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._kept: dict[tuple[str, torch.dtype], Tensor] = {}  # of T5, by prompt

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        revision: str | None = None,
        variant: str | None = None,
        max_sequence_length: int | None = None,
    ) -> StableDiffusion3:
        """Load a local diffusers folder or a hub id: float32, frozen, safetensors only.

        Raises:
            UserError: names the part of a model that is unreachable, incomplete, damaged or of
                another kind, or a length that it cannot be told.
        """
        source = locate(str(path), revision, variant, cls.layout, max_sequence_length)
        check_complete(source)
        has_t5 = "text_encoder_3" in source.layout.networks
        what = "tokens of its T5 encoder, or of the zeros in its place"
        require_length(source, 1 if has_t5 else 0, what, "sd35_medium")
        tokenizers = {
            name: load_tokenizer(source.folder, name, kind)
            for name, kind in zip(
                source.layout.tokenizers,
                (CLIPTokenizer, CLIPTokenizer, T5Tokenizer),
                strict=False,
            )
        }
        schedulers = load_schedulers(source.folder, FlowMatchEulerDiscreteScheduler)
        networks = {name: load_network(source, name) for name in source.layout.networks}
        _check_fit(source, networks)
        for number, name in enumerate(cls.text_encoders):
            tokenizer = tokenizers[cls.layout.tokenizers[number]]
            check_words(source.folder, tokenizer, networks[name])
        model = cls(networks, tokenizers["tokenizer"], *schedulers, source)
        for name, tokenizer in tokenizers.items():
            setattr(model, name, tokenizer)
        return model

    @property
    def max_sequence_length(self) -> int:
        """The tokens of the T5 encoder, or of the zeros in its place."""
        return self.source.max_sequence_length or 0

    @property
    def has_t5(self) -> bool:
        """Whether the folder holds the T5 encoder."""
        return "text_encoder_3" in self.layout.networks

    @property
    def modelspec(self) -> str:
        """The name of the architecture in the metadata of files."""
        config = self.transformer.config
        if config["dual_attention_layers"]:
            return "stable-diffusion-v3.5-medium"
        return "stable-diffusion-v3.5-large" if config["qk_norm"] else "stable-diffusion-v3-medium"

    @property
    def drawing_options(self) -> dict[str, Any]:
        """Tell the pipeline how many tokens the T5 encoder has."""
        return {"max_sequence_length": self.max_sequence_length}

    def embed(self, prompts: Sequence[str]) -> Embeddings:
        """Embed N prompts as diffusers' pipeline does: `[N,L+M,D]`, and `text_embeds [N,P1+P2]`.

        Of both CLIP encoders the last hidden state but one, side by side and filled with zeros to
        the width of T5's, then T5's M tokens; and both projected, pooled embeddings. What goes
        beyond the L tokens of CLIP is cut, with one warning per prompt.
        """
        states, pooled = [], []
        for name in self.text_encoders:
            encoder = self.network(name)
            ids = self._token_ids(list(prompts), self.tokenizer_of(name))
            output = encoder(ids.to(encoder.device), output_hidden_states=True)
            states.append(output.hidden_states[-2])
            pooled.append(output[0])
        clip = torch.cat(states, dim=-1)
        width = self.transformer.config["joint_attention_dim"]
        clip = F.pad(clip, (0, width - clip.shape[-1]))
        tokens = torch.cat([clip, self._embed_t5(prompts, clip)], dim=-2)
        return Embeddings(tokens, {"text_embeds": torch.cat(pooled, dim=-1)})

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, embeddings: Embeddings) -> Tensor:
        """Run the transformer: `[N,C,h,w]`, float `[N]` in [0, T], N prompts => `[N,C,h,w]`."""
        dtype = self.transformer.dtype
        return self.transformer(
            noisy_latents.to(dtype),
            encoder_hidden_states=embeddings.tokens.to(dtype),
            pooled_projections=embeddings.extra["text_embeds"].to(dtype),
            timestep=timesteps,
        ).sample

    def pipeline(self, scheduler: SchedulerMixin | None = None) -> Any:
        """Make a diffusers pipeline over these networks, with `scheduler` or the model's own."""
        parts: dict[str, Any] = dict.fromkeys(type(self).layout.optional)
        parts |= {name: self.network(name) for name in self.layout.networks}
        parts |= {name: getattr(self, name) for name in self.layout.tokenizers}
        parts["scheduler"] = scheduler or type(self.sampler).from_config(self.sampler.config)
        pipeline = StableDiffusion3Pipeline(**parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def image_tokens(self, height: int, width: int) -> int:
        """Count the patches of latents of a height and width."""
        return height * width // self.transformer.config["patch_size"] ** 2

    def check_resolution(self, resolution: int) -> None:
        """Refuse images that cannot be cut into patches, or into more than there are places for.

        Raises:
            UserError: names the resolution, and what it must be.
        """
        patch = self.transformer.config["patch_size"] * self._latent_factor
        most = patch * self.transformer.config["pos_embed_max_size"]
        if resolution % patch or resolution > most:
            raise UserError(
                f"resolution={resolution} must be a multiple of {patch} for this model, and {most} "
                "at most."
            )

    def _embed_t5(self, prompts: Sequence[str], clip: Tensor) -> Tensor:
        """Embed N prompts by T5, which is frozen: each once. `[N,M,D]`, zeros without T5."""
        if not self.has_t5:
            return clip.new_zeros(len(clip), self.max_sequence_length, clip.shape[-1])
        return torch.stack([self._of_t5(prompt) for prompt in prompts]).to(clip.device)

    def _of_t5(self, prompt: str) -> Tensor:
        """Embed one prompt by T5, `[M,D]`, or return what it gave before."""
        encoder, kept = self.text_encoder_3, self._kept
        if (prompt, encoder.dtype) not in kept:
            length = self.max_sequence_length
            cut: Any = {"padding": "max_length", "max_length": length, "truncation": True}
            ids: Any = self.tokenizer_3([prompt], **cut, return_tensors="pt").input_ids
            if len(kept) >= T5_KEPT:
                kept.clear()
            with torch.no_grad():
                kept[prompt, encoder.dtype] = encoder(ids.to(encoder.device))[0][0]
        return kept[prompt, encoder.dtype]


def _check_fit(source: Source, networks: dict[str, Any]) -> None:
    """Refuse parts of different models, which load one by one but cannot work together.

    Raises:
        UserError: names the two parts and the sizes that differ.
    """
    config, vae = networks["transformer"].config, networks["vae"].config
    clip = [networks[name].config for name in StableDiffusion3.text_encoders]
    width, pooled = sum(c.hidden_size for c in clip), sum(c.projection_dim for c in clip)
    third = networks.get("text_encoder_3")
    faults = {
        f"takes {config.in_channels} channels but its vae gives {vae.latent_channels}": (
            config.in_channels != vae.latent_channels
        ),
        f"takes embeddings of width {config.joint_attention_dim} but its CLIP text encoders give "
        f"{width}": width > config.joint_attention_dim,
        f"takes pooled embeddings of width {config.pooled_projection_dim} but its CLIP text "
        f"encoders give {pooled}": pooled != config.pooled_projection_dim,
    }
    if third is not None:
        given = third.config.d_model
        fault = f"takes embeddings of width {config.joint_attention_dim} but its T5 gives {given}"
        faults[fault] = given != config.joint_attention_dim
    refuse_misfit(source.folder, faults)

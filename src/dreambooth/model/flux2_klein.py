"""FLUX.2 klein (Black Forest Labs 2026): flow matching on 2x2 patches, Qwen3 as text encoder."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3ForCausalLM

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

LAYERS = (9, 18, 27)  # of Qwen3, whose outputs are a prompt's embedding, side by side
PATCH = 2  # latents in a side of a patch


class Flux2Klein(StableDiffusion):
    """A base model of FLUX.2 klein; what is not here is as in `StableDiffusion`.

    Latents `[N,128,h,w]` are patches: 2x2 of the autoencoder's, normalised by the statistics of its
    batch norm. The text encoder is a language model, which stays frozen. There is no guidance
    embedding: the base models are drawn from with classifier-free guidance.
    """

    layout: Layout = Layout(
        Flux2KleinPipeline,
        {
            "transformer": Flux2Transformer2DModel,
            "vae": AutoencoderKLFlux2,
            "text_encoder": Qwen3ForCausalLM,
        },
        "FLUX.2 klein",
    )
    denoiser, text_encoders = "transformer", ()
    token_encoders: ClassVar[Mapping[str, str]] = {}
    export_layouts: ClassVar[tuple[str, ...]] = ("diffusers", "peft")
    takes_negative_prompt: ClassVar[bool] = False

    transformer: Flux2Transformer2DModel

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        revision: str | None = None,
        variant: str | None = None,
        max_sequence_length: int | None = None,
    ) -> Flux2Klein:
        """Load a local diffusers folder or a hub id: float32, frozen, safetensors only.

        Raises:
            UserError: names the part of a model that is unreachable, incomplete, damaged or of
                another kind, a model that was distilled, or a length that it cannot be told.
        """
        source = locate(str(path), revision, variant, cls.layout, max_sequence_length)
        check_complete(source)
        require_length(source, 1, "tokens of a prompt", "flux2_klein")
        _refuse_distilled(source)
        tokenizer = load_tokenizer(source.folder, "tokenizer", Qwen2Tokenizer)
        schedulers = load_schedulers(source.folder, FlowMatchEulerDiscreteScheduler)
        networks = {name: load_network(source, name) for name in source.layout.networks}
        _check_fit(source, networks)
        check_words(source.folder, tokenizer, networks["text_encoder"])
        return cls(networks, tokenizer, *schedulers, source)

    @property
    def modelspec(self) -> str:
        """The name of the architecture in the metadata of files."""
        return "flux-2-klein"

    @property
    def max_sequence_length(self) -> int:
        """The tokens of a prompt."""
        return self.source.max_sequence_length or 0

    @property
    def drawing_options(self) -> dict[str, Any]:
        """Tell the pipeline how many tokens a prompt has."""
        return {"max_sequence_length": self.max_sequence_length}

    def embed(self, prompts: Sequence[str]) -> Embeddings:
        """Embed N prompts as diffusers' pipeline does: `[N,L,3D]`.

        A prompt is what a user says in Qwen3's chat. The outputs of three layers stand side by
        side. Every prompt is padded to L tokens, and what goes beyond is cut, with one warning.
        """
        tokenizer: Any = self.tokenizer
        length, ids, masks = self.max_sequence_length, [], []
        for prompt in prompts:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
            cut = {"padding": "max_length", "max_length": length, "truncation": True}
            tokens = tokenizer(text, **cut, return_tensors="pt")
            ids.append(tokens.input_ids)
            masks.append(tokens.attention_mask)
        encoder: Any = self.text_encoder
        # the model inside computes no next word, which for 512 tokens would be most of the memory
        states = encoder.model(
            input_ids=torch.cat(ids).to(encoder.device),
            attention_mask=torch.cat(masks).to(encoder.device),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        return Embeddings(torch.cat([states[layer] for layer in LAYERS], dim=-1))

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode `pixels [N,3,H,W]` in [-1,1] as posterior `mean, logvar [N,128,h,w]`, float32.

        Cut into patches, and not normalised.
        """
        mean, logvar = super().encode(pixels)
        patches = Flux2KleinPipeline._patchify_latents
        return patches(mean), patches(logvar)

    def sample_latents(self, mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
        """Normalise the posterior's mean, all `[N,128,h,w]`.

            latents = (mean - running_mean) / sqrt(running_var + eps)

        Nothing is drawn from the posterior: the model was trained on its mean, and so does
        diffusers' script.
        """
        vae: Any = self.vae
        statistics, shape = vae.bn, (1, -1, 1, 1)
        variance = statistics.running_var.view(shape) + vae.config["batch_norm_eps"]
        return (mean - statistics.running_mean.view(shape).to(mean)) / variance.sqrt().to(mean)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, embeddings: Embeddings) -> Tensor:
        """Run the transformer: `[N,C,h,w]`, float `[N]` in [0, T], N prompts => `[N,C,h,w]`."""
        dtype, device = self.transformer.dtype, noisy_latents.device
        tokens = embeddings.tokens.to(dtype)
        velocity = self.transformer(
            hidden_states=Flux2KleinPipeline._pack_latents(noisy_latents.to(dtype)),
            timestep=timesteps / self.process.num_timesteps,
            guidance=None,
            encoder_hidden_states=tokens,
            txt_ids=Flux2KleinPipeline._prepare_text_ids(tokens).to(device),
            img_ids=Flux2KleinPipeline._prepare_latent_ids(noisy_latents).to(device),
            return_dict=False,
        )[0]
        return velocity.transpose(1, 2).reshape(noisy_latents.shape)

    def pipeline(self, scheduler: SchedulerMixin | None = None) -> Any:
        """Make a diffusers pipeline over these networks, with `scheduler` or the model's own.

        Raises:
            UserError: a scheduler that cannot be told noise levels, as the pipeline does.
        """
        parts: dict[str, Any] = {name: self.network(name) for name in self.layout.networks}
        parts["scheduler"] = scheduler or type(self.sampler).from_config(self.sampler.config)
        _check_sampler(parts["scheduler"])
        pipeline = Flux2KleinPipeline(tokenizer=self.tokenizer, **parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @property
    def _latent_factor(self) -> int:
        return PATCH * super()._latent_factor


def _check_sampler(scheduler: Any) -> None:
    """Refuse a sampler with noise levels of its own: the pipeline tells it some, and their shift.

    Raises:
        UserError: names the sampler and those to take.
    """
    told = inspect.signature(scheduler.set_timesteps).parameters
    if "mu" not in told or not ("sigmas" in told or scheduler.config.get("use_flow_sigmas")):
        raise UserError(
            f"{type(scheduler).__name__} does not sample from FLUX.2 klein, whose pipeline gives "
            "the noise levels: leave scheduler out, or use scheduler=flow_unipc."
        )


def _refuse_distilled(source: Source) -> None:
    """Refuse a model of few steps, which was not trained at the noise levels of flow matching.

    Raises:
        UserError: names the model.
    """
    index = json.loads((source.folder / "model_index.json").read_text())
    if index.get("is_distilled"):
        raise UserError(
            f"the model {source.path} is distilled to a few steps, and fine-tuning takes that from "
            "it: train the base model, FLUX.2-klein-base-4B, and use the LoRA with either."
        )


def _check_fit(source: Source, networks: dict[str, Any]) -> None:
    """Refuse parts of different models, which load one by one but cannot work together.

    Raises:
        UserError: names the two parts and the sizes that differ.
    """
    config, text = networks["transformer"].config, networks["text_encoder"].config
    channels = networks["vae"].config.latent_channels * PATCH**2
    width = len(LAYERS) * text.hidden_size
    faults = {
        f"takes {config.in_channels} channels but its vae gives {channels}": (
            config.in_channels != channels
        ),
        f"takes embeddings of width {config.joint_attention_dim} but its text_encoder gives "
        f"{width}": config.joint_attention_dim != width,
        f"takes layer {LAYERS[-1]} of a text_encoder that has {text.num_hidden_layers}": (
            text.num_hidden_layers < LAYERS[-1]
        ),
        "takes a guidance embedding, which FLUX.2 klein has not": config.guidance_embeds,
    }
    refuse_misfit(source.folder, faults)

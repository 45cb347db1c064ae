"""What a base model must offer: a new architecture is one file with a subclass of `BaseModel`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from dreambooth.diffusion.process import Process, process_of
from dreambooth.errors import UserError
from dreambooth.model.adapter_weights import adapter_names, own_name
from dreambooth.model.embeddings import Embeddings
from dreambooth.model.quantization import unquantize_layers
from dreambooth.model.source import Layout, Source


class BaseModel(nn.Module, ABC):
    """A pretrained text-to-image latent diffusion model, frozen and in float32 when loaded.

    Every network is an attribute of the name that its folder has in `layout`. A phase of training
    that names the `unet` means `denoiser`, one that names the `text_encoder` all `text_encoders`;
    a new token joins the vocabularies and embedding matrices of all `token_encoders`, a mapping of
    their names to those that files of embeddings have for them.

    `masters` holds float32 copies, on the CPU, of networks that were cast to a smaller dtype or
    quantised while frozen: `{network: {name: tensor}}`. `offloads_from` is the device that networks
    leave while they wait (see `offload.py`); None where none waits. `kept` has prompts that were
    embedded then, on the CPU (see `sampling/conditioning.py`).
    """

    layout: Layout
    denoiser: ClassVar[str]
    autoencoder: ClassVar[str]
    text_encoders: ClassVar[tuple[str, ...]]
    # what can be written of it, beside what the kind of export says
    export_layouts: ClassVar[tuple[str, ...]] = ("diffusers", "kohya", "peft", "single_file")
    token_encoders: ClassVar[Mapping[str, str]] = {}
    takes_negative_prompt: ClassVar[bool] = True

    source: Source
    tokenizer: Any
    text_encoder: Any
    noise_scheduler: DDPMScheduler | FlowMatchEulerDiscreteScheduler
    masters: dict[str, dict[str, Tensor]]
    kept: dict[tuple[Any, ...], Embeddings]
    offloads_from: torch.device | None = None

    @classmethod
    @abstractmethod
    def from_pretrained(
        cls,
        path: str,
        revision: str | None = None,
        variant: str | None = None,
        max_sequence_length: int | None = None,
    ) -> BaseModel:
        """Load a local diffusers folder or a hub id; `variant` names a set of weight files.

        Args:
            max_sequence_length: what the pipelines of some models are told; None for the others.

        Raises:
            UserError: names the part of a model that is unreachable, incomplete or damaged.
        """

    @abstractmethod
    def embed(self, prompts: Sequence[str]) -> Embeddings:
        """Embed N prompts as the model's diffusers pipeline does."""

    def embed_negative(self, prompt: str) -> Embeddings:
        """Embed one prompt that guidance leads away from, as the model's pipeline does."""
        return self.embed([prompt])

    def condition(self, embeddings: Embeddings, sizes: Tensor) -> Embeddings:
        """Add what the denoiser is told of each image's sizes `[N,6]`; most are told nothing.

        Args:
            sizes: pixels: height and width of the photo, top and left of the view that was cut out
                of it, height and width of the view.
        """
        return embeddings

    @abstractmethod
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode `pixels [N,3,H,W]` in [-1,1] as posterior `mean, logvar [N,C,h,w]`, float32."""

    @abstractmethod
    def sample_latents(self, mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
        """Draw latents `[N,C,h,w]`, scaled for the denoiser, from standard normal `noise`."""

    @abstractmethod
    def predict(self, noisy_latents: Tensor, timesteps: Tensor, embeddings: Embeddings) -> Tensor:
        """Run the denoiser: `[N,C,h,w]`, timesteps `[N]`, N prompts => prediction `[N,C,h,w]`."""

    @abstractmethod
    def pipeline(self, scheduler: SchedulerMixin | None = None) -> Any:
        """Make a diffusers pipeline over these networks, with `scheduler` or the model's own."""

    @abstractmethod
    def export(
        self,
        folder: str | Path,
        scheduler: SchedulerMixin | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Write a diffusers pipeline folder, with `scheduler` or the model's own as its sampler."""

    @abstractmethod
    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass: less memory, about a third more time."""

    @property
    def modelspec(self) -> str | None:
        """The name of the architecture in the metadata of files; None if its sizes tell it."""
        return None

    @property
    def drawing_options(self) -> dict[str, Any]:
        """What the pipeline's call is told beside what every model's is."""
        return {}

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """Return the shape `(C, h, w)` of the latents of a square image of `resolution` pixels."""
        side = resolution // self._latent_factor
        return self.network(self.denoiser).config["in_channels"], side, side

    def image_tokens(self, height: int, width: int) -> int:
        """Count the tokens that the denoiser makes of latents of a height and width."""
        return height * width

    def check_resolution(self, resolution: int) -> None:
        """Refuse a resolution, in pixels, that the model cannot draw.

        Raises:
            UserError: says what it must be.
        """
        if resolution % self._latent_factor:
            raise UserError(
                f"resolution={resolution} must be a multiple of {self._latent_factor} for this "
                "model."
            )

    @property
    def _latent_factor(self) -> int:
        """Pixels in a side of a latent."""
        return 2 ** (len(self.network(self.autoencoder).config["block_out_channels"]) - 1)

    @cached_property
    def process(self) -> Process:
        """The process that the denoiser was trained on."""
        return process_of(self.noise_scheduler)

    @property
    def overflows_in_float16(self) -> bool:
        """Whether the autoencoder does; it then computes in float32 where others have float16."""
        return False

    @property
    def trainable_networks(self) -> tuple[str, ...]:
        """Names of the networks that a phase can train; the autoencoder is always frozen."""
        return (self.denoiser, *self.text_encoders)

    @property
    def frozen_encoders(self) -> tuple[str, ...]:
        """Names of the encoders of prompts that no phase can train, such as T5."""
        others = (*self.trainable_networks, self.autoencoder)
        return tuple(name for name in self.layout.networks if name not in others)

    @property
    def prompt_encoders(self) -> tuple[str, ...]:
        """Names of all networks that embed prompts."""
        return (*self.text_encoders, *self.frozen_encoders)

    @property
    def device(self) -> torch.device:
        """The device that the networks compute on, wherever they wait."""
        if self.offloads_from is None:
            return next(self.network(self.denoiser).parameters()).device
        if self.offloads_from.type == "cuda":  # of a list of GPUs, Lightning makes one current
            return torch.device("cuda", torch.cuda.current_device())
        return self.offloads_from

    @property
    def trains_text(self) -> bool:
        """Whether any weight of a text encoder trains now."""
        encoders = (self.network(name) for name in self.text_encoders)
        return any(p.requires_grad for encoder in encoders for p in encoder.parameters())

    def network(self, name: str) -> Any:
        """Return a network by its name in `layout`."""
        return self.get_submodule(name)

    def tokenizer_of(self, encoder: str) -> Any:
        """Return the tokenizer of a text encoder: `tokenizer_2` is that of `text_encoder_2`."""
        return getattr(self, encoder.replace("text_encoder", "tokenizer"))

    def weights_hash(self) -> str:
        """Return a hash of what was loaded: of the files' content, or of hub id and commit."""
        return self.source.weights_hash

    def base_state(self, network: str) -> dict[str, Tensor]:
        """List a network's weights under their own names, without adapters.

        References, not copies. An adapter that is merged is in them.
        """
        module = self.network(network)
        added = adapter_names(module)
        state = module.state_dict().items()
        return {own_name(name): tensor for name, tensor in state if name not in added}

    def restore(self, network: str) -> None:
        """Bring a network that was cast or quantised back to its exact float32 weights."""
        master = self.masters.pop(network, None)
        if master is None:
            return
        unquantize_layers(self.network(network))
        nn.Module.to(self.network(network), torch.float32)  # diffusers' own `to` warns of nothing
        for name, tensor in self.base_state(network).items():
            tensor.copy_(master[name])

"""What the model predicted before training, as a target: prior preservation without class images.

Published as differential output preservation (kohya-ss/sd-scripts, pull request 1710) and as prior
prediction (Nerogar/OneTrainer, pull request 505).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dreambooth.model.adapter_weights import adapter_layers, adapter_parameters
from dreambooth.model.embeddings import Embeddings
from dreambooth.model.interface import BaseModel
from dreambooth.model.offload import alone


class BasePrediction:
    """Predict as `model` did when this was made, whatever has trained since.

    Make it before any phase is prepared: the text encoder embeds `prompts` now, once. The denoiser
    is the model's own without its adapters, until `keep` has copied it.

    Args:
        prompts: those that will be asked for.
        dtype: of the copy.
    """

    def __init__(self, model: BaseModel, prompts: Iterable[str], dtype: torch.dtype) -> None:
        self.model, self._dtype = model, dtype
        unique = sorted(set(prompts))
        with torch.no_grad(), alone(model, *model.prompt_encoders):
            self._embedded = dict(zip(unique, model.embed(unique), strict=True))
        self._copy: BaseModel | None = None

    def keep(self) -> None:
        """Copy the denoiser in the smaller dtype if weights of its own, not of an adapter, train.

        Call it when a phase is prepared and before it trains or loads anything.
        """
        model = self.model
        denoiser = model.network(model.denoiser)
        adapters = {id(parameter) for parameter in adapter_parameters(denoiser).values()}
        own = [p for p in denoiser.parameters() if p.requires_grad and id(p) not in adapters]
        if self._copy is not None or not own:
            return
        frozen = copy.deepcopy(denoiser).requires_grad_(False).eval()
        for layer in adapter_layers(frozen).values():  # of an earlier phase
            layer.enable_adapters(False)
        nn.Module.to(frozen, self._dtype)  # diffusers' own `to` warns of nothing
        # a second model that shares everything but the denoiser
        self._copy = copy.copy(model)
        self._copy._modules = {**model._modules, model.denoiser: frozen}

    def embeddings(self, prompts: Sequence[str]) -> Embeddings:
        """Return N prompts as the model embedded them before it trained."""
        return Embeddings.stack([self._embedded[prompt] for prompt in prompts])

    @torch.no_grad()
    def predict(self, noisy_latents: Tensor, timesteps: Tensor, embeddings: Embeddings) -> Tensor:
        """Predict `[N,C,h,w]` from noisy latents `[N,C,h,w]`, timesteps `[N]` and N prompts."""
        device = noisy_latents.device
        if self._copy is None:
            with _without_adapters(self.model.network(self.model.denoiser)):
                return self.model.predict(noisy_latents, timesteps, embeddings)
        frozen = self._copy.network(self.model.denoiser)
        if next(frozen.parameters()).device != device:  # Lightning moves only the model itself
            frozen.to(device)
        return self._copy.predict(noisy_latents, timesteps, embeddings)


@contextmanager
def _without_adapters(network: nn.Module) -> Iterator[None]:
    """Compute with a network's own weights, in evaluation mode, while the context lasts."""
    layers, trains = list(adapter_layers(network).values()), network.training
    trained = [p for p in network.parameters() if p.requires_grad]
    network.eval()
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        network.train(trains).requires_grad_(False)  # PEFT has set it for all adapters
        for parameter in trained:
            parameter.requires_grad_(True)

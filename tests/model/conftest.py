"""A model of a fresh load for tests that change it, and inputs of a seed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dreambooth.model.adapter_settings import AdapterSettings
from dreambooth.model.phases import Phase
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.model.trainable import TrainableWeights

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")


@pytest.fixture
def model(tiny_model_dir) -> StableDiffusion:
    return StableDiffusion.from_pretrained(str(tiny_model_dir))


@pytest.fixture(scope="session")
def lora() -> AdapterSettings:
    """alpha differs from rank, so that a loader that loses alpha shows."""
    options = {"r": 4, "lora_alpha": 12.0, "target_modules": [*ATTENTION]}
    return AdapterSettings("peft.LoraConfig", {**options, "init_lora_weights": "gaussian"})


@pytest.fixture
def prepared(model) -> Callable[..., TrainableWeights]:
    """`prepared(unet, text_encoder, **settings)`: the model's weights, in their first phase."""

    def make(unet: str, text_encoder: str, seed: int = 0, **settings) -> TrainableWeights:
        weights = TrainableWeights(model, seed, **settings)
        weights.prepare(Phase(unet, text_encoder))
        return weights

    return make


@pytest.fixture
def trained_lora(prepared, lora, train) -> TrainableWeights:
    """Adapters in both networks, trained far enough to show."""
    weights = prepared("adapter", "adapter", adapter=lora)
    train(weights, steps=3)
    return weights


@pytest.fixture(scope="session")
def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy latents `[2,4,8,8]` and timesteps `[2]`."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([10, 700])


@pytest.fixture(scope="session")
def fabric() -> Path:
    """A published SD 1.5 LoRA (PEFT) and textual-inversion embedding of African fabric."""
    folder = os.environ.get("DREAMBOOTH_FABRIC")
    if not folder or not (Path(folder) / "lora").is_dir():
        pytest.skip("DREAMBOOTH_FABRIC does not name the folder with lora/ and textual_inversion/")
    return Path(folder)


@pytest.fixture(scope="session")
def predict(inputs) -> Callable[..., torch.Tensor]:
    """`predict(model, prompts)`: from two prompts to `[2,4,8,8]`, through both networks."""
    latents, timesteps = inputs

    def run(model, prompts=("a photo of sks dog", "a cat")) -> torch.Tensor:
        embeddings = model.embed(list(prompts))
        return model.predict(latents.to(model.unet.device), timesteps, embeddings)

    return run


@pytest.fixture(scope="session")
def train(predict) -> Callable[..., None]:
    """`train(weights, steps)`: AdamW, with a weight decay that moves all it is given."""

    def run(weights: TrainableWeights, steps: int = 1, restricted: bool = True) -> None:
        optimizer = torch.optim.AdamW(weights.parameters().values(), lr=1e-2, weight_decay=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            prediction = predict(weights.model, ("a photo of <new> dog", "a <new> cat"))
            (prediction - 1).square().mean().backward()
            optimizer.step()
            if restricted:
                weights.after_step()

    return run

"""The operations of networks against counts by hand, and what of them a run needs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from composed_configs import composed
from dreambooth.study.costs import guesses
from dreambooth.study.costs.guesses import Guess, forward_of, guessed

UNET = {
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
TEXT = {
    "vocab_size": 50,
    "hidden_size": 12,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 7,
}
SETTINGS: Any = {"unet": UNET, "text_encoder": TEXT, "vae": {"block_out_channels": [4, 4, 4]}}


def counted(network: nn.Module, *inputs: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a network and add up: 2 for each weight at each place, 4 x queries x keys x width."""
    found = []

    def of_layer(layer: Any, _: Any, result: torch.Tensor) -> None:
        places = result.numel() // layer.weight.shape[0]
        found.append(2 * places * layer.weight.numel())

    attend = nn.functional.scaled_dot_product_attention

    def of_attention(query: torch.Tensor, key: torch.Tensor, *rest: Any, **others: Any) -> Any:
        found.append(4 * query.numel() * key.shape[-2])
        return attend(query, key, *rest, **others)

    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(of_layer)
    with monkeypatch.context() as patched, torch.no_grad():
        patched.setattr(nn.functional, "scaled_dot_product_attention", of_attention)
        network(*inputs)
    return sum(found)


def test_operations_are_those_of_the_layers_of_a_real_forward_pass(monkeypatch):
    forward = forward_of(json.dumps(SETTINGS), 32, (7, 0))
    latents, words = torch.zeros(1, 4, 8, 8), torch.zeros(1, 7, 12)
    unet: Any = UNet2DConditionModel(**UNET)
    expected = counted(unet, latents, torch.tensor(3), words, monkeypatch=monkeypatch)
    assert forward.denoiser == expected > 1_000_000
    layer = 2 * 7 * (4 * 12 * 12 + 2 * 12 * 24) + 4 * 7 * 7 * 12
    assert forward.text_encoders == 2 * layer


@pytest.fixture
def own(monkeypatch):
    """Guesses for those networks, at one operation a second."""
    monkeypatch.setattr(guesses, "configs_of", lambda config: SETTINGS)
    monkeypatch.setattr(guesses, "speed_of_matmul", lambda *_: 1 / guesses.SHARE)

    def of(*overrides: str) -> Guess:
        found = guessed(composed("resolution=32", *overrides), "cpu")
        assert found is not None and found.rates == found.operations
        return found

    return of


def test_a_step_is_three_passes_of_what_trains_and_two_of_what_is_frozen(own):
    forward = forward_of(json.dumps(SETTINGS), 32, (7, 0))
    unet, text = forward.denoiser, forward.text_encoders
    full = own("ppl=false").operations
    assert full.train == 3 * unet and full.draw == 2 * unet  # with guidance, without it one
    assert own("sampling.guidance_scale=1").operations.draw == unet
    both = own("ppl=false", "train_text_encoder=true", "gradient_checkpointing=true").operations
    assert both.train == 4 * unet + 3 * text
    assert own("method=lora").operations.train == 2 * unet
    assert own("method=textual_inversion").operations.train == 2 * (unet + text)
    # of 4 photos and 4 class images, the second are predicted once more
    assert own("prior.kind=prediction").operations.train == 3.5 * unet
    # phases of 300 steps and 100 of as many photos, without class images
    steps = ("method.phases.0.max_steps=300", "method.phases.1.max_steps=100")
    mixed = own("method=ti_then_full", "ppl=false", *steps).operations.train
    assert mixed == pytest.approx((3 * 2 * (unet + text) + 3 * unet) / 4)


def test_a_gpu_that_is_not_here_has_the_papers_speed(own):
    found = guessed(composed("trainer=gpu", "trainer.accelerator=gpu"), "cpu")
    assert found is not None and found.speed == guesses.A100 and "A100" in found.source


def test_a_speed_is_measured():
    assert 1e8 < guesses.speed_of_matmul("cpu", "float32") < 1e14

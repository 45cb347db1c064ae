"""Flow matching in pretraining, against diffusers' own attention and scheduler."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import nn

from dreambooth.pocket import world
from dreambooth.pocket.embedded import FOLDER
from dreambooth.pocket.pretraining import shards
from dreambooth.pocket.pretraining.caption_tokens import caption_shards
from dreambooth.pocket.pretraining.captioned_latents import CaptionedLatents
from dreambooth.pocket.pretraining.flow import FlowLoss, PaddedAttention, build_transformer
from dreambooth.pocket.pretraining.text_pair import TextPair
from dreambooth.pocket.pretraining.tokenizer import build_tokenizer, token_ids
from small_pretraining import make

TOKENIZER = build_tokenizer(world.vocabulary())


@pytest.fixture(scope="module")
def text() -> TextPair:
    return TextPair(FOLDER)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 8)


@pytest.fixture
def transformer(tmp_path, text) -> SD3Transformer2DModel:
    torch.manual_seed(0)
    built = build_transformer(make(tmp_path).flow, 4, text)
    for parameter in built.parameters():  # its last layer begins with zeros
        nn.init.normal_(parameter, std=0.1)
    return built


@pytest.mark.parametrize("zeros", [0, 1, 5])
def test_one_token_stands_for_many_zeros(transformer, text, zeros):
    ids = torch.tensor(token_ids(TOKENIZER, ["a red dog", ""])).long()
    tokens, pooled = text(ids)
    given = {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "pooled_projections": pooled,
        "timestep": torch.tensor([10.0, 900.0]),
        "return_dict": False,
    }
    pad = nn.functional.pad
    with torch.no_grad():
        expected = transformer(encoder_hidden_states=pad(tokens, (0, 0, 0, zeros)), **given)[0]
        transformer.set_attn_processor(PaddedAttention())  # pyright: ignore[reportArgumentType]
        count = torch.tensor([math.log(zeros) if zeros else -math.inf] * 2)
        got = transformer(
            encoder_hidden_states=pad(tokens, (0, 0, 0, 1)),
            joint_attention_kwargs={"padding": count},
            **given,
        )[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


class Recorder(nn.Module):
    """Stands for the transformer: keeps its inputs and answers with a known function of them."""

    def forward(self, hidden_states, timestep, **given):
        self.given = {"noisy": hidden_states, "timestep": timestep, **given}
        return (0.3 * hidden_states,)


def test_the_loss_against_diffusers_schedule(tmp_path, text):
    latents = tmp_path / "latents.npy"
    np.save(latents, np.random.default_rng(0).standard_normal((8, 4, 8, 8)).astype(np.float16))
    captions = caption_shards(tmp_path, TOKENIZER, count=1, each=3, identifier_share=0.0)
    empty = torch.tensor(token_ids(TOKENIZER, [""]))
    examples = CaptionedLatents([latents], captions, empty, 0.0)
    spec = make(tmp_path, "device=cpu", "flow.batch_size=6")
    network = Recorder()
    total = FlowLoss(network, text, examples, spec)(torch.Generator().manual_seed(5))["total"]

    g = torch.Generator().manual_seed(5)
    clean, _ = examples.draw(6, g)
    noise = torch.randn(clean.shape, generator=g)
    sigmas = torch.randn(6, generator=g).sigmoid()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    # the scheduler's steps, at the sigmas that were drawn
    scheduler.set_timesteps(sigmas=sorted(sigmas.tolist(), reverse=True))
    errors = []
    for n in range(6):
        at = (scheduler.timesteps - 1000 * sigmas[n]).abs().argmin()
        noisy = scheduler.scale_noise(clean[n : n + 1], scheduler.timesteps[at : at + 1], noise[n])
        torch.testing.assert_close(network.given["noisy"][n : n + 1], noisy, rtol=1e-4, atol=1e-4)
        # one step from this sigma to 0 by the right velocity arrives at the latents
        velocity = (noisy[0] - clean[n]) / sigmas[n]
        errors.append((0.3 * noisy[0] - velocity).square().mean())
    torch.testing.assert_close(network.given["timestep"], 1000 * sigmas)
    torch.testing.assert_close(total, torch.stack(errors).mean(), rtol=1e-3, atol=1e-3)
    absent = network.given["joint_attention_kwargs"]["padding"] == -math.inf
    assert 0 < absent.sum() < 6

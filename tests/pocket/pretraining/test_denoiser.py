"""The denoising loss, and the two networks that are trained together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers.training_utils import compute_snr
from torch import nn

from dreambooth.pocket import world
from dreambooth.pocket.pretraining import shards
from dreambooth.pocket.pretraining.architecture import build_scheduler
from dreambooth.pocket.pretraining.caption_tokens import caption_shards
from dreambooth.pocket.pretraining.captioned_latents import CaptionedLatents
from dreambooth.pocket.pretraining.denoiser import DenoisingLoss, build_denoiser
from dreambooth.pocket.pretraining.tokenizer import build_tokenizer, token_ids
from small_pretraining import make

SHARD = 8
Files = tuple[list[Path], list[Path]]  # of latents and of captions
TOKENIZER = build_tokenizer(world.vocabulary())


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(shards, "SHARD", SHARD)


@pytest.fixture
def files(tmp_path):
    """Two shards of latents and of three captions per scene."""
    latents = [tmp_path / f"{index}.npy" for index in range(2)]
    rng = np.random.default_rng(0)
    for path in latents:
        np.save(path, rng.standard_normal((SHARD, 4, 8, 8)).astype(np.float16))
    captions = caption_shards(tmp_path, TOKENIZER, count=2, each=3, identifier_share=0.0)
    return latents, captions


class Recorder(nn.Module):
    """Stands for the networks: keeps its inputs and answers with a known function of them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def forward(self, noisy, timesteps, ids):
        self.calls.append((noisy, timesteps, ids))
        return 0.3 * noisy + ids.float().mean(1)[:, None, None, None] / 1000


def loss_of(files: Files, network: nn.Module, batch_size: int, dropout: float) -> DenoisingLoss:
    sizes = (f"denoiser.batch_size={batch_size}",)
    spec = make(files[0][0].parent, "device=cpu", "denoiser.min_snr_gamma=5.0", *sizes)
    empty = torch.tensor(token_ids(TOKENIZER, [""]))
    return DenoisingLoss(network, spec, CaptionedLatents(*files, empty, dropout))


def test_the_loss_against_diffusers(files):
    terms = loss_of(files, Recorder(), 6, 0.3)(torch.Generator().manual_seed(5))

    g = torch.Generator().manual_seed(5)
    picked, which = torch.randint(2 * SHARD, (6,), generator=g), torch.randint(3, (6,), generator=g)
    dropped = torch.rand(6, generator=g) < 0.3
    noise = torch.randn(6, 4, 8, 8, generator=g)
    timesteps = torch.randint(1000, (6,), generator=g)
    assert 0 < dropped.sum() < 6
    latents, captions = (np.concatenate([np.load(path) for path in paths]) for paths in files)
    scheduler = build_scheduler()
    errors, weighted = [], []
    for n in range(6):
        clean, t = (
            torch.from_numpy(latents[picked[n]]).float()[None],
            cast(Any, timesteps[n : n + 1]),
        )
        ids = torch.from_numpy(captions[picked[n], which[n]]).long()[None]
        if dropped[n]:
            ids = torch.tensor(TOKENIZER([""], padding="max_length").input_ids)
        noisy = scheduler.add_noise(clean, noise[n : n + 1], t)
        target = scheduler.get_velocity(clean, noise[n : n + 1], t)
        error = (Recorder()(noisy, t, ids) - target).square().mean()
        ratio = compute_snr(scheduler, t)
        errors.append(error)
        weighted.append(error * min(ratio.item(), 5.0) / (ratio.item() + 1))
    torch.testing.assert_close(terms["error"], torch.stack(errors).mean())
    torch.testing.assert_close(terms["total"], torch.stack(weighted).mean())


def test_the_share_of_dropped_captions(files):
    empty = torch.tensor(token_ids(TOKENIZER, [""]))
    for dropout in (0.0, 0.25, 1.0):
        network = Recorder()
        loss_of(files, network, 800, dropout)(torch.Generator().manual_seed(0))
        share = (network.calls[0][2] == empty).all(1).float().mean().item()
        assert share == pytest.approx(dropout, abs=0.05 if 0 < dropout < 1 else 0)


def test_the_networks_are_trained_together(tmp_path):
    network = build_denoiser(make(tmp_path, "denoiser.channels=[32,64]"), TOKENIZER)
    ids = torch.tensor(token_ids(TOKENIZER, ["a red dog", ""])).long()
    prediction = network(torch.randn(2, 4, 8, 8), torch.tensor([1, 900]), ids)
    assert prediction.shape == (2, 4, 8, 8)
    prediction.square().mean().backward()
    for part in (network.unet.conv_in, network.text_encoder):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())

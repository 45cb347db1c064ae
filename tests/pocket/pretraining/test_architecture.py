"""The untrained networks: sizes, normalisation, and how they fit each other."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from dreambooth.pocket import world
from dreambooth.pocket.pretraining import architecture
from dreambooth.pocket.pretraining.tokenizer import CONTEXT_LENGTH, build_tokenizer, token_ids
from small_pretraining import shipped


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    """The VAE in the sizes that conf/pretrain.yaml gives."""
    own = shipped().vae
    return architecture.build_vae(
        own.channels, latent_channels=own.latent_channels, norm_num_groups=own.norm_num_groups
    ).eval()


def test_latents_are_8_by_8(vae):
    with torch.no_grad():
        latents = vae.encode(torch.zeros(2, 3, 64, 64)).latent_dist.mean
        assert latents.shape == (2, shipped().vae.latent_channels, 8, 8)
        assert vae.decode(latents).sample.shape == (2, 3, 64, 64)


def test_full_resolution_keeps_four_channels_per_group(vae):
    seen = []

    def note(module: nn.GroupNorm, inputs: tuple) -> None:
        if inputs[0].shape[-1] == 64:
            seen.append(module.num_channels // module.num_groups)

    norms = [module for module in vae.modules() if isinstance(module, nn.GroupNorm)]
    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    with torch.no_grad():
        vae(torch.zeros(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    assert len(seen) > 4 and min(seen) >= 4


def test_unet_and_text_encoder_fit_each_other():
    own, tokenizer = shipped().denoiser, build_tokenizer(world.vocabulary())
    text_encoder = architecture.build_text_encoder(tokenizer, width=48, layers=1).eval()
    unet = architecture.build_unet(
        [32, 64],
        latent_channels=8,
        text_width=48,
        heads=own.heads,
        norm_num_groups=own.norm_num_groups,
    ).eval()
    ids = torch.tensor(token_ids(tokenizer, ["a dog"])).long()
    with torch.no_grad():
        embeddings = text_encoder(ids)[0]
        assert embeddings.shape == (1, CONTEXT_LENGTH, 48)
        latents = torch.randn(1, 8, 8, 8)
        prediction = unet(latents, torch.tensor([3]), embeddings).sample
        other = unet(latents, torch.tensor([3]), embeddings + 1).sample
    assert prediction.shape == latents.shape
    assert not torch.allclose(prediction, other)  # the words reach the picture


def test_the_noise_schedule_is_stable_diffusions():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    expected = torch.cumprod(1 - betas, 0)
    scheduler = architecture.build_scheduler()
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), expected, rtol=1e-4, atol=1e-6)
    assert scheduler.config["prediction_type"] == "v_prediction"

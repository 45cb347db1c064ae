"""The forward diffusion process against diffusers' own."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from dreambooth.diffusion import noise as N


@pytest.fixture(scope="module")
def scheduler():
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


@pytest.fixture(scope="module")
def draws():
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(6, 4, 8, 8, generator=generator) for _ in range(2))
    return latents, noise, torch.tensor([0, 1, 10, 500, 998, 999])


def test_add_noise_and_velocity_equal_diffusers(scheduler, draws):
    latents, noise, timesteps = draws
    ours = N.add_noise(latents, noise, timesteps, scheduler.alphas_cumprod)
    torch.testing.assert_close(ours, scheduler.add_noise(latents, noise, timesteps))
    ours = N.velocity(latents, noise, timesteps, scheduler.alphas_cumprod)
    torch.testing.assert_close(ours, scheduler.get_velocity(latents, noise, timesteps))


def test_snr_equals_diffusers(scheduler, draws):
    timesteps = draws[2]
    ours = N.snr(timesteps, scheduler.alphas_cumprod)
    torch.testing.assert_close(ours, compute_snr(scheduler, timesteps))


def test_velocity_and_noise_recover_the_latents(scheduler, draws):
    """z_0 = sqrt(a) z_t - sqrt(1-a) v, the round trip of Salimans & Ho."""
    latents, noise, timesteps = draws
    noisy = N.add_noise(latents, noise, timesteps, scheduler.alphas_cumprod)
    v = N.velocity(latents, noise, timesteps, scheduler.alphas_cumprod)
    a = scheduler.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
    torch.testing.assert_close(a.sqrt() * noisy - (1 - a).sqrt() * v, latents)


def test_half_precision_latents_keep_their_noise(scheduler):
    """diffusers casts the schedule to bf16, where the first alpha_bar rounds to 1: no noise."""
    latents, noise = torch.zeros(1, 1, 2, 2).bfloat16(), torch.ones(1, 1, 2, 2).bfloat16()
    first = torch.tensor([0])
    assert scheduler.add_noise(latents, noise, first).abs().max() == 0
    ours = N.add_noise(
        latents,
        noise,
        first,
        DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        ).alphas_cumprod,
    )
    assert ours.mean().item() == pytest.approx(math.sqrt(0.00085), rel=1e-3)


def test_target_follows_the_prediction_type(scheduler, draws):
    latents, noise, timesteps = draws
    a = scheduler.alphas_cumprod
    assert N.target("epsilon", latents, noise, timesteps, a) is noise
    torch.testing.assert_close(
        N.target("v_prediction", latents, noise, timesteps, a),
        N.velocity(latents, noise, timesteps, a),
    )
    with pytest.raises(ValueError, match="sample"):
        N.target("sample", latents, noise, timesteps, a)

"""Flow matching against diffusers' own functions and schedulers."""

import itertools
import math

import diffusers
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from diffusers.training_utils import (
    compute_density_for_timestep_sampling,
    compute_loss_weighting_for_sd3,
)
from omegaconf import OmegaConf

from dreambooth.cli.configuration.configs import CONF
from dreambooth.diffusion import flow
from dreambooth.diffusion.flow import FlowTimesteps, TimestepSettings
from dreambooth.diffusion.process import FlowMatching, process_of
from dreambooth.diffusion.samplers import check_scheduler
from dreambooth.errors import UserError

SETTINGS = {"logit_mean": 0.3, "logit_std": 0.7, "mode_scale": 1.29}
SAMPLERS = sorted((CONF / "scheduler").glob("flow_*.yaml"))


@pytest.fixture(scope="module")
def process() -> FlowMatching:
    made = process_of(FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert isinstance(made, FlowMatching)
    return made


def settings(scheme: str, **more: float) -> TimestepSettings:
    return TimestepSettings(**{"scheme": scheme, **SETTINGS, "shift": None, **more})


def test_noise_and_target_are_those_of_diffusers_schedule(process):
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(4, 16, 8, 8, generator=generator) for _ in range(2))
    times = process.scheduler.timesteps[[0, 10, 500, 999]]
    theirs = process.scheduler.scale_noise(latents, times, noise)
    noisy = process.add_noise(latents, noise, times)
    torch.testing.assert_close(noisy, theirs, rtol=0, atol=1e-6)
    velocity, sigmas = process.target(latents, noise, times), times.reshape(-1, 1, 1, 1) / 1000
    torch.testing.assert_close(noisy - sigmas * velocity, latents, rtol=0, atol=1e-5)
    half = process.add_noise(latents.bfloat16(), noise.bfloat16(), times)
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("scheme", ["uniform", "logit_normal", "mode"])
def test_noise_levels_are_drawn_from_the_published_densities(process, scheme):
    draw = process.timesteps(settings(scheme), tokens=256)
    for seed in range(20):
        (theirs,) = compute_density_for_timestep_sampling(
            scheme, 1, **SETTINGS, generator=torch.Generator().manual_seed(seed)
        )
        ours = draw(torch.Generator().manual_seed(seed))
        assert ours.item() == pytest.approx(max(1.0, 1000 * theirs.item()), abs=1e-3)


def test_a_shift_is_that_of_the_models_sampler_unless_it_is_set(process):
    plain, own, two = (
        process.timesteps(settings(scheme, shift=shift), 256)
        for scheme, shift in (("logit_normal", None), ("shifted", None), ("shifted", 2.0))
    )
    a, b, c = (draw(torch.Generator().manual_seed(3)).item() / 1000 for draw in (plain, own, two))
    assert b == pytest.approx(3 * a / (1 + 2 * a)) and c == pytest.approx(2 * a / (1 + a))
    sigmas = FlowMatchEulerDiscreteScheduler(shift=1.0).sigmas
    torch.testing.assert_close(flow.shifted(sigmas, 3.0), process.scheduler.sigmas)


def test_a_shift_that_grows_with_the_image_is_diffusers():
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    sigmas = torch.linspace(0.1, 1, 5)
    for tokens in (256, 1024, 4096):
        theirs = scheduler.time_shift(calculate_shift(tokens), 1.0, sigmas)
        ours = flow.shifted(sigmas, process_of(scheduler).shift(tokens))
        torch.testing.assert_close(ours, theirs)


def test_levels_stay_within_those_that_the_model_knows(process):
    far = FlowTimesteps(settings("logit_normal", logit_std=50.0), 1.0, 1000)
    drawn = [far(torch.Generator().manual_seed(seed)).item() for seed in range(40)]
    assert min(drawn) == 1 and max(drawn) == 1000


@pytest.mark.parametrize("weighting", ["none", "sigma_sqrt", "cosmap"])
def test_weights_are_diffusers(process, weighting):
    times = torch.tensor([1.0, 250.0, 1000.0])
    theirs = compute_loss_weighting_for_sd3(weighting, times / 1000)
    torch.testing.assert_close(flow.weights(weighting, times / 1000), theirs)
    given = process.weights(times, None, weighting)
    assert given is None if weighting == "none" else torch.equal(given, theirs)


@pytest.mark.parametrize("path", SAMPLERS, ids=lambda p: p.stem)
def test_a_sampler_follows_straight_lines_to_the_latents(process, path):
    """With the exact velocity, which is the same all along a line, no sampler errs."""
    choice = OmegaConf.to_container(OmegaConf.load(path))
    check_scheduler(**choice, num_inference_steps=5)
    sampler = process.sampler(choice["name"], choice["options"])
    sampler.set_timesteps(5)
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(1, 4, 2, 2, generator=generator) for _ in range(2))
    z = noise
    for time in sampler.timesteps:
        z = sampler.step(noise - latents, time, z, return_dict=False)[0]
    # DPM-Solver++ computes with log(1 - sigma), which is not finite at the start
    loose = 5e-3 if path.stem == "flow_dpmpp_2m" else 1e-4
    torch.testing.assert_close(z, latents, rtol=0, atol=loose)
    second = sampler.timesteps[1 if path.stem != "flow_heun" else 2].item() / 1000
    assert second > 0.85  # the model's shift of 3; unshifted it would be at most 0.8


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FlowMatchLCMScheduler", {}),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
        (
            "DPMSolverMultistepScheduler",
            {"use_flow_sigmas": True, "algorithm_type": "sde-dpmsolver++"},
        ),
    ],
)
def test_noise_that_is_not_of_an_images_seed_is_refused(name, options):
    with pytest.raises(ValueError, match="draws noise that .* do not seed"):
        check_scheduler(name, options, 5)


def test_a_sampler_of_the_other_kind_of_model_is_refused(process):
    with pytest.raises(UserError, match="DDIMScheduler does not sample from a flow-matching"):
        process.sampler("DDIMScheduler", {})
    with pytest.raises(UserError, match="FlowMatch.*does not sample from a diffusion model"):
        process_of(diffusers.DDPMScheduler()).sampler("FlowMatchHeunDiscreteScheduler", {})


def test_mode_has_more_of_the_middle(process):
    share = {}
    for scheme in ("uniform", "mode"):
        draw = process.timesteps(settings(scheme), 256)
        generator = torch.Generator().manual_seed(0)
        drawn = [draw(generator).item() for _ in range(2000)]
        share[scheme] = sum(300 < each < 700 for each in drawn) / len(drawn)
    assert share["uniform"] == pytest.approx(0.4, abs=0.04)
    us = torch.linspace(0, 1, 10_001)
    levels = 1 - us - 1.29 * (torch.cos(math.pi * us / 2) ** 2 - 1 + us)
    exact = ((levels > 0.3) & (levels < 0.7)).float().mean().item()
    assert exact > 0.5 and share["mode"] == pytest.approx(exact, abs=0.04)


def test_the_schemes_and_weightings_of_the_command_line_are_all_there():
    from dreambooth.cli.refusals.kinds import CHOICES

    assert CHOICES["loss.timesteps"] == flow.SCHEMES
    assert CHOICES["loss.weighting"] == flow.WEIGHTINGS
    values = [flow.weights(each, torch.tensor([0.3])).item() for each in flow.WEIGHTINGS]
    assert all(a != b for a, b in itertools.combinations(values, 2))

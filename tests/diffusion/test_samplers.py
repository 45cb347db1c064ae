"""Samplers keep the model's noise schedule; SLERP against the formula worked by hand."""

import json
import math

import diffusers
import pytest
import torch
from diffusers import DDPMScheduler
from omegaconf import OmegaConf

from dreambooth.cli.configuration.configs import CONF
from dreambooth.diffusion.samplers import check_scheduler, make_scheduler, slerp
from dreambooth.model.loading import load_schedulers

# what Stable Diffusion 1.5's own file says; every other setting is a default of its reader
SD15 = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
# Stable Diffusion 2.1's settings, of which one says more than a default
SD21 = {**SD15, "_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
SD21 |= {"timestep_spacing": "trailing"}

OTHERS = ("auto", "flow_")  # the model's own, and those of flow matching
SAMPLERS = [p for p in sorted((CONF / "scheduler").glob("*")) if not p.stem.startswith(OTHERS)]


@pytest.mark.parametrize("written", [SD15, SD21], ids=["sd15", "sd21"])
@pytest.mark.parametrize("path", SAMPLERS, ids=lambda p: p.stem)
def test_a_sampler_is_what_diffusers_own_idiom_makes(tmp_path, path, written):
    """`Sampler.from_config(pipe.scheduler.config)`: the trainer's defaults are not kept."""
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler/scheduler_config.json").write_text(json.dumps(written))
    choice = OmegaConf.to_container(OmegaConf.load(path))
    check_scheduler(**choice, num_inference_steps=20)
    ours = make_scheduler(**choice, noise_config=dict(load_schedulers(tmp_path)[0].config))
    own = getattr(diffusers, written["_class_name"]).from_pretrained(tmp_path / "scheduler")
    theirs = getattr(diffusers, choice["name"]).from_config(own.config, **choice["options"])
    for sampler in (ours, theirs):
        sampler.set_timesteps(20)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    assert ours.config.prediction_type == theirs.config.prediction_type
    assert ours.config.get("timestep_spacing") == theirs.config.get("timestep_spacing")
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler", "LMSDiscreteScheduler"])
def test_sampler_keeps_the_schedule_and_prediction_type(name):
    training = DDPMScheduler(
        beta_start=0.001, beta_end=0.02, beta_schedule="linear", prediction_type="v_prediction"
    )
    sampler = make_scheduler(name, {}, dict(training.config))
    assert sampler.config.prediction_type == "v_prediction"
    torch.testing.assert_close(sampler.alphas_cumprod, training.alphas_cumprod)


def test_a_sampler_of_no_model_here_is_refused():
    with pytest.raises(ValueError, match="ScoreSdeVeScheduler does not sample from a model"):
        check_scheduler("ScoreSdeVeScheduler", {}, 2)


def test_options_reach_the_sampler():
    training = DDPMScheduler()
    sampler = make_scheduler(
        "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, dict(training.config)
    )
    assert sampler.config.use_karras_sigmas is True


@pytest.mark.parametrize(
    ("name", "options", "steps", "expected"),
    [
        ("DDIMSchedular", {}, 20, "no sampler DDIMSchedular: did you mean DDIMScheduler"),
        ("UNet2DModel", {}, 20, "no sampler UNet2DModel"),
        ("DDIMScheduler", {"use_karras": True}, 20, "DDIMScheduler has no option use_karras"),
        ("DDIMScheduler", {"timestep_spacing": "typo"}, 20, "options=.*typo.*cannot work"),
        ("DDIMScheduler", {}, 1001, "num_inference_steps=1001 .*cannot work"),
    ],
)
def test_what_cannot_be_made_is_refused(name, options, steps, expected):
    with pytest.raises(ValueError, match=expected):
        check_scheduler(name, options, steps)


def test_slerp_at_a_right_angle():
    """Halfway between (1,0) and (0,1) lies (1,1)/sqrt(2), not (1,1)/2."""
    middle = slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
    torch.testing.assert_close(middle, torch.full((1, 2), 1 / math.sqrt(2)))


def test_slerp_ends_and_parallel_latents():
    a, b = (torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    torch.testing.assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)

"""What the three networks compute equals diffusers' own pipeline, bit for bit."""

from __future__ import annotations

import logging
from copy import copy

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline

from dreambooth.model.stable_diffusion import StableDiffusion


@pytest.fixture(scope="module")
def tiny(tiny_model_dir) -> StableDiffusion:
    return StableDiffusion.from_pretrained(str(tiny_model_dir))


@pytest.fixture(scope="module")
def reference(tiny_model_dir) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_dir, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_everything_is_loaded_frozen_in_float32(tiny):
    parameters = list(tiny.parameters())
    assert {p.dtype for p in parameters} == {torch.float32}
    assert not any(p.requires_grad for p in parameters)
    assert not any(module.training for module in (tiny.unet, tiny.vae, tiny.text_encoder))


@pytest.mark.parametrize(
    ("fixture", "kind"), [("tiny_model_dir", "epsilon"), ("tiny_v_model_dir", "v_prediction")]
)
def test_noise_schedule_is_that_of_the_model_folder(request, fixture, kind):
    folder = request.getfixturevalue(fixture)
    tiny = StableDiffusion.from_pretrained(str(folder))
    assert tiny.process.prediction_type == kind
    theirs = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    assert torch.equal(tiny.noise_scheduler.alphas_cumprod, theirs.alphas_cumprod)
    # scaled_linear: beta_t is the square of a line from sqrt(0.00085) to sqrt(0.012)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    ours = tiny.noise_scheduler.alphas_cumprod.numpy()
    np.testing.assert_allclose(ours, np.cumprod(1 - betas), rtol=1e-4)


def test_geometry_of_latents(tiny):
    mean, logvar = tiny.encode(torch.zeros(2, 3, 16, 12))
    assert mean.shape == logvar.shape == (2, 4, 8, 6)


def test_embed_equals_encode_prompt(tiny, reference):
    prompts = ["a photo of sks dog", "", "unheard-of WORDS, 42!"]
    theirs, _ = reference.encode_prompt(prompts, "cpu", 1, False)
    assert torch.equal(tiny.embed(prompts).tokens, theirs)


def test_a_long_prompt_is_cut_with_one_warning_naming_the_cut(tiny, reference, caplog):
    prompt = "a photo of " + "dog " * 40 + "beach"
    fits = "a " + "dog " * 29  # 30 words, begin and end: all 32
    with caplog.at_level(logging.WARNING, logger="dreambooth"):
        embeddings = tiny.embed([prompt, "a dog", fits]).tokens
        tiny.embed([prompt])
    assert torch.equal(embeddings[:1], reference.encode_prompt(prompt, "cpu", 1, False)[0])
    warnings = [r.getMessage() for r in caplog.records if r.name.startswith("dreambooth")]
    assert len(warnings) == 1
    assert warnings[0].endswith("dog " * 13 + "beach")  # 30 words fit: 3 and 27 dogs of 40


def test_encode_and_sample_equal_the_vae_s_own_posterior(tiny, reference):
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    posterior = reference.vae.encode(pixels).latent_dist
    mean, logvar = tiny.encode(pixels)
    assert torch.equal(mean, posterior.mean) and torch.equal(logvar, posterior.logvar)
    theirs = posterior.sample(torch.Generator().manual_seed(3))
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(3))
    scaled = theirs * reference.vae.config.scaling_factor
    torch.testing.assert_close(tiny.sample_latents(mean, logvar, noise), scaled, rtol=0, atol=1e-7)


def test_sample_latents_by_hand(model):
    model.vae.register_to_config(scaling_factor=0.5, shift_factor=3.0)
    one = torch.ones(1, 4, 1, 1)
    logvar = 2 * torch.log(torch.tensor(4.0)) * one  # a standard deviation of 4
    # (mean 7 + 4 * noise 2 - shift 3) * scale 0.5 = 6
    torch.testing.assert_close(model.sample_latents(7 * one, logvar, 2 * one), 6 * one)


def test_predict_is_the_unet(tiny, reference, inputs):
    latents, timesteps = inputs
    embeddings = tiny.embed(["a dog", "a cat"])
    theirs = reference.unet(latents, timesteps, encoder_hidden_states=embeddings.tokens).sample
    assert torch.equal(tiny.predict(latents, timesteps, embeddings), theirs)


@pytest.mark.parametrize("scheduler", [None, EulerDiscreteScheduler])
def test_picture_equals_that_of_diffusers(tiny, reference, scheduler):
    ours, theirs = tiny.pipeline(), reference
    if scheduler is not None:
        ours = tiny.pipeline(scheduler.from_config(reference.scheduler.config))
        theirs = copy(reference)
        theirs.scheduler = scheduler.from_config(reference.scheduler.config)
    pictures = [
        pipe(
            "a photo of sks dog",
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(5),
            output_type="np",
        ).images
        for pipe in (ours, theirs)
    ]
    assert pictures[0].shape == (1, 16, 16, 3) and pictures[0].std() > 0
    np.testing.assert_array_equal(*pictures)


def test_pipeline_shares_the_networks_and_checks_nothing(tiny):
    pipeline = tiny.pipeline()
    assert pipeline.unet is tiny.unet and pipeline.vae is tiny.vae
    assert pipeline.text_encoder is tiny.text_encoder and pipeline.tokenizer is tiny.tokenizer
    assert pipeline.safety_checker is None and pipeline.config.requires_safety_checker is False


def test_two_pipelines_do_not_share_a_sampler_s_state(tiny):
    assert tiny.pipeline().scheduler is not tiny.pipeline().scheduler
    assert type(tiny.pipeline().scheduler).__name__ == "PNDMScheduler"


def test_gradient_checkpointing_leaves_gradients_as_they_are(tiny_model_dir, inputs):
    gradients = []
    for checkpointing in (False, True):
        model = StableDiffusion.from_pretrained(str(tiny_model_dir))
        model.requires_grad_(True).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
            for part in (model.unet.mid_block, model.text_encoder.encoder.layers[0]):
                assert any(getattr(m, "gradient_checkpointing", False) for m in part.modules())
        latents, timesteps = inputs
        embeddings = model.embed(["a dog", "a cat"])
        model.predict(latents, timesteps, embeddings).square().mean().backward()
        gradients.append([p.grad for p in model.unet.parameters()])
        gradients[-1] += [p.grad for p in model.text_encoder.encoder.parameters()]
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)

"""An image depends on its seed alone, and drawing changes nothing else."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from dreambooth.cli.configuration.configs import CONF
from dreambooth.cli.drawing.generate import generate
from dreambooth.errors import UserError
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.sampling.draw import _ShortTruncation, draw, evaluation_mode
from dreambooth.sampling.spec import Sampling

SAMPLERS = ("DDIMScheduler", "EulerAncestralDiscreteScheduler", "PNDMScheduler")
PROMPTS = ["a dog", "a cat", "a toy on the beach", "a dog", "red fabric"]
SAMPLING = Sampling("DDIMScheduler", 3, 4.0, 16, 1)


@pytest.fixture(scope="module")
def model(tiny_model_dir) -> StableDiffusion:
    return StableDiffusion.from_pretrained(str(tiny_model_dir))


def drawn(model, prompts, seeds, **changed) -> list[np.ndarray]:
    images = draw(model, prompts, seeds, replace(SAMPLING, **changed))
    return [np.asarray(image).astype(int) for image in images]


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SAMPLERS)
def test_an_image_depends_on_its_seed_and_not_on_its_batch(model, scheduler):
    seeds = [0, 1, 2, 3, 4]
    alone = [
        drawn(model, [prompt], [seed], scheduler=scheduler)[0]
        for prompt, seed in zip(PROMPTS, seeds, strict=True)
    ]
    for size in (2, 5):
        together = drawn(model, PROMPTS, seeds, batch_size=size, scheduler=scheduler)
        for a, b in zip(alone, together, strict=True):
            assert abs(a - b).max() <= 2  # grey levels: only rounding
    again = drawn(model, PROMPTS, seeds, batch_size=5, scheduler=scheduler)
    assert all((a == b).all() for a, b in zip(together, again, strict=True))
    assert abs(alone[0] - alone[3]).max() > 8  # one prompt, two seeds
    assert alone[0].shape == (16, 16, 3)


def test_an_image_is_what_diffusers_own_call_makes(model):
    """Steps, guidance, negative prompt and size reach the pipeline under their own names."""
    pipeline = model.pipeline(SAMPLING.build(model.process))
    expected = pipeline(
        "a dog",
        negative_prompt="red",
        generator=torch.Generator().manual_seed(5),
        num_inference_steps=4,
        guidance_scale=2.5,
        height=24,
        width=24,
    ).images[0]
    changed = {"num_inference_steps": 4, "guidance_scale": 2.5, "negative_prompt": "red"}
    (image,) = drawn(model, ["a dog"], [5], resolution=24, **changed)
    assert (image == np.asarray(expected)).all()


def test_the_prompt_and_the_guidance_reach_the_image(model):
    settings = {"guidance_scale": 20.0, "batch_size": 2}
    one, other = drawn(model, ["a dog", "red fabric"], [0, 0], **settings)
    plain = drawn(model, ["a dog"], [0], guidance_scale=1.0)[0]
    assert (one != other).any() and (one != plain).any()


def test_drawing_leaves_training_as_it_was(model):
    model.unet.train()
    state = torch.get_rng_state()
    try:
        drawn(model, ["a dog"], [0], scheduler="EulerAncestralDiscreteScheduler")
        assert model.unet.training and not model.vae.training
        with pytest.raises(KeyError), evaluation_mode(model.pipeline()):
            assert not model.unet.training
            raise KeyError
        assert model.unet.training
    finally:
        model.unet.eval()
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "frozen", "expected"),
    [
        ("float32", None, None),
        ("bfloat16", None, torch.bfloat16),
        ("float16", None, torch.float16),
        ("float32", torch.bfloat16, torch.bfloat16),  # parts that were cast while frozen
        ("float16", torch.bfloat16, torch.bfloat16),
        ("bfloat16", torch.float16, torch.float16),
    ],
)
def test_drawing_is_autocast_where_it_is_asked_for_or_dtypes_differ(
    tiny_model_dir, autocasts, dtype, frozen, expected
):
    model = StableDiffusion.from_pretrained(str(tiny_model_dir))
    (exact,) = drawn(model, ["a dog"], [0])
    autocasts.clear()
    if frozen is not None:
        model.vae.to(frozen)
    (image,) = drawn(model, ["a dog"], [0], dtype=dtype)
    assert autocasts == {expected} and not torch.is_autocast_enabled("cpu")
    assert (model.unet.dtype, model.vae.dtype) == (torch.float32, frozen or torch.float32)
    assert abs(image - exact).max() < 64  # grey levels: the same picture
    assert (image == exact).all() == (expected is None)


def test_networks_that_are_all_in_half_precision_are_drawn_as_they_are(tiny_model_dir, autocasts):
    model = StableDiffusion.from_pretrained(str(tiny_model_dir)).to(torch.bfloat16)
    for dtype in ("float32", "bfloat16"):
        assert drawn(model, ["a dog"], [0], dtype=dtype)[0].shape == (16, 16, 3)
    assert autocasts == {None}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("scheduler=ddim", "scheduler.name=DDIMSchedular"), "did you mean DDIMScheduler"),
        (("num_inference_steps=1001",), "num_inference_steps=1001 .* cannot work"),
        pytest.param(
            ("device=cuda",),
            "device=cuda needs a GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_the_model_loads(
    scored, tmp_path, monkeypatch, more, expected
):
    monkeypatch.setattr(
        "dreambooth.study.finished.runs.Run.load_model", lambda run: pytest.fail("it was loaded")
    )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("generate", [f"run='{scored}'", f"output_dir='{tmp_path}'", *more])
    with pytest.raises(UserError, match=expected):
        generate(cfg)
    assert not list(tmp_path.iterdir())


def test_a_prompt_that_is_cut_is_told_once_and_in_our_words():
    pipeline = logging.getLogger("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")
    long = "The following part of your input was truncated because CLIP can only handle sequences"
    record = pipeline.makeRecord(
        pipeline.name,
        logging.WARNING,
        "",
        0,
        "%s",
        (f"{long} up to 77 tokens: ['on', 'a sea']",),
        None,
    )
    cut = _ShortTruncation()
    assert cut.filter(record)
    told = "warning: a prompt is longer than 77 tokens, so this is cut: a sea; on"
    assert record.getMessage() == told
    record.msg, record.args = f"{long} up to 77 tokens: ['on']", ()
    assert not cut.filter(record)

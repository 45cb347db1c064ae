"""An image depends on its seed alone; the files say what they are."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from dreambooth.cli.generate import draw as draw_run
from dreambooth.cli.main import CONF
from dreambooth.diffusion.samplers import make_scheduler
from dreambooth.errors import UserError
from dreambooth.files import file_hash
from dreambooth.model.stable_diffusion import LatentDiffusion
from dreambooth.sampling.draw import (
    MANIFEST,
    Sampling,
    evaluating,
    generate,
    grid,
    save_images,
    slug,
)

SAMPLERS = {"DDIMScheduler": {}, "EulerAncestralDiscreteScheduler": {}, "PNDMScheduler": {}}
PROMPTS = ["a dog", "a cat", "a toy on the beach", "a dog", "red fabric"]


@pytest.fixture(scope="module")
def model(tiny_model_dir) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(str(tiny_model_dir))


def draw(model, prompts, seeds, batch_size, sampler="DDIMScheduler", guidance_scale=4.0):
    scheduler = make_scheduler(sampler, SAMPLERS[sampler], dict(model.noise_scheduler.config))
    images = generate(
        model.pipeline(scheduler), prompts, seeds, Sampling(3, guidance_scale, 16, batch_size)
    )
    return [np.asarray(image).astype(int) for image in images]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_depends_on_its_seed_and_not_on_its_batch(model, sampler):
    seeds = [0, 1, 2, 3, 4]
    alone = [draw(model, [p], [s], 1, sampler)[0] for p, s in zip(PROMPTS, seeds, strict=True)]
    for size in (2, 5):
        together = draw(model, PROMPTS, seeds, size, sampler)
        for a, b in zip(alone, together, strict=True):
            assert abs(a - b).max() <= 2  # grey levels: only rounding
    again = draw(model, PROMPTS, seeds, 5, sampler)
    assert all((a == b).all() for a, b in zip(together, again, strict=True))
    assert abs(alone[0] - alone[3]).max() > 8  # one prompt, two seeds
    assert alone[0].shape == (16, 16, 3)


def test_the_prompt_and_the_guidance_reach_the_image(model):
    one, other = draw(model, ["a dog", "red fabric"], [0, 0], 2, guidance_scale=20.0)
    plain = draw(model, ["a dog"], [0], 1, guidance_scale=1.0)[0]
    assert (one != other).any() and (one != plain).any()


def test_drawing_leaves_training_as_it_was(model):
    model.unet.train()
    state = torch.get_rng_state()
    try:
        draw(model, ["a dog"], [0], 1, "EulerAncestralDiscreteScheduler")
        assert model.unet.training and not model.vae.training
        with pytest.raises(KeyError), evaluating(model.pipeline()):
            assert not model.unet.training
            raise KeyError
        assert model.unet.training
    finally:
        model.unet.eval()
    assert torch.equal(state, torch.get_rng_state())


def test_files_and_manifest(tmp_path):
    images = [Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue")]
    prompts = ["a sks dog, on: the/beach", "a sks dog, on: the/beach", "Ein Hüte <x>"]
    save_images(tmp_path, images, prompts, ["a dog", "a dog", "b"], [0, 7, 0])
    with open(tmp_path / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == MANIFEST
    assert [row["prompt"] for row in rows] == prompts
    assert [row["class_only"] for row in rows] == ["a dog", "a dog", "b"]
    assert [row["seed"] for row in rows] == ["0", "7", "0"]
    for row, image in zip(rows, images, strict=True):
        assert file_hash(tmp_path / row["file"]) == row["sha256"]
        assert list(Image.open(tmp_path / row["file"]).get_flattened_data()) == list(
            image.get_flattened_data()
        )
    assert len(list(tmp_path.iterdir())) == 4


def test_a_slug_is_safe_in_a_path():
    assert slug("a <sks> dog/../cat: 50%") == "a-sks-dog-cat-50"
    assert len(slug("x " * 500)) <= 60 and slug("...") == ""


@pytest.mark.parametrize("labels", [(), ("first", "second")])
def test_a_grid_places_images_row_by_row(labels):
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = grid([Image.new("RGB", (8, 8), c) for c in colors], 2, labels, cell=10)
    assert sheet.width == 2 * 14 + 4
    step, top = (34, 24) if labels else (14, 4)
    assert sheet.getpixel((9, top + 5)) == colors[0]
    assert sheet.getpixel((23, top + 5)) == colors[1]
    assert sheet.getpixel((9, top + step + 5)) == colors[2]
    assert sheet.getpixel((23, top + step + 5)) == (255, 255, 255)


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
        "dreambooth.cli.generate.load_model", lambda run: pytest.fail("it was loaded")
    )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("generate", [f"run='{scored}'", f"output_dir='{tmp_path}'", *more])
    with pytest.raises(UserError, match=expected):
        draw_run(cfg)
    assert not list(tmp_path.iterdir())

"""Frames between pictures: a closed loop whose keyframes are the seeds' own pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.sampling.draw import draw
from dreambooth.sampling.morph import Morph, draw_frames
from dreambooth.sampling.spec import Sampling

SAMPLING = Sampling("DDIMScheduler", 2, 4.0, 16, 8)
MORPH = Morph(("a dog",), (0, 1000, 2000), 12)


@pytest.fixture(scope="module")
def model(tiny_model_dir) -> StableDiffusion:
    return StableDiffusion.from_pretrained(str(tiny_model_dir))


def pixels(images) -> list[np.ndarray]:
    return [np.asarray(image).astype(int) for image in images]


def test_a_loop_passes_its_points_evenly_on_the_sphere():
    points = torch.eye(3)  # at right angles, so that the angle between frames is known
    frames = torch.stack([MORPH.between(points, number) for number in range(12)])
    assert torch.allclose(frames[::4], points)
    assert torch.allclose(frames.norm(dim=1), torch.ones(12), atol=1e-6)
    angles = torch.rad2deg((frames * frames.roll(-1, 0)).sum(1).clamp(-1, 1).acos())
    assert torch.allclose(angles, torch.full((12,), 90 / 4), atol=1e-3)  # the last closes the loop


def test_a_keyframe_is_the_picture_of_its_seed(model):
    frames = pixels(draw_frames(model, MORPH, [0, 4, 8, 2], SAMPLING))
    own = pixels(draw(model, ["a dog"] * 3, [0, 1000, 2000], SAMPLING))
    for frame, picture in zip(frames, own, strict=False):
        assert abs(frame - picture).max() <= 1
    assert abs(frames[3] - frames[0]).max() > 8 and abs(frames[3] - frames[1]).max() > 8


def test_prompts_are_passed_too_and_a_frame_does_not_depend_on_its_batch(model):
    both = replace(MORPH, prompts=("a dog", "red fabric"), seeds=(0,))
    guided = replace(SAMPLING, guidance_scale=20.0)
    frames = pixels(draw_frames(model, both, [0, 3, 6], guided))
    own = pixels(draw(model, ["a dog", "red fabric"], [0, 0], guided))
    assert abs(frames[0] - own[0]).max() <= 1 and abs(frames[2] - own[1]).max() <= 1
    assert (frames[1] != own[0]).any() and (frames[1] != own[1]).any()
    (alone,) = pixels(draw_frames(model, both, [3], guided))
    assert abs(alone - frames[1]).max() <= 1

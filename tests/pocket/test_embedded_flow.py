"""The embedded flow-matching model as it is shipped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline,
)

from dreambooth.model.architectures import load_model
from dreambooth.model.interface import BaseModel
from dreambooth.pocket import world
from dreambooth.pocket.embedded import model_path, weights_folder
from dreambooth.pocket.pretraining import probe
from dreambooth.sampling.draw import draw
from dreambooth.sampling.spec import Sampling

SAMPLING = Sampling("FlowMatchEulerDiscreteScheduler", 12, 3.0, 64, 16)


@pytest.fixture(scope="module")
def model() -> BaseModel:
    return load_model(model_path("pocket_flow"), max_sequence_length=0)


@pytest.mark.slow
def test_it_draws_what_is_asked_for(model):
    asked = [("dog", "red", "jungle"), ("teapot", "blue", "beach"), ("backpack", "yellow", "snow")]
    asked += [("sneaker", "green", "city"), ("vase", "purple", "beach"), ("clock", "white", "snow")]
    prompts = [f"a {color} {noun} {world.CONTEXTS[place]}".lower() for noun, color, place in asked]
    images = np.stack([np.asarray(image) for image in draw(model, prompts, range(6), SAMPLING)])
    seen = probe.judge(probe.load_probe(weights_folder()), images)
    for found, wanted in zip(("class", "color", "context"), zip(*asked, strict=True), strict=True):
        right = sum(each[found] == name for each, name in zip(seen, wanted, strict=True))
        assert right >= 5, (found, seen)  # by chance less than one


def test_prompts_are_embedded_as_diffusers_pipeline_does(model):
    without = {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        weights_folder("pocket_flow"), dtype=torch.float32, **without
    )
    prompts = ["a sks dog", "a photo of a red teapot in the snow"]
    tokens, _, pooled, _ = pipeline.encode_prompt(
        prompts, prompts, prompts, do_classifier_free_guidance=False, max_sequence_length=0
    )
    got = model.embed(prompts)
    torch.testing.assert_close(got.tokens, tokens)
    torch.testing.assert_close(got.extra["text_embeds"], pooled)


def test_its_parts_are_those_of_the_other_embedded_model():
    flow, own = load_model(model_path("pocket_flow"), max_sequence_length=0), weights_folder()
    other = load_model(str(own))
    for name in ("vae", "text_encoder"):
        state = flow.network(name).state_dict()
        for key, tensor in other.network(name).state_dict().items():
            key = key if name == "vae" else f"text_model.{key}"
            assert torch.equal(state[key], tensor), key

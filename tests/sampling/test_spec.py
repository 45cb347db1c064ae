"""A sampler and its settings: what they are checked for, and what images depend on."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

from dreambooth.diffusion.process import process_of
from dreambooth.errors import UserError
from dreambooth.files import cache_key
from dreambooth.sampling.spec import Sampling

SAMPLING = Sampling("DDIMScheduler", 20, 3.0, 64, 16)
CHANGES = {
    "scheduler": "PNDMScheduler",
    "num_inference_steps": 21,
    "guidance_scale": 3.5,
    "resolution": 72,
    "options": {"eta": 1.0},
    "negative_prompt": "red",
    "dtype": "bfloat16",
}


def test_the_facts_name_everything_but_the_batch():
    assert {field.name for field in fields(Sampling)} == {*CHANGES, "batch_size"}
    changed = [replace(SAMPLING, **{name: value}).facts for name, value in CHANGES.items()]
    assert len({cache_key(**facts) for facts in [SAMPLING.facts, *changed]}) == 1 + len(CHANGES)
    assert replace(SAMPLING, batch_size=1).facts == SAMPLING.facts
    assert json.loads(json.dumps(SAMPLING.facts)) == SAMPLING.facts


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"scheduler": "DDIMSchedular"}, "did you mean DDIMScheduler"),
        ({"options": {"typo": 1}}, "DDIMScheduler has no option typo"),
        ({"num_inference_steps": 1001}, "num_inference_steps=1001 .* cannot work"),
        ({"dtype": "int8"}, "sampling.dtype=int8 is not one of float32, float16, bfloat16"),
    ],
)
def test_what_cannot_be_drawn_with_is_one_sentence(change, expected):
    SAMPLING.check()
    with pytest.raises(UserError, match=expected) as caught:
        replace(SAMPLING, **change).check()
    assert "\n" not in str(caught.value)


def test_the_sampler_has_its_options_and_the_models_noise():
    own = process_of(DDPMScheduler(beta_start=0.001, prediction_type="v_prediction"))
    options = {"use_karras_sigmas": True}
    made = replace(SAMPLING, scheduler="DPMSolverMultistepScheduler", options=options).build(own)
    assert isinstance(made, DPMSolverMultistepScheduler) and made.config.use_karras_sigmas
    assert (made.config.beta_start, made.config.prediction_type) == (0.001, "v_prediction")


@pytest.mark.parametrize(
    ("overrides", "dtype"),
    [
        ((), "float32"),
        (("trainer.precision=bf16-mixed",), "bfloat16"),
        (("trainer.precision=16-mixed",), "float16"),
        (("trainer.precision=bf16-mixed", "sampling.dtype=float32"), "float32"),
        (("sampling.dtype=float16",), "float16"),
    ],
)
def test_everything_that_a_run_draws_is_in_its_inference_dtype(spine, tmp_path, overrides, dtype):
    spec = spine.spec(tmp_path, *overrides)
    assert spec.sampling.dtype == spec.samples.set.sampling.dtype == dtype
    assert spec.prior.sampling.dtype == dtype

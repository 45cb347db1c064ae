"""FLUX.2 klein: its networks compute what diffusers' own pipeline does, and the main job runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import Flux2KleinPipeline

from dreambooth.errors import UserError
from dreambooth.model.adapter_settings import AdapterSettings
from dreambooth.model.adapter_weights import adapter_layers
from dreambooth.model.architectures import load_model
from dreambooth.model.flux2_klein import Flux2Klein
from dreambooth.model.peft_layers import add_adapter
from dreambooth.sampling.draw import draw
from dreambooth.sampling.morph import Morph, draw_frames
from dreambooth.sampling.spec import Sampling
from spine import checkpoint, same

PROMPTS = ["a photo of sks dog", "", "unheard-of WORDS, 42!"]
EULER = "FlowMatchEulerDiscreteScheduler"
LENGTH = 64
# of the double block: q, k, v, out; of each single block: both its matrices
ADAPTED = 4 + 2 * 2


@pytest.fixture(scope="module")
def tiny(tiny_flux2_model_dir) -> Flux2Klein:
    model = load_model(str(tiny_flux2_model_dir), max_sequence_length=LENGTH)
    assert type(model) is Flux2Klein
    return model


@pytest.fixture(scope="module")
def reference(tiny_flux2_model_dir) -> Flux2KleinPipeline:
    pipeline = Flux2KleinPipeline.from_pretrained(tiny_flux2_model_dir)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_embed_equals_encode_prompt(tiny, reference):
    theirs, _ = reference.encode_prompt(PROMPTS, device="cpu", max_sequence_length=LENGTH)
    ours = tiny.embed(PROMPTS).tokens
    assert ours.shape == (3, LENGTH, 24) and torch.equal(ours, theirs)
    assert not torch.equal(ours[0], ours[2])


def test_latents_are_decoded_to_the_pixels_that_the_pipeline_makes(tiny, reference):
    pixels = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, logvar = tiny.encode(pixels)
    latents = tiny.sample_latents(mean, logvar, torch.ones_like(mean))
    assert latents.shape == (1, *tiny.latent_shape(16)) == (1, 16, 4, 4)
    theirs = reference._encode_vae_image(pixels, torch.Generator())
    torch.testing.assert_close(latents, theirs)


@pytest.mark.parametrize("sampler", ["euler", "unipc"])
def test_a_picture_and_a_still_film_are_the_pipelines_own(tiny, tiny_flux2_model_dir, sampler):
    name, options = (
        (EULER, {})
        if sampler == "euler"
        else ("UniPCMultistepScheduler", {"use_flow_sigmas": True})
    )
    sampling = Sampling(name, 2, 3.0, 16, 2, options=options)
    reference = Flux2KleinPipeline.from_pretrained(
        tiny_flux2_model_dir, scheduler=sampling.build(tiny.process)
    )
    theirs = reference(
        prompt="a dog on the beach",
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=2,
        guidance_scale=3.0,
        height=16,
        width=16,
        max_sequence_length=LENGTH,
    ).images[0]
    (ours,) = draw(tiny, ["a dog on the beach"], [0], sampling)
    assert ours.tobytes() == theirs.tobytes()
    (still,) = draw_frames(tiny, Morph(("a dog on the beach",), (0,), 4), [0], sampling)
    assert still.tobytes() == theirs.tobytes()
    with pytest.raises(UserError, match="negative_prompt=red cannot be used: the pipeline of FLUX"):
        draw(tiny, ["a dog"], [0], Sampling(EULER, 2, 3.0, 16, 2, negative_prompt="red"))


# -- the main job -------------------------------------------------------------------------------

METHODS = {
    "full": ("method=full", "prior.kind=prediction"),
    "lora": ("method=lora", "lr=1e-2", "frozen_dtype=bfloat16", "sampling.dtype=bfloat16"),
}


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("method", METHODS)
def test_a_run_resumes_to_the_bit_and_diffusers_draws_its_picture(flux2_spine, tmp_path, method):
    steps = (*METHODS[method], "max_steps=4", "export.verify=auto")
    whole, parts = flux2_spine.whole_and_resumed(tmp_path, *steps)
    a, b = checkpoint(whole), checkpoint(parts)
    assert same(a["state_dict"], b["state_dict"]) and a["global_step"] == 4
    assert {name.partition(".")[0] for name in a["state_dict"]} == {"transformer"}
    (verified,) = json.loads((whole / "run.json").read_text())["verified"].values()
    assert verified["error"] is None and verified["tensors"] == verified["loaded"]
    if method == "full":  # all networks
        assert verified["loaded"] > len(a["state_dict"])
    else:
        assert verified["loaded"] == 2 * ADAPTED


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method=textual_inversion", "the text encoder of FLUX.2 klein takes no new words"),
        ("train_text_encoder=true", "the text encoder of FLUX.2 klein stays frozen"),
        ("scheduler=flow_heun", "FlowMatchHeunDiscreteScheduler does not sample from FLUX.2 klein"),
        ("method=lora export.layouts=[diffusers,kohya]", "kohya, which no tool here writes"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    flux2_spine, tiny, tmp_path, monkeypatch, override, message
):
    monkeypatch.setattr("dreambooth.training.prepare.load_model", lambda *_: tiny)
    with pytest.raises(UserError, match=message):
        flux2_spine.run(tmp_path, *override.split())


def test_another_size_or_length_and_a_distilled_model_are_refused(
    tiny, tiny_flux2_model_dir, tmp_path
):
    with pytest.raises(UserError, match="resolution=18 must be a multiple of 4"):
        tiny.check_resolution(18)
    with pytest.raises(UserError, match="max_sequence_length=513 must be .* from 1 to 512"):
        load_model(str(tiny_flux2_model_dir), max_sequence_length=513)
    folder = Path(shutil.copytree(tiny_flux2_model_dir, tmp_path / "model"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "is_distilled": True}))
    with pytest.raises(UserError, match="is distilled to a few steps"):
        load_model(str(folder), max_sequence_length=LENGTH)


def test_adapters_are_put_on_the_layers_that_diffusers_script_adapts(tiny_flux2_model_dir):
    """`attn.to_out` is a layer of the single blocks and a list of layers in the others."""
    model = load_model(str(tiny_flux2_model_dir), max_sequence_length=LENGTH)
    script = {"to_q", "to_k", "to_v", "to_out.0", "to_qkv_mlp_proj"}
    singles = [f"single_transformer_blocks.{i}.attn.to_out" for i in range(2)]
    ends = ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.to_qkv_mlp_proj"]
    options = {"r": 2, "target_modules": [*ends, "attn.to_out"]}
    add_adapter(model, "transformer", AdapterSettings("peft.LoraConfig", options), 0)
    adapted = set(adapter_layers(model.transformer))
    assert len(adapted) == ADAPTED and {*singles} < adapted
    assert all(any(n.endswith(f".{e}") for e in script) for n in adapted - {*singles})

"""A token goes to diffusers and back, as one tensor or as SDXL's pair; other files are refused."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from dreambooth.errors import UserError
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.model.stable_diffusion_xl import StableDiffusionXL
from dreambooth.model.textual_inversion import (
    TokenSettings,
    add_token,
    set_token_rows,
    token_ids,
    token_rows,
)
from dreambooth.model.token_files import load_token, read_token, save_token

ONE, TWO = TokenSettings("<new>", "dog", 1), TokenSettings("<new>", "dog", 2)


def matrix(model: StableDiffusion) -> torch.Tensor:
    return model.text_encoder.get_input_embeddings().weight


@pytest.mark.parametrize("settings", [ONE, TWO])
def test_saved_file_loads_in_a_fresh_diffusers_pipeline(
    model, prepared, predict, train, tiny_model_dir, tmp_path, settings, inputs
):
    train(prepared("frozen", "token", token=settings), steps=3)
    file = tmp_path / "deep" / "learned_embeds.safetensors"
    save_token(model, settings, file)
    assert [f.name for f in file.parent.iterdir()] == [file.name]
    saved = load_file(file)
    assert list(saved) == ["<new>"] and saved["<new>"].shape == (settings.num_vectors, 32)
    assert torch.equal(saved["<new>"], token_rows(model, settings)["<new>"])
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_dir, safety_checker=None)
    pipeline.load_textual_inversion(file.parent)
    prompts, (latents, timesteps) = ["a photo of <new>", "a cat"], inputs
    embeddings, _ = pipeline.encode_prompt(prompts, "cpu", 1, False)
    assert torch.equal(embeddings, model.embed(prompts).tokens)
    theirs = pipeline.unet(latents, timesteps, embeddings).sample
    assert torch.equal(theirs, predict(model, prompts))


@pytest.mark.parametrize("settings", [ONE, TWO])
def test_load_token_reads_what_save_token_wrote(model, tiny_model_dir, tmp_path, settings):
    add_token(model, settings)
    with torch.no_grad():
        rows = matrix(model)[token_ids(model, settings, "text_encoder")]
        matrix(model)[token_ids(model, settings, "text_encoder")] = rows + torch.arange(32.0)
    save_token(model, settings, tmp_path / "learned_embeds.safetensors")
    fresh = StableDiffusion.from_pretrained(str(tiny_model_dir))
    random_state = torch.get_rng_state()
    assert load_token(fresh, tmp_path) == "<new>"
    assert torch.equal(random_state, torch.get_rng_state())
    ours, theirs = (m.embed(["a <new> dog"]).tokens for m in (fresh, model))
    assert torch.equal(ours, theirs)
    assert not matrix(fresh).requires_grad
    with pytest.raises(UserError, match="knows <new> already"):
        load_token(fresh, tmp_path)


def test_files_that_are_no_token_of_this_model_are_refused(model, tmp_path):
    save_file({"<x>": torch.zeros(48)}, tmp_path / "wide.safetensors")
    save_file({"<x>": torch.zeros(32), "<y>": torch.zeros(32)}, tmp_path / "two.safetensors")
    (tmp_path / "bad.safetensors").write_text("not weights")
    size = len(model.tokenizer)
    for name, message in (
        ("wide", "width 48 and the model 32"),
        ("two", "holds 2 tensors"),
        ("bad", "not a safetensors file"),
        ("absent", "there is no textual inversion at"),
    ):
        with pytest.raises(UserError, match=message):
            load_token(model, tmp_path / f"{name}.safetensors")
    assert len(model.tokenizer) == size


def test_the_published_fabric_token_loads_at_sd15_s_width(fabric, model):
    with pytest.raises(UserError, match="width 768 and the model 32"):
        load_token(model, fabric / "textual_inversion")
    small = {"num_hidden_layers": 1, "num_attention_heads": 12, "intermediate_size": 64}
    small |= {"vocab_size": len(model.tokenizer), "max_position_embeddings": 32}
    model.text_encoder = CLIPTextModel(CLIPTextConfig(hidden_size=768, **small)).eval()
    assert load_token(model, fabric / "textual_inversion") == "<african-fabric>"
    published = load_file(fabric / "textual_inversion" / "learned_embeds.safetensors")
    row = model.tokenizer.convert_tokens_to_ids("<african-fabric>")
    assert torch.equal(matrix(model)[row], published["<african-fabric>"])
    assert model.tokenizer("a <african-fabric>").input_ids[2] == row


def test_saved_in_the_published_layout(model, fabric, tmp_path):
    """Our file and the published one are read by the same loader: one key, the token."""
    add_token(model, ONE)
    save_token(model, ONE, tmp_path / "ours.safetensors")
    theirs = load_file(fabric / "textual_inversion" / "learned_embeds.safetensors")
    ours = load_file(tmp_path / "ours.safetensors")
    assert len(ours) == len(theirs) == 1
    assert {t.dtype for t in (*ours.values(), *theirs.values())} == {torch.float32}


@pytest.fixture
def xl(tiny_xl_model_dir) -> StableDiffusionXL:
    return StableDiffusionXL.from_pretrained(str(tiny_xl_model_dir))


def learned(xl: StableDiffusionXL) -> StableDiffusionXL:
    """A token of two vectors, which differ from each other in both encoders."""
    add_token(xl, TWO)
    rows = token_rows(xl, TWO).items()
    moved = {name: each + torch.tensor([[1.0], [-1.0]]) for name, each in rows}
    set_token_rows(xl, TWO, moved)
    return xl


def test_a_token_of_sdxl_starts_as_its_initializer_in_both_encoders(xl):
    known = xl.embed(["a photo of dog on grass"])
    # as published configs have it: transformers then pools at the highest id, a new word's
    xl.text_encoder_2.config.eos_token_id = xl.text_encoder_2.text_model.eos_token_id = 2
    add_token(xl, ONE)
    new = xl.embed(["a photo of <new> on grass"])
    assert torch.equal(new.tokens, known.tokens)
    assert torch.equal(new.extra["text_embeds"], known.extra["text_embeds"])
    assert xl.text_encoder_2.config.eos_token_id == xl.tokenizer_2.eos_token_id


def test_a_token_of_sdxl_goes_to_diffusers_and_back(xl, tiny_xl_model_dir, tmp_path):
    file = tmp_path / "learned_embeds.safetensors"
    save_token(learned(xl), TWO, file)
    saved = load_file(file)
    assert {name: tuple(each.shape) for name, each in saved.items()} == {
        "clip_l": (2, 16),
        "clip_g": (2, 32),
    }
    assert read_token(file).token == "<new>"
    prompts = ["a photo of <new>", "a <new> cat on the beach"]
    ours = xl.embed(prompts)
    fresh = StableDiffusionXL.from_pretrained(str(tiny_xl_model_dir))
    assert load_token(fresh, tmp_path) == "<new>"
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_xl_model_dir)
    for encoder, name in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        into = {"text_encoder": getattr(pipeline, encoder)}
        into["tokenizer"] = getattr(pipeline, encoder.replace("text_encoder", "tokenizer"))
        pipeline.load_textual_inversion(saved[name], token="<new>", **into)
    tokens, _, pooled, _ = pipeline.encode_prompt(
        prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    for embeddings in (fresh.embed(prompts), xl.embed(prompts)):
        assert torch.equal(embeddings.tokens, tokens)
        assert torch.equal(embeddings.extra["text_embeds"], pooled)
    assert torch.equal(ours.tokens, tokens)


def test_a_token_of_another_architecture_is_refused(model, xl, tmp_path):
    save_token(learned(xl), TWO, tmp_path / "two.safetensors")
    save_file({"<x>": torch.zeros(16)}, tmp_path / "one.safetensors")
    save_file(
        {"clip_l": torch.zeros(16), "clip_g": torch.zeros(2, 32)}, tmp_path / "odd.safetensors"
    )
    for one, name, message in (
        (model, "two", "embeddings for 2 text encoders and the model 1"),
        (xl, "one", "embeddings for 1 text encoders and the model 2"),
        (xl, "odd", "holds 2 tensors"),
    ):
        with pytest.raises(UserError, match=message):
            load_token(one, tmp_path / f"{name}.safetensors")

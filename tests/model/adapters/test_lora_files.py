"""What `save_lora` writes loads in diffusers and here, and computes the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from dreambooth.errors import UserError
from dreambooth.model.adapters.lora_files import load_adapters, save_lora
from dreambooth.model.peft_layers import add_adapter
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.model.textual_inversion import TokenSettings, add_token


def content(file: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    """Tensors and metadata; the order of the latter in the file is random."""
    with safe_open(file, "pt") as opened:
        tensors = {key: opened.get_tensor(key).numpy().tobytes() for key in opened.keys()}
        return tensors, opened.metadata()


def count_adapters(model: StableDiffusion) -> int:
    return sum(".lora_" in name for name, _ in model.named_parameters())


def test_saved_keys_are_exactly_these(model, lora, tmp_path):
    add_adapter(model, "unet", lora, seed=0)
    file = save_lora(model, tmp_path)
    assert file == tmp_path / "pytorch_lora_weights.safetensors"
    assert [f.name for f in tmp_path.iterdir()] == [file.name]
    blocks = ["down_blocks.0.attentions.0", "mid_block.attentions.0"]
    blocks += ["up_blocks.1.attentions.0", "up_blocks.1.attentions.1"]
    expected = {
        f"unet.{block}.transformer_blocks.0.{attention}.{layer}.lora_{side}.weight"
        for block in blocks
        for attention in ("attn1", "attn2")
        for layer in ("to_q", "to_k", "to_v", "to_out.0")
        for side in "AB"
    }
    with safe_open(file, "pt") as opened:
        assert set(opened.keys()) == expected
        assert '"unet.lora_alpha": 12.0' in opened.metadata()["lora_adapter_metadata"]


def test_saved_text_encoder_keys_are_those_of_every_diffusers(trained_lora, tmp_path):
    with safe_open(save_lora(trained_lora.model, tmp_path), "pt") as opened:
        keys = {key for key in opened.keys() if key.startswith("text_encoder.")}
    assert keys == {
        f"text_encoder.text_model.encoder.layers.{layer}.self_attn.{name}"
        f".lora_linear_layer.{side}.weight"
        for layer in (0, 1)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj")
        for side in ("down", "up")
    }


@pytest.mark.slow
@pytest.mark.parametrize("parts", [("unet",), ("text_encoder",), ("unet", "text_encoder")])
def test_saved_file_loads_in_a_fresh_diffusers_pipeline(
    model, lora, prepared, predict, train, tiny_model_dir, tmp_path, parts, inputs
):
    kinds = {part: "adapter" if part in parts else "frozen" for part in ("unet", "text_encoder")}
    base = predict(model)
    train(prepared(**kinds, adapter=lora), steps=3)
    save_lora(model, tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_dir, safety_checker=None)
    pipeline.load_lora_weights(tmp_path)
    prompts, (latents, timesteps) = ["a photo of sks dog", "a cat"], inputs
    embeddings, _ = pipeline.encode_prompt(prompts, "cpu", 1, False)
    theirs = pipeline.unet(latents, timesteps, embeddings).sample
    ours = predict(model)
    assert (ours - base).abs().max() > 0.01
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_load_adapters_reads_what_save_lora_wrote(trained_lora, predict, tiny_model_dir, tmp_path):
    trained, fresh = trained_lora.model, StableDiffusion.from_pretrained(str(tiny_model_dir))
    file = save_lora(trained, tmp_path)
    count, random_state = count_adapters(trained), torch.get_rng_state()
    assert load_adapters(fresh, file) == count == count_adapters(fresh)
    assert torch.equal(random_state, torch.get_rng_state())
    torch.testing.assert_close(predict(fresh), predict(trained), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="already"):
        load_adapters(fresh, file)


def test_a_loaded_adapter_is_saved_as_it_was(trained_lora, tiny_model_dir, tmp_path):
    fresh = StableDiffusion.from_pretrained(str(tiny_model_dir))
    file = save_lora(trained_lora.model, tmp_path / "first")
    load_adapters(fresh, file)
    assert content(save_lora(fresh, tmp_path / "second")) == content(file)


def test_new_tokens_stay_out_of_the_file(trained_lora, tmp_path):
    """PEFT would add the whole embedding matrix where the vocabulary has grown."""
    before = content(save_lora(trained_lora.model, tmp_path / "before"))
    add_token(trained_lora.model, TokenSettings("<new>", "dog", 1))
    assert content(save_lora(trained_lora.model, tmp_path / "after")) == before


def test_nothing_to_save_is_refused(model, tmp_path):
    with pytest.raises(UserError, match="no LoRA"):
        save_lora(model, tmp_path)


def test_a_failed_save_keeps_the_earlier_file(trained_lora, tmp_path, monkeypatch):
    trained = trained_lora.model
    before = save_lora(trained, tmp_path).read_bytes()

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StableDiffusionPipeline, "save_lora_weights", full_disk)
    with pytest.raises(UserError, match="is full"):
        save_lora(trained, tmp_path)
    assert [f.read_bytes() for f in tmp_path.iterdir()] == [before]

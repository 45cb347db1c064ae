"""Adapters change nothing at the start, train alone, and merge to `W + (alpha / rank) B A`."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from dreambooth.errors import UserError
from dreambooth.model.lora import LoRASettings, add_lora, load_lora, merge_lora, save_lora
from dreambooth.model.stable_diffusion import LatentDiffusion
from dreambooth.model.trainable import Phase, prepare, trained_state

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"


@pytest.fixture
def trained(model, lora, train) -> LatentDiffusion:
    """Both networks adapted and trained far enough for the adapters to show."""
    prepare(model, Phase("lora", "lora"), lora, None, seed=0)
    train(model, steps=3)
    return model


def adapters(model: LatentDiffusion) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if ".lora_" in name}


def test_a_fresh_adapter_changes_nothing(model, lora, predict):
    before = predict(model)
    add_lora(model, "unet", lora, seed=0)
    add_lora(model, "text_encoder", lora, seed=0)
    assert torch.equal(predict(model), before)
    for name, tensor in adapters(model).items():
        assert tensor.any() == (".lora_A." in name), name


def test_the_start_depends_on_the_seed_alone(tiny_model_dir, lora):
    starts = []
    for ambient, seed in ((0, 0), (99, 0), (0, 1)):
        model = LatentDiffusion.from_pretrained(str(tiny_model_dir))
        torch.manual_seed(ambient)
        before = torch.get_rng_state()
        add_lora(model, "unet", lora, seed)
        add_lora(model, "text_encoder", lora, seed)
        assert torch.equal(before, torch.get_rng_state())
        starts.append(torch.cat([t.flatten() for t in adapters(model).values()]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_the_start_has_the_published_scale(model, lora):
    add_lora(model, "unet", lora, seed=0)
    draws = torch.cat([t.flatten() for n, t in adapters(model).items() if ".lora_A." in n])
    assert draws.mean().abs() < 0.01
    assert draws.std() == pytest.approx(1 / lora.rank, rel=0.05)  # peft's "gaussian"


@pytest.mark.parametrize("bad", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"targets": ()}])
def test_bad_settings_are_refused(bad):
    good = {"rank": 4, "alpha": 4.0, "dropout": 0.0, "targets": ("to_q",)}
    with pytest.raises(UserError, match="LoRA of rank"):
        LoRASettings(**{**good, **bad})


@pytest.mark.parametrize("targets", [("to_q", "to_kk"), ("q_proj",)])
def test_a_target_that_names_no_layer_is_refused(model, targets):
    with pytest.raises(UserError, match="names no layer|none is in the unet"):
        add_lora(model, "unet", LoRASettings(4, 4.0, 0.0, targets), seed=0)


def test_a_second_adapter_is_refused(model, lora):
    add_lora(model, "unet", lora, seed=0)
    with pytest.raises(UserError, match="already"):
        add_lora(model, "unet", lora, seed=0)


def test_merged_weight_is_w_plus_scaled_b_a(trained, lora):
    layer = trained.unet.get_submodule(f"{BLOCK}.attn2.to_k")
    before = layer.weight.detach().clone()
    a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
    expected = before + 12.0 / 4 * torch.einsum("or,ri->oi", b, a)
    merge_lora(trained)
    assert (expected - before).abs().max() > 1e-3
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=0, atol=1e-6)


def test_merging_keeps_the_prediction_and_twice_equals_once(trained, predict):
    before = predict(trained)
    merge_lora(trained)
    once = {name: t.clone() for name, t in trained.state_dict().items()}
    torch.testing.assert_close(predict(trained), before, rtol=0, atol=1e-5)
    merge_lora(trained)
    assert all(torch.equal(once[name], t) for name, t in trained.state_dict().items())


def test_merging_a_bf16_base_is_exact(tiny_model_dir, trained, lora):
    other = LatentDiffusion.from_pretrained(str(tiny_model_dir))
    prepare(other, Phase("lora", "lora"), lora, None, 0, frozen_dtype=torch.bfloat16)
    for name, tensor in trained_state(trained).items():
        trained_state(other)[name].copy_(tensor)
    merge_lora(other), merge_lora(trained)
    assert torch.equal(
        other.base_state("unet")["conv_in.weight"], trained.base_state("unet")["conv_in.weight"]
    )
    name = f"{BLOCK}.attn2.to_k.weight"
    assert torch.equal(other.base_state("unet")[name], trained.base_state("unet")[name])


def test_saved_keys_are_exactly_these(model, lora, tmp_path):
    add_lora(model, "unet", lora, seed=0)
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


def test_saved_text_encoder_keys_are_those_of_every_diffusers(trained, tmp_path):
    with safe_open(save_lora(trained, tmp_path), "pt") as opened:
        keys = {key for key in opened.keys() if key.startswith("text_encoder.")}
    assert keys == {
        f"text_encoder.text_model.encoder.layers.{layer}.self_attn.{name}"
        f".lora_linear_layer.{side}.weight"
        for layer in (0, 1)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj")
        for side in ("down", "up")
    }


@pytest.mark.parametrize("parts", [("unet",), ("text_encoder",), ("unet", "text_encoder")])
def test_saved_file_loads_in_a_fresh_diffusers_pipeline(
    model, lora, predict, train, tiny_model_dir, tmp_path, parts, inputs
):
    kinds = {part: "lora" if part in parts else "frozen" for part in ("unet", "text_encoder")}
    base = predict(model)
    prepare(model, Phase(**kinds), lora, None, seed=0)
    train(model, steps=3)
    save_lora(model, tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_dir, safety_checker=None)
    pipeline.load_lora_weights(tmp_path)
    prompts, (latents, timesteps) = ["a photo of sks dog", "a cat"], inputs
    embeddings, _ = pipeline.encode_prompt(prompts, "cpu", 1, False)
    theirs = pipeline.unet(latents, timesteps, embeddings).sample
    ours = predict(model)
    assert (ours - base).abs().max() > 0.01
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("into", ["model", "pipeline"])
def test_load_lora_reads_what_save_lora_wrote(trained, predict, tiny_model_dir, tmp_path, into):
    file = save_lora(trained, tmp_path)
    fresh = LatentDiffusion.from_pretrained(str(tiny_model_dir))
    count = load_lora(fresh if into == "model" else fresh.pipeline(), file)
    assert count == len(adapters(trained)) == len(adapters(fresh))
    torch.testing.assert_close(predict(fresh), predict(trained), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="already"):
        load_lora(fresh, file)


def test_nothing_to_save_is_refused(model, tmp_path):
    with pytest.raises(UserError, match="no LoRA"):
        save_lora(model, tmp_path)


def test_a_failed_save_keeps_the_earlier_file(trained, tmp_path, monkeypatch):
    before = save_lora(trained, tmp_path).read_bytes()

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StableDiffusionPipeline, "save_lora_weights", full_disk)
    with pytest.raises(UserError, match="is full"):
        save_lora(trained, tmp_path)
    assert [f.read_bytes() for f in tmp_path.iterdir()] == [before]

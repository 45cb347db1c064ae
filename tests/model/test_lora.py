"""Adapters change nothing at the start, train alone, and merge to `W + (alpha / rank) B A`."""

from __future__ import annotations

import pytest
import torch

from dreambooth.errors import UserError
from dreambooth.model.lora import LoRASettings, add_lora, merge_lora
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.model.trainable import Phase, TrainableWeights

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"


def adapters(model: StableDiffusion) -> dict[str, torch.Tensor]:
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
        model = StableDiffusion.from_pretrained(str(tiny_model_dir))
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


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"rank": 0}, "method.lora.rank=0 must be a whole number, 1 or greater"),
        ({"rank": 2.5}, "method.lora.rank=2.5 must be a whole number"),
        ({"rank": True}, "method.lora.rank=True must be a whole number"),
        ({"rank": "4"}, "method.lora.rank=4 must be a whole number"),
        ({"alpha": 0}, "method.lora.alpha=0 must be a number above 0"),
        ({"alpha": float("nan")}, "method.lora.alpha=nan must be a number"),
        ({"alpha": float("inf")}, "method.lora.alpha=inf must be a number"),
        ({"alpha": True}, "method.lora.alpha=True must be a number"),
        ({"dropout": 1.0}, r"method.lora.dropout=1.0 must be a number in \[0, 1\)"),
        ({"dropout": -0.1}, "method.lora.dropout=-0.1 must be a number"),
        ({"targets": ()}, "method.lora.targets=.* must be a list"),
        ({"targets": "to_q"}, "method.lora.targets=to_q must be a list"),
    ],
)
def test_bad_settings_name_their_key(bad, message):
    good = {"rank": 4, "alpha": 4.0, "dropout": 0.0, "targets": ("to_q",)}
    with pytest.raises(UserError, match=message):
        LoRASettings(**{**good, **bad})


@pytest.mark.parametrize("targets", [("to_q", "to_kk"), ("q_proj",)])
def test_a_target_that_names_no_layer_is_refused(model, targets):
    with pytest.raises(UserError, match="names no layer|none is in the unet"):
        add_lora(model, "unet", LoRASettings(4, 4.0, 0.0, targets), seed=0)


def test_a_second_adapter_is_refused(model, lora):
    add_lora(model, "unet", lora, seed=0)
    with pytest.raises(UserError, match="already"):
        add_lora(model, "unet", lora, seed=0)


def test_merged_weight_is_w_plus_scaled_b_a(trained_lora):
    trained = trained_lora.model
    layer = trained.unet.get_submodule(f"{BLOCK}.attn2.to_k")
    before = layer.weight.detach().clone()
    a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
    expected = before + 12.0 / 4 * torch.einsum("or,ri->oi", b, a)
    merge_lora(trained)
    assert (expected - before).abs().max() > 1e-3
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=0, atol=1e-6)


def test_merging_keeps_the_prediction_and_twice_equals_once(trained_lora, predict):
    trained = trained_lora.model
    before = predict(trained)
    merge_lora(trained)
    once = {name: t.clone() for name, t in trained.state_dict().items()}
    torch.testing.assert_close(predict(trained), before, rtol=0, atol=1e-5)
    merge_lora(trained)
    assert all(torch.equal(once[name], t) for name, t in trained.state_dict().items())


def test_merging_a_bf16_base_is_exact(tiny_model_dir, trained_lora, lora):
    trained, other = trained_lora.model, StableDiffusion.from_pretrained(str(tiny_model_dir))
    weights = TrainableWeights(other, 0, lora, frozen_dtype=torch.bfloat16)
    weights.prepare(Phase("lora", "lora"))
    weights.load(trained_lora.state())
    merge_lora(other), merge_lora(trained)
    assert torch.equal(
        other.base_state("unet")["conv_in.weight"], trained.base_state("unet")["conv_in.weight"]
    )
    name = f"{BLOCK}.attn2.to_k.weight"
    assert torch.equal(other.base_state("unet")[name], trained.base_state("unet")[name])

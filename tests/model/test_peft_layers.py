"""Adapters change nothing at the start, train alone, and merge into the weights."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file

from dreambooth.errors import UserError
from dreambooth.model.adapter_settings import AdapterSettings
from dreambooth.model.adapter_weights import adapter_parameters
from dreambooth.model.adapters.lora_files import load_adapters
from dreambooth.model.adapters.merging import merge_file
from dreambooth.model.adapters.peft_files import save_peft
from dreambooth.model.peft_layers import (
    add_adapter,
    check_adapter,
    has_adapter,
    merge_adapters,
    scale_adapters,
)
from dreambooth.model.phases import Phase
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.model.trainable import TrainableWeights

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
TARGETS = ["to_q", "to_v", "q_proj", "v_proj"]
KINDS = {
    "lora": ("LoraConfig", {"r": 4, "lora_alpha": 12, "init_lora_weights": "gaussian"}),
    "rslora": ("LoraConfig", {"r": 4, "lora_alpha": 12, "use_rslora": True}),
    "dora": ("LoraConfig", {"r": 4, "use_dora": True}),
    "loha": ("LoHaConfig", {"r": 4, "alpha": 8}),
    "lokr": ("LoKrConfig", {"r": 4, "alpha": 8}),
    "oft": ("OFTConfig", {"oft_block_size": 8}),
    "boft": ("BOFTConfig", {"boft_block_size": 4}),
    "hra": ("HRAConfig", {"r": 2}),
    "ia3": ("IA3Config", {"feedforward_modules": []}),
    "randlora": ("RandLoraConfig", {"r": 4}),
    "shira": ("ShiraConfig", {"r": 2}),
}


def settings_of(kind: str) -> AdapterSettings:
    target, options = KINDS[kind]
    return AdapterSettings(f"peft.{target}", {**options, "target_modules": TARGETS})


def adapters(model: StableDiffusion) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in adapter_parameters(model).items()}


def test_the_start_depends_on_the_seed_alone(tiny_model_dir, lora):
    starts = []
    for ambient, seed in ((0, 0), (99, 0), (0, 1)):
        model = StableDiffusion.from_pretrained(str(tiny_model_dir))
        torch.manual_seed(ambient)
        before = torch.get_rng_state()
        add_adapter(model, "unet", lora, seed)
        add_adapter(model, "text_encoder", lora, seed)
        assert torch.equal(before, torch.get_rng_state())
        starts.append(torch.cat([t.flatten() for t in adapters(model).values()]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_a_fresh_lora_is_zero_times_the_published_scale(model, lora, predict):
    before = predict(model)
    add_adapter(model, "unet", lora, seed=0)
    assert torch.equal(predict(model), before)
    draws = torch.cat([t.flatten() for n, t in adapters(model).items() if ".lora_A." in n])
    assert draws.mean().abs() < 0.01
    assert draws.std() == pytest.approx(1 / 4, rel=0.05)  # peft's "gaussian"
    assert not any(t.any() for n, t in adapters(model).items() if ".lora_B." in n)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("LoraConfig", {"r": 0}, "method.adapter.r=0 must be a whole number, 1 or greater"),
        ("LoHaConfig", {"r": 2.5}, "method.adapter.r=2.5 must be a whole number"),
        ("LoKrConfig", {"r": True}, "method.adapter.r=True must be a whole number"),
        ("LoraConfig", {"r": "abc"}, "method.adapter.r=abc must be a whole number"),
        ("LoraConfig", {"lora_alpha": 0}, "lora_alpha=0 must be a number above 0"),
        ("LoHaConfig", {"alpha": float("nan")}, "method.adapter.alpha=nan must be a number"),
        ("LoraConfig", {"lora_dropout": 1.0}, r"lora_dropout=1.0 must be a number in \[0, 1\)"),
        ("LoraConfig", {"target_modules": []}, "method.adapter.target_modules=.* must be a list"),
        ("LoraConfig", {"use_dra": True}, "no field use_dra: did you mean method.adapter.use_dora"),
        (
            "LoraConfig",
            {"use_dora": "yes"},
            "method.adapter.use_dora=yes is not usable: PEFT takes",
        ),
        ("LoraConfig", {"bias": "some"}, "method.adapter.bias=some is not usable"),
        ("LoraConfig", {"init_lora_weights": "pissa"}, "pissa changes the base model too"),
        ("LoHConfig", {}, "no configuration class of PEFT: did you mean peft.LoHaConfig"),
        ("PeftConfig", {}, "peft.PeftConfig is no configuration class of PEFT"),
        ("LoraModel", {}, "peft.LoraModel is no configuration class of PEFT"),
        ("AdaLoraConfig", {"total_step": 10}, "needs a loop, inputs or shared weights"),
        ("VeraConfig", {}, "needs a loop, inputs or shared weights"),
        ("PrefixTuningConfig", {"num_virtual_tokens": 3}, "needs a loop, inputs or shared weights"),
    ],
)
def test_bad_settings_name_their_key(target, options, message):
    with pytest.raises(UserError, match=message):
        AdapterSettings(f"peft.{target}", options)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("lora", {"target_modules": ["to_q", "to_kk"]}, "to_kk names no layer of the model"),
        ("lora", {"target_modules": ["q_proj"]}, "none is in the unet"),
        ("lora", {"target_modules": "no.*"}, "does not fit the unet"),
        ("boft", {"boft_block_size": 7}, "does not fit the unet"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_and_leaves_nothing(model, kind, options, message):
    target, own = KINDS[kind]
    settings = AdapterSettings(f"peft.{target}", {"target_modules": TARGETS, **own, **options})
    names = list(model.state_dict())
    with pytest.raises(UserError, match=message):
        check_adapter(model, "unet", settings)
    assert not has_adapter(model.unet) and list(model.state_dict()) == names


def test_a_second_adapter_is_refused(model, lora):
    add_adapter(model, "unet", lora, seed=0)
    with pytest.raises(UserError, match="already"):
        add_adapter(model, "unet", lora, seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_alone_is_saved_and_merges(
    model, prepared, predict, train, tiny_model_dir, tmp_path, kind
):
    """One training, and all that must hold of it."""
    untrained = predict(model)
    names = {name: t.clone() for name, t in model.state_dict().items()}
    settings = settings_of(kind)
    check_adapter(model, "unet", settings)
    assert all(torch.equal(t, names[name]) for name, t in model.state_dict().items())
    weights = prepared("adapter", "adapter", adapter=settings)
    start = {name: t.clone() for name, t in adapters(model).items()}
    train(weights, steps=2)
    changed = {name for name, t in adapters(model).items() if not torch.equal(t, start[name])}
    assert {*weights.parameters()} == {*weights.state()} == start.keys()
    assert changed == start.keys()
    for part in ("unet", "text_encoder"):
        for name, tensor in model.base_state(part).items():
            assert torch.equal(tensor, names[f"{part}.{name}"]), name
    trained = predict(model)
    assert (trained - untrained).abs().max() > 1e-4

    fresh = StableDiffusion.from_pretrained(str(tiny_model_dir))
    save_peft(model, tmp_path)
    assert load_adapters(fresh, tmp_path) == count(tmp_path)
    torch.testing.assert_close(predict(fresh), trained, rtol=0, atol=1e-6)
    network = StableDiffusion.from_pretrained(str(tiny_model_dir)).unet
    theirs = peft.PeftModel.from_pretrained(network, tmp_path / "unet").get_base_model()
    for (name, own), (other, tensor) in zip(
        sorted(fresh.unet.state_dict().items()), sorted(theirs.state_dict().items()), strict=True
    ):
        assert name == other and torch.equal(own, tensor), name

    theirs = StableDiffusion.from_pretrained(str(tiny_model_dir))
    merged = merge_file(theirs, tmp_path)  # `unet/` and `text_encoder/`, as others made it
    assert sum(merged.tensors.values()) == count(tmp_path) and len(merged.tensors) == 2
    torch.testing.assert_close(predict(theirs), trained, rtol=0, atol=2e-5)
    merge_adapters(model)
    once = {name: t.clone() for name, t in model.state_dict().items()}
    assert once.keys() == names.keys()
    torch.testing.assert_close(predict(model), trained, rtol=0, atol=2e-5)
    merge_adapters(model)
    assert all(torch.equal(once[name], t) for name, t in model.state_dict().items())


def count(folder: Path) -> int:
    """The tensors in the files below a folder."""
    return sum(len(load_file(file)) for file in folder.rglob("*.safetensors"))


def test_merged_weight_is_w_plus_scaled_b_a(trained_lora):
    trained = trained_lora.model
    layer = trained.unet.get_submodule(f"{BLOCK}.attn2.to_k")
    before = layer.weight.detach().clone()
    a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
    expected = before + 12.0 / 4 * torch.einsum("or,ri->oi", b, a)
    merge_adapters(trained)
    merged = trained.unet.get_submodule(f"{BLOCK}.attn2.to_k").weight.detach()
    assert (expected - before).abs().max() > 1e-3
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-6)


def test_scaling_runs_from_the_base_model_to_the_adapter(model, trained_lora, predict):
    trained = predict(model)
    scale_adapters(model, 0.0)
    assert torch.equal(predict(model), predict_without(model, predict))
    scale_adapters(model, 1.0)
    assert torch.equal(predict(model), trained)


def predict_without(model, predict):
    fresh = StableDiffusion.from_pretrained(str(model.source.folder))
    return predict(fresh)


def test_an_update_that_is_no_sum_has_no_weight(model):
    add_adapter(model, "unet", settings_of("oft"), seed=0)
    scale_adapters(model, 1.0)
    with pytest.raises(UserError, match="adapter_weight=0.5 cannot be used"):
        scale_adapters(model, 0.5)
    assert settings_of("lokr").is_scalable and not settings_of("dora").is_scalable


def test_merging_a_bf16_base_is_exact(tiny_model_dir, trained_lora, lora):
    trained, other = trained_lora.model, StableDiffusion.from_pretrained(str(tiny_model_dir))
    weights = TrainableWeights(other, 0, lora, frozen_dtype=torch.bfloat16)
    weights.prepare(Phase("adapter", "adapter"))
    weights.load(trained_lora.state())
    merge_adapters(other), merge_adapters(trained)
    for name in ("conv_in.weight", f"{BLOCK}.attn2.to_k.weight"):
        assert torch.equal(other.base_state("unet")[name], trained.base_state("unet")[name])

"""Published LoRA layouts load with their alpha; what does not fit is refused, and loudly."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file, save_file

from dreambooth.errors import UserError
from dreambooth.model.adapters.formats import find_adapter, read_adapters
from dreambooth.model.adapters.lora_files import load_adapters, save_lora
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.model.token_files import find_token

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def fresh(tiny_model_dir) -> StableDiffusion:
    return StableDiffusion.from_pretrained(str(tiny_model_dir))


@pytest.fixture
def saved(trained_lora, tmp_path):
    """A trained adapter of both networks, in diffusers' layout."""
    return save_lora(trained_lora.model, tmp_path / "lora")


def untouched(model: StableDiffusion) -> bool:
    return not any("lora" in name for name in model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_peft_s_own_folder_loads_with_its_alpha(fresh, model, predict, tmp_path, part):
    """Written by peft itself: alpha 8 over rank 2, a scale of 4."""
    targets = {"unet": ["to_q", "to_v"], "text_encoder": ["q_proj", "fc1"]}[part]
    config = LoraConfig(r=2, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = get_peft_model(getattr(model, part), config)
    adapted.save_pretrained(tmp_path / "peft")
    base = predict(fresh)
    count = load_adapters(fresh, tmp_path / "peft")
    assert count == len(load_file(tmp_path / "peft" / "adapter_model.safetensors"))
    assert (predict(fresh) - base).abs().max() > 0.01
    torch.testing.assert_close(predict(fresh), predict(model), rtol=0, atol=1e-5)


def test_kohya_s_layout_loads_with_its_alpha(fresh, saved, predict, tmp_path):
    """`lora_unet_<module with _>.lora_down.weight` and `.alpha`, of one layer, by hand."""
    a, b = torch.randn(2, 32) / 4, torch.randn(32, 2) / 4
    name = "lora_unet_" + LAYER.replace(".", "_")
    kohya = {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b}
    save_file({**kohya, f"{name}.alpha": torch.tensor(6.0)}, tmp_path / "kohya.safetensors")
    weight = fresh.unet.get_submodule(LAYER).weight.detach().clone()
    load_adapters(fresh, tmp_path / "kohya.safetensors")
    layer = fresh.unet.get_submodule(LAYER)
    x = torch.randn(3, 32)
    torch.testing.assert_close(layer(x), x @ (weight + 6 / 2 * b @ a).T, rtol=0, atol=1e-5)


def test_kohya_s_layers_keep_their_own_rank_and_alpha(fresh, tmp_path):
    """Three layers of each network; the last has no alpha, which means its rank."""
    attention = "encoder.layers.0.self_attn"
    layers = {
        "unet": [LAYER, LAYER.replace("to_q", "to_k"), LAYER.replace("to_q", "to_out.0")],
        "text_encoder": [
            f"{attention}.q_proj",
            f"{attention}.out_proj",
            "encoder.layers.1.mlp.fc1",
        ],
    }
    kohya, expected = {}, []
    for network, names in layers.items():
        for name, rank, alpha in zip(names, (2, 3, 2), (6.0, 1.5, None), strict=True):
            layer = fresh.network(network).get_submodule(name)
            wide, narrow = layer.weight.shape
            a, b = torch.randn(rank, narrow) / 4, torch.randn(wide, rank)
            start = "lora_unet_" if network == "unet" else "lora_te_text_model_"
            key = start + name.replace(".", "_")
            kohya |= {f"{key}.lora_down.weight": a, f"{key}.lora_up.weight": b}
            if alpha is not None:
                kohya[f"{key}.alpha"] = torch.tensor(alpha)
            x = torch.randn(3, narrow)
            scale = 1.0 if alpha is None else alpha / rank
            expected.append((network, name, x, layer(x).detach() + x @ (scale * b @ a).T))
    save_file(kohya, tmp_path / "kohya.safetensors")
    assert load_adapters(fresh, tmp_path / "kohya.safetensors") == 12
    for network, name, x, theirs in expected:
        ours = fresh.network(network).get_submodule(name)(x)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (lambda k: k.replace("unet.", "net."), "only 16 of the 80"),
        (lambda k: k.replace("unet.", "").replace("text_encoder.", ""), "only 0 of the 80"),
        (lambda k: k.replace("to_q", "to_qq"), "only 64 of the 80"),
    ],
)
def test_tensors_that_match_nothing_are_refused(fresh, saved, rename, message):
    """diffusers itself loads such files, warns at most, and changes nothing or a part."""
    state = {rename(key): tensor for key, tensor in load_file(saved).items()}
    save_file(state, saved)
    with pytest.raises(UserError, match=message):
        load_adapters(fresh, saved)
    assert untouched(fresh)


def test_sizes_of_another_model_are_refused_in_one_sentence(fresh, saved, capfd):
    state = load_file(saved)
    key = next(key for key in sorted(state) if key.startswith("unet.") and "lora_A" in key)
    save_file({**state, key: torch.zeros(4, 48)}, saved)
    with pytest.raises(UserError, match="only 79 of the 80") as caught:
        load_adapters(fresh, saved)
    assert key in str(caught.value) and "\n" not in str(caught.value)
    assert untouched(fresh) and capfd.readouterr() == ("", "")


def test_an_empty_or_damaged_or_absent_file_is_refused(fresh, tmp_path):
    save_file({}, tmp_path / "empty.safetensors")
    (tmp_path / "bad.safetensors").write_text("not weights")
    for name, message in (
        ("empty.safetensors", "empty"),
        ("bad.safetensors", "bad.safetensors is not a safetensors file"),
        ("absent", "there is no adapter at"),
    ):
        with pytest.raises(UserError, match=message):
            load_adapters(fresh, tmp_path / name)


def test_a_run_is_as_good_as_its_file(tmp_path):
    for file in ("pytorch_lora_weights", "learned_embeds"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / f"{file}.safetensors").touch()
    assert find_adapter(tmp_path) == tmp_path / "model" / "pytorch_lora_weights.safetensors"
    assert find_token(tmp_path) == tmp_path / "model" / "learned_embeds.safetensors"


PISSA = '{"peft_type": "LORA", "lora_alpha": 1, "init_lora_weights": "pissa"}'


@pytest.mark.parametrize("config", [None, "{", "{}", '{"peft_type": "LOHA", "alpha": 1}', PISSA])
def test_peft_without_its_config_is_refused(fresh, tmp_path, config):
    save_file(
        {f"base_model.model.{LAYER}.lora_A.weight": torch.zeros(4, 32)}, tmp_path / "a.safetensors"
    )
    if config is not None:
        (tmp_path / "adapter_config.json").write_text(config)
    is_other = config is not None and "LOHA" in config
    message = "the layers lack .*hada_w1_a" if is_other else "adapter_config.json"
    with pytest.raises(UserError, match=message):
        load_adapters(fresh, tmp_path / "a.safetensors")


def test_the_published_fabric_lora_fits_sd15_whole(fabric):
    """256 tensors for the 128 attention layers of SD 1.5's U-Net, at a scale of 32 / 4."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    file = fabric / "lora" / "adapter_model.safetensors"
    adapter = read_adapters(file, {"unet": unet}, StableDiffusion.layout.pipeline)["unet"]
    published = load_file(file)
    assert len(adapter.state) == len(published) == 256
    assert (adapter.config.r, adapter.config.lora_alpha) == (4, 32)
    inject_adapter_in_model(adapter.config, unet, "a", state_dict=adapter.state)
    layer = unet.get_submodule(LAYER)
    assert layer.scaling == {"a": 8.0}
    assert sum(".lora_" in name for name, _ in unet.named_parameters()) == 256
    key = f"{LAYER}.lora_B.weight"
    assert torch.equal(adapter.state[key], published[f"base_model.model.{key}"])


def test_the_published_fabric_lora_computes_w_plus_8_b_a(fabric, fresh, tmp_path):
    """One of its layers, put where a layer of its size is: the model's own is replaced by it."""
    published = load_file(fabric / "lora" / "adapter_model.safetensors")
    names = {side: f"base_model.model.{LAYER}.lora_{side}.weight" for side in "AB"}
    a, b = published[names["A"]], published[names["B"]]
    block, _, name = LAYER.rpartition(".")
    weight = torch.randn(320, 320)
    linear = torch.nn.Linear(320, 320, bias=False)
    linear.weight.data.copy_(weight)
    setattr(fresh.unet.get_submodule(block), name, linear)
    save_file({names["A"]: a, names["B"]: b}, tmp_path / "adapter_model.safetensors")
    config = json.loads((fabric / "lora" / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert load_adapters(fresh, tmp_path) == 2
    x = torch.randn(2, 320)
    theirs = x @ (weight + 32 / 4 * b @ a).T
    torch.testing.assert_close(fresh.unet.get_submodule(LAYER)(x), theirs, rtol=0, atol=1e-3)
    assert (theirs - x @ weight.T).abs().max() > 0.01


def test_the_published_fabric_lora_is_refused_by_another_model(fabric, fresh):
    with pytest.raises(UserError, match="only 0 of the 256"):
        load_adapters(fresh, fabric / "lora")
    assert untouched(fresh)

"""A quantised base computes nearly the same, trains its adapters alone, and comes back exactly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dreambooth.errors import UserError
from dreambooth.model import quantization
from dreambooth.model.casting import quantize_network
from dreambooth.model.peft_layers import merge_adapters
from dreambooth.model.phases import Phase
from dreambooth.model.quantization import check_quantization, quantize_layers, unquantize_layers

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def kinds(network: nn.Module) -> set[str]:
    """Classes of the layers that compute with a matrix."""
    layers = [m for m in network.modules() if hasattr(m, "in_features")]
    return {type(m).__name__ for m in layers if not hasattr(m, "base_layer")}


@pytest.mark.parametrize(("bits", "error"), [("8bit", 0.02), ("4bit", 0.2)])
def test_adapters_train_over_quantised_layers_which_come_back(
    model, prepared, lora, train, predict, bits, error
):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        exact = predict(model)
    weights = prepared("adapter", "frozen", adapter=lora, quantize=bits)
    with torch.no_grad():
        rounded = predict(model)
    assert 0 < (rounded - exact).norm() < error * exact.norm()
    named = "Linear8bitLt" if bits == "8bit" else "Linear4bit"
    assert kinds(model.unet) == {named, "Linear"}
    plain = {n for n, m in model.unet.named_modules() if type(m) is nn.Linear}
    assert all(".lora_" in name or "emb" in name for name in plain)
    assert kinds(model.text_encoder) == {"Linear"}
    start = {name: p.detach().clone() for name, p in weights.parameters().items()}
    frozen = {n: t.clone() for n, t in model.state_dict().items() if ".lora_" not in n}
    train(weights, steps=2)  # B first, then A
    assert all(p.dtype == torch.float32 for p in weights.parameters().values())
    assert not any(torch.equal(start[n], p) for n, p in weights.parameters().items())
    assert all(torch.equal(frozen[n], t) for n, t in model.state_dict().items() if n in frozen)
    weights.unquantize()
    assert not model.masters and kinds(model.unet) == {"Linear"}
    after = {n.replace(".base_layer.", "."): t for n, t in model.state_dict().items()}
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_later_phase_and_a_merge_have_the_exact_weights(model, prepared, lora, train):
    before = model.unet.state_dict()[f"{LAYER}.weight"].clone()
    weights = prepared("frozen", "adapter", adapter=lora, quantize="4bit")  # then the denoiser too
    weights.prepare(Phase("adapter", "frozen"))
    train(weights, steps=2)
    factors = {n: p.detach() for n, p in weights.parameters().items() if f"unet.{LAYER}." in n}
    a, b = (next(p for n, p in factors.items() if f"lora_{x}." in n) for x in "AB")
    merge_adapters(model)
    merged = model.unet.state_dict()[f"{LAYER}.weight"]
    assert torch.allclose(merged, before + 12 / 4 * b @ a, atol=1e-7)


def test_layers_keep_their_bias_mode_and_place():
    network = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 8, bias=False)).eval()
    bias = network[0].bias
    quantize_layers(network, "4bit", without={"1.weight"})
    assert [type(layer).__name__ for layer in network] == ["Linear4bit", "Linear"]
    assert network[0].bias is bias and not network[0].training
    assert unquantize_layers(network) and not unquantize_layers(network)
    assert type(network[0]) is nn.Linear and network[0].weight.shape == (32, 64)
    assert network[0].bias is bias and not network[0].training


def test_layers_are_quantised_where_the_model_computes(model, monkeypatch):
    """Not on the CPU where a network waits for its turn: its own layer alone reaches the GPU."""
    asked = []

    def note(layer: nn.Linear, bits: str, device: torch.device) -> nn.Linear:
        asked.append((bits, device))
        return layer

    monkeypatch.setattr(quantization, "_quantized", note)
    model.offloads_from = torch.device("cpu", 0)  # stands for a GPU
    quantize_network(model, "unet", "8bit")
    assert set(asked) == {("8bit", torch.device("cpu", 0))}


def test_a_device_that_cannot_is_refused(monkeypatch):
    check_quantization("8bit", "cpu"), check_quantization("4bit", "cpu")

    def fail(*_):
        raise RuntimeError("no kernel for this device")

    monkeypatch.setattr(quantization, "quantize_layers", fail)
    with pytest.raises(UserError, match=r"4bit cannot be used on cpu.*no kernel.*quantize=null"):
        check_quantization("4bit", "cpu")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method=full", "method=full trains weights of the denoiser, which must be frozen"),
        ("method=custom_diffusion", "custom_diffusion trains weights of the denoiser"),
        ("method=lokr", "LoKrConfig needs the exact weights"),
        ("method=dora", "under DoRA, where model.quantize=4bit works"),
    ],
)
def test_what_must_train_is_not_quantised(spine, tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        spine.spec(tmp_path, "model.quantize=8bit", override)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fixture", "method", "bits"),
    [
        ("spine", "dora", "4bit"),
        pytest.param("sd3_spine", "lora", "8bit", marks=pytest.mark.thorough),
        pytest.param("sd3_spine", "lora", "4bit", marks=pytest.mark.thorough),
    ],
)
def test_a_quantised_run_leaves_what_its_consumer_draws(request, tmp_path, fixture, method, bits):
    more = (f"method={method}", f"model.quantize={bits}", "export.verify=auto", "max_steps=1")
    run = request.getfixturevalue(fixture).run(tmp_path, *more, "ppl=false")
    record = (run / "run.json").read_text()
    assert '"error": null' in record and f'"quantize": "{bits}"' in record

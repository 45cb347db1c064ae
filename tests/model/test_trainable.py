"""A phase changes exactly what it declares; its state goes out and comes back."""

from __future__ import annotations

import pytest
import torch

from dreambooth.errors import UserError
from dreambooth.model.phases import Kind, Phase
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.model.textual_inversion import TokenSettings, token_ids
from dreambooth.model.trainable import TrainableWeights

TOKEN = TokenSettings("<new>", "dog", 2)
KEY_AND_VALUE = ("*.attn2.to_k.weight", "*.attn2.to_v.weight")  # Custom Diffusion's
PHASES = [
    ("full", "frozen"),
    ("frozen", "full"),
    ("full", "full"),
    ("adapter", "frozen"),
    ("frozen", "adapter"),
    ("adapter", "adapter"),
    ("full", "adapter"),
    ("frozen", "token"),
    ("full", "token"),
    ("adapter", "token"),
    (KEY_AND_VALUE, "token"),
    ("frozen", ("*.self_attn.q_proj.bias",)),
]
MATRIX = "text_encoder.embeddings.token_embedding.weight"


def snapshot(model: StableDiffusion) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def declared(names: list[str], part: str, kind: Kind) -> set[str]:
    """Names of `part` that a phase of `kind` says it trains, from the names alone."""
    own = {name for name in names if name.startswith(f"{part}.")}
    adapters = {name for name in own if ".lora_" in name}
    if isinstance(kind, tuple):
        endings = tuple(pattern.removeprefix("*") for pattern in kind)
        return {name for name in own if name.endswith(endings)}
    return {"frozen": set(), "full": own - adapters, "adapter": adapters, "token": {MATRIX}}[kind]


@pytest.mark.slow
@pytest.mark.parametrize(("unet", "text_encoder"), PHASES)
def test_one_step_changes_exactly_what_is_declared(
    model, prepared, lora, train, unet, text_encoder
):
    weights = prepared(unet, text_encoder, adapter=lora, token=TOKEN)
    before = snapshot(model)
    train(weights, steps=2)  # B first, then A
    after = snapshot(model)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    names = list(after)
    expected = declared(names, "unet", unet) | declared(names, "text_encoder", text_encoder)
    own = {name.replace(".base_layer.", ".") for name in expected}
    assert changed == expected
    assert list(weights.parameters()) == sorted(own)
    assert {p.dtype for p in weights.parameters().values()} == {torch.float32}


@pytest.mark.parametrize(("unet", "text_encoder"), PHASES)
def test_modes_follow_the_phase(model, prepared, lora, unet, text_encoder):
    model.train()
    prepared(unet, text_encoder, adapter=lora, token=TOKEN)
    assert not model.vae.training
    assert model.unet.training == (unet != "frozen")
    assert model.text_encoder.training == (text_encoder != "frozen")
    assert not any(p.requires_grad for p in model.vae.parameters())


@pytest.mark.parametrize(
    ("phase", "needed"),
    [(("adapter", "frozen"), "method.adapter"), (("frozen", "token"), "method.token")],
)
def test_missing_settings_are_refused(prepared, phase, needed):
    with pytest.raises(UserError, match=f"needs {needed}"):
        prepared(*phase)


def test_frozen_parts_are_cast_and_come_back_bit_for_bit(model, prepared, lora):
    before = snapshot(model)
    weights = prepared("adapter", "frozen", adapter=lora, frozen_dtype=torch.bfloat16)
    dtypes = {name: p.dtype for name, p in model.named_parameters()}
    for name, dtype in dtypes.items():
        assert dtype == (torch.float32 if ".lora_" in name else torch.bfloat16), name
    weights.prepare(Phase("full", "full"))
    after = {n.replace(".base_layer.", "."): t for n, t in model.state_dict().items()}
    for name, tensor in before.items():
        expected = tensor.bfloat16() if name.startswith("vae.") else tensor
        assert torch.equal(after[name], expected), name


def test_exact_weights_are_kept_without_a_second_copy(model, prepared, lora):
    before = {name: p.data_ptr() for name, p in model.named_parameters()}
    prepared("adapter", "frozen", adapter=lora, frozen_dtype=torch.bfloat16)
    for network, master in model.masters.items():
        assert master and all(t.data_ptr() == before[f"{network}.{n}"] for n, t in master.items())


def test_a_bf16_base_trains_its_float32_adapters(model, prepared, lora, train):
    weights = prepared("adapter", "frozen", adapter=lora, frozen_dtype=torch.bfloat16)
    before = snapshot(model)
    train(weights, steps=2)
    after = snapshot(model)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {name for name in after if ".lora_" in name}


@pytest.mark.slow
@pytest.mark.parametrize(("unet", "text_encoder"), PHASES)
def test_state_round_trip_gives_the_same_prediction(
    model, prepared, tiny_model_dir, lora, predict, train, unet, text_encoder
):
    weights = prepared(unet, text_encoder, adapter=lora, token=TOKEN)
    train(weights, steps=2)
    state = {name: tensor.clone() for name, tensor in weights.state().items()}
    fresh = StableDiffusion.from_pretrained(str(tiny_model_dir))
    again = TrainableWeights(fresh, 1, lora, TOKEN)
    again.prepare(Phase(unet, text_encoder))
    prompts = ("a <new> dog", "a cat")
    assert not torch.equal(predict(fresh, prompts), predict(model, prompts))
    again.load(state)
    assert torch.equal(predict(fresh, prompts), predict(model, prompts))


def test_state_of_a_token_phase_is_its_rows(prepared):
    state = prepared("frozen", "token", token=TOKEN).state()
    assert {name: tuple(t.shape) for name, t in state.items()} == {"token.<new>": (2, 32)}


def test_a_refused_state_changes_nothing(model, prepared, lora, predict):
    weights = prepared("adapter", "frozen", adapter=lora)
    state = {name: tensor + 1 for name, tensor in weights.state().items()}
    before = predict(model)
    first, last = sorted(state)[0], sorted(state)[-1]
    missing = {name: tensor for name, tensor in state.items() if name != last}
    wrong = {**state, last: state[last][:, :1]}
    for bad, named in (
        (missing, f"lacks 1 tensors, {last}"),
        ({**state, "unet.extra": state[first]}, "also holds 1 tensors, unet.extra"),
        (wrong, last),
    ):
        with pytest.raises(UserError) as caught:
            weights.load(bad)
        assert named in str(caught.value)
    assert torch.equal(predict(model), before)


def test_later_phases_keep_what_earlier_ones_trained(model, tiny_model_dir, predict, train):
    """Textual inversion, then the U-Net with a bf16 text encoder: both are in the state."""
    phases = [Phase("frozen", "token"), Phase("full", "frozen")]
    bf16 = {"token": TOKEN, "frozen_dtype": torch.bfloat16}
    weights = TrainableWeights(model, 0, **bf16)
    for phase in phases:
        weights.prepare(phase)
        train(weights)
    state = weights.state()
    names = [n for n in model.state_dict() if n.startswith("unet.")]
    assert list(state) == sorted(["token.<new>", *names])
    fresh = StableDiffusion.from_pretrained(str(tiny_model_dir))
    again = TrainableWeights(fresh, 0, **bf16)
    for phase in phases:
        again.prepare(phase)
    again.load(state)
    assert torch.equal(predict(fresh, ("a <new>", "a cat")), predict(model, ("a <new>", "a cat")))
    for part in ("unet", "text_encoder"):
        fresh.restore(part), model.restore(part)
        for name, tensor in model.base_state(part).items():
            assert torch.equal(fresh.base_state(part)[name], tensor), name


def test_a_later_phase_lifts_the_mask_of_a_token_phase(model, prepared, train):
    weights = prepared("frozen", "token", token=TOKEN)
    train(weights)
    weights.prepare(Phase("frozen", "full"))
    before = snapshot(model)[MATRIX]
    train(weights)
    dog = model.tokenizer.convert_tokens_to_ids("dog</w>")
    assert not torch.equal(snapshot(model)[MATRIX][dog], before[dog])


def test_only_new_rows_get_a_gradient(model, prepared, predict):
    weights = prepared("frozen", "token", token=TOKEN)
    predict(model, ("a <new> dog", "a cat")).sum().backward()
    gradient = weights.parameters()[MATRIX].grad
    rows = set(gradient.abs().sum(1).nonzero().flatten().tolist())
    assert rows == set(token_ids(model, TOKEN, "text_encoder"))

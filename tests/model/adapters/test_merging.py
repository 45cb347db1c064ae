"""What merging computes, beside a model's own adapter too, and what is refused."""

from __future__ import annotations

import pytest
import torch
from peft import LoHaConfig
from safetensors.torch import save_file

from dreambooth.errors import UserError
from dreambooth.model.adapters.additions import AddedAdapter, Additions
from dreambooth.model.adapters.merging import merge, merge_file
from dreambooth.model.adapters.peft_kinds import Adapter
from dreambooth.model.peft_layers import add_adapter

LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.0.resnets.0.conv1"


def lora_file(folder, scale=1.0):
    """Two layers, a linear one of rank 2 and a convolution of rank 3, at alpha 6 and 3."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return scale * torch.randn(*shape, generator=generator) / 4

    state = {}
    for layer, alpha, a, b in (
        (LINEAR, 6.0, draw(2, 32), draw(32, 2)),
        (CONV, 3.0, draw(3, 32, 3, 3), draw(32, 3, 1, 1)),
    ):
        name = f"lora_unet_{layer.replace('.', '_')}"
        state |= {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b}
        state[f"{name}.alpha"] = torch.tensor(alpha)
    save_file(state, folder / "kohya.safetensors")
    down, up = (
        state[f"lora_unet_{LINEAR.replace('.', '_')}.lora_{s}.weight"] for s in ("down", "up")
    )
    return folder / "kohya.safetensors", 6 / 2 * up @ down


@pytest.mark.parametrize("has_own", [False, True])
def test_weights_become_w_plus_weight_times_scale_b_a(model, lora, tmp_path, has_own):
    """A model's own adapter stays as it is, and so do all other weights."""
    file, delta = lora_file(tmp_path)
    if has_own:
        add_adapter(model, "unet", lora, seed=0)
    names = list(model.state_dict())
    before = {name: tensor.clone() for name, tensor in model.base_state("unet").items()}
    merged = merge_file(model, file, 0.5)
    after = model.base_state("unet")
    assert names == list(model.state_dict())
    torch.testing.assert_close(after[f"{LINEAR}.weight"], before[f"{LINEAR}.weight"] + delta / 2)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {f"{LINEAR}.weight", f"{CONV}.weight"}
    assert str(merged) == f"{file}: 4 tensors in the unet, rank 2 to 3, alpha 3 to 6, weight 0.5."
    merge_file(model, file, -0.5)
    for name in changed:
        torch.testing.assert_close(after[name], before[name])


def test_adapters_of_other_kinds_are_merged_by_peft(model):
    """A Hadamard product, of which PEFT's own layer knows the update."""
    generator = torch.Generator().manual_seed(0)
    state = {
        f"{LINEAR}.hada_{name}": torch.randn(size, generator=generator)
        for name, size in (
            ("w1_a", (32, 2)),
            ("w1_b", (2, 32)),
            ("w2_a", (32, 2)),
            ("w2_b", (2, 32)),
        )
    }
    parts = [state[f"{LINEAR}.hada_{n}_a"] @ state[f"{LINEAR}.hada_{n}_b"] for n in ("w1", "w2")]
    weight = model.unet.get_submodule(LINEAR).weight
    expected = weight + 0.25 * (4 / 2) * parts[0] * parts[1]
    merge(model.unet, Adapter(LoHaConfig(r=2, alpha=4, target_modules=[LINEAR]), state), 0.25)
    torch.testing.assert_close(weight, expected)


def test_values_that_are_not_finite_are_refused(model, tmp_path):
    file, _ = lora_file(tmp_path, float("nan"))
    before = model.unet.get_submodule(LINEAR).weight.clone()
    with pytest.raises(UserError, match="not finite"):
        merge_file(model, file)
    assert torch.equal(model.unet.get_submodule(LINEAR).weight, before)


def test_what_a_command_line_gives_is_read_with_its_weight(tmp_path):
    file, _ = lora_file(tmp_path)
    assert AddedAdapter.parse(str(file)) == AddedAdapter(file, 1.0)
    assert AddedAdapter.parse(f"{file}:-0.5") == AddedAdapter(file, -0.5)
    odd = file.rename(tmp_path / "a:b.safetensors")
    assert AddedAdapter.parse(str(odd)) == AddedAdapter(odd, 1.0)
    for end in ("much", "nan"):
        with pytest.raises(UserError, match=f"the weight {end} of .* is no number"):
            AddedAdapter.parse(f"{odd}:{end}")


def test_embeddings_join_the_vocabulary_and_may_be_renamed(model, tmp_path):
    save_file({"<x>": torch.ones(32)}, tmp_path / "x.safetensors")
    save_file({"emb_params": torch.zeros(2, 32)}, tmp_path / "zzz.safetensors")
    texts = [str(tmp_path / "x.safetensors"), f"{tmp_path / 'x.safetensors'}:<y>"]
    added = Additions.parse([], [*texts, str(tmp_path / "zzz.safetensors")])
    lines = added.put_into(model)
    assert [line.partition(": ")[2] for line in lines] == [
        "token <x>, 1 vector.",
        "token <y>, 1 vector.",
        "token zzz, 2 vectors.",
    ]
    assert {"<x>", "<y>", "zzz", "zzz_1"} <= model.tokenizer.get_added_vocab().keys()
    assert [entry["token"] for entry in added.record["embeddings"]] == ["<x>", "<y>", "zzz"]
    with pytest.raises(UserError, match="two files hold the token <x>"):
        Additions.parse([], [texts[0]] * 2)
    with pytest.raises(UserError, match="knows dog already.*:<dog-1>"):
        Additions.parse([], [f"{texts[0]}:dog"]).put_into(model)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"<x>": torch.zeros(32)}, "belongs into embeddings"),
        ({f"lora_unet_x.oft_blocks{i}": torch.zeros(2) for i in range(4)}, "a LoKr can be read"),
        ({f"model.{i}.weight": torch.zeros(1) for i in range(600)}, "whole weights"),
    ],
)
def test_a_file_that_is_no_adapter_is_named(model, tmp_path, state, words):
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=words):
        merge_file(model, tmp_path / "a.safetensors")

"""LoHa and LoKr as LyCORIS writes them: merged by the paper's formulas, or refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from dreambooth.errors import UserError
from dreambooth.model.adapters.lora_files import load_adapters
from dreambooth.model.adapters.merging import merge_file

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
LINEAR, WHOLE, CONV = f"{BLOCK}.to_q", f"{BLOCK}.to_v", "down_blocks.0.resnets.0.conv1"
TEXT = "encoder.layers.0.mlp.fc1"  # [64,32]; the linear layers are [32,32], CONV [32,32,3,3]


def kohya(network: str, layer: str) -> str:
    start = "lora_unet" if network == "unet" else "lora_te_text_model"
    return f"{start}_{layer.replace('.', '_')}"


class Draws:
    """Tensors of a seed, and the file that collects them."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.state: dict[str, torch.Tensor] = {}

    def add(self, network, layer, alpha, **sizes):
        own = {n: torch.randn(s, generator=self.generator) / 4 for n, s in sizes.items()}
        self.state |= {f"{kohya(network, layer)}.{name}": tensor for name, tensor in own.items()}
        if alpha is not None:
            self.state[f"{kohya(network, layer)}.alpha"] = torch.tensor(float(alpha))
        return own.values()


def tucker(core, a, b):
    return torch.einsum("ijkl,ip,jr->prkl", core, a, b)


def loha(draws: Draws):
    """A linear layer of rank 2, a convolution in Tucker's form of rank 3, and one of CLIP's."""

    def pair(rank, out, inner):
        sizes = {"a": (out, rank), "b": (rank, inner)}
        return {f"hada_w{i}_{side}": size for i in (1, 2) for side, size in sizes.items()}

    a, b, c, d = draws.add("unet", LINEAR, 6, **pair(2, 32, 32))
    deltas = {("unet", LINEAR): 6 / 2 * (a @ b) * (c @ d)}
    sides = {f"hada_w{i}_{side}": (3, 32) for i in (1, 2) for side in "ab"}
    cores = {f"hada_t{i}": (3, 3, 3, 3) for i in (1, 2)}
    a, b, c, d, s, t = draws.add("unet", CONV, 1.5, **sides, **cores)
    deltas["unet", CONV] = 1.5 / 3 * tucker(s, a, b) * tucker(t, c, d)
    a, b, c, d = draws.add("text_encoder", TEXT, None, **pair(2, 64, 32))
    deltas["text_encoder", TEXT] = (a @ b) * (c @ d)
    return deltas


def lokr(draws: Draws):
    """Factors of 4 and 8: a small one beside two of rank 2, two whole ones, and a convolution."""
    second = {"lokr_w2_a": (8, 2), "lokr_w2_b": (2, 8)}
    w, a, b = draws.add("unet", LINEAR, 6, lokr_w1=(4, 4), **second)
    deltas = {("unet", LINEAR): 6 / 2 * torch.kron(w, a @ b)}
    w, v = draws.add("unet", WHOLE, 9, lokr_w1=(4, 4), lokr_w2=(8, 8))
    deltas["unet", WHOLE] = torch.kron(w, v)  # alpha counts where there is a rank alone
    flat = {"lokr_w2_a": (8, 2), "lokr_w2_b": (2, 8 * 9)}
    w, a, b = draws.add("unet", CONV, 1, lokr_w1=(4, 4), **flat)
    deltas["unet", CONV] = 1 / 2 * torch.kron(w[..., None, None], (a @ b).reshape(8, 8, 3, 3))
    wide = {"lokr_w2_a": (16, 2), "lokr_w2_b": (2, 8)}
    w, a, b = draws.add("text_encoder", TEXT, None, lokr_w1=(4, 4), **wide)
    deltas["text_encoder", TEXT] = torch.kron(w, a @ b)
    return deltas


@pytest.mark.parametrize(
    ("make", "kind", "dtype", "tolerance"),
    [(loha, "LOHA", torch.float16, 1e-3), (lokr, "LOKR", torch.float32, 1e-6)],
)
def test_weights_become_w_plus_the_formula_of_the_paper(
    model, tmp_path, make, kind, dtype, tolerance
):
    draws, file = Draws(), tmp_path / "theirs.safetensors"
    deltas = make(draws)
    save_file({name: tensor.to(dtype) for name, tensor in draws.state.items()}, file)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = merge_file(model, file, 0.5)
    assert merged.kinds == (kind,) and set(merged.tensors) == {"unet", "text_encoder"}
    after = model.state_dict()
    names = {f"{network}.{layer}.weight": delta for (network, layer), delta in deltas.items()}
    assert {n for n in after if not torch.equal(after[n], before[n])} == names.keys()
    for name, delta in names.items():
        expected = before[name] + 0.5 * delta
        assert (expected - before[name]).abs().max() > 0.01
        torch.testing.assert_close(after[name], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda k, t: (k.replace("to_q", "to_qq"), t), "fits no layer of the model"),
        (lambda k, t: (k.replace("to_q.lokr_w2_b", "to_q.lora_up"), t), "beside each other"),
        (lambda k, t: (k.replace("to_q.lokr_w1", "to_q.lokr_w9"), t), "has no lokr_w1 for"),
        (lambda k, t: (k, t[:2].clone() if "to_q.lokr_w1" in k else t), "factors of their own"),
        (lambda k, t: (k, t[:, :3].clone() if "to_q.lokr_w2_b" in k else t), "no adapter of this"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(model, tmp_path, change, message):
    draws, file = Draws(), tmp_path / "theirs.safetensors"
    lokr(draws)
    save_file(dict(change(name, tensor) for name, tensor in draws.state.items()), file)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for load in (merge_file, load_adapters):
        with pytest.raises(UserError, match=message):
            load(model, file)
        after = model.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())

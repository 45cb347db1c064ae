"""Adapters of any kind of PEFT's, in a folder for each network: loaded, merged, and refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreambooth.errors import UserError
from dreambooth.model.adapter_settings import AdapterSettings
from dreambooth.model.adapters.additions import AddedAdapter
from dreambooth.model.adapters.formats import find_adapter
from dreambooth.model.adapters.lora_files import load_adapters
from dreambooth.model.adapters.merging import merge_file
from dreambooth.model.adapters.peft_files import save_peft
from dreambooth.model.peft_layers import add_adapter, has_adapter
from dreambooth.model.stable_diffusion import StableDiffusion

LOHA = AdapterSettings("peft.LoHaConfig", {"r": 2, "alpha": 8, "target_modules": ["to_q", "fc1"]})


@pytest.fixture
def folder(model, tmp_path):
    """A LoHa of both networks in the folder of a run, `model/unet` and `model/text_encoder`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for network in ("unet", "text_encoder"):
            add_adapter(model, network, LOHA, seed=0)
        for name, parameter in model.named_parameters():
            if ".hada_" in name:
                parameter.data.normal_()
    save_peft(model, tmp_path / "toy/model")
    return tmp_path / "toy/model"


@pytest.fixture
def fresh(tiny_model_dir) -> StableDiffusion:
    return StableDiffusion.from_pretrained(str(tiny_model_dir))


def test_a_folder_of_networks_is_one_adapter(folder, fresh, model, predict):
    assert find_adapter(folder) == find_adapter(folder.parent) == folder
    added = AddedAdapter.parse(f"{folder.parent}:0.5")
    before, record = fresh.unet.state_dict(), added.record
    before = {name: tensor.clone() for name, tensor in before.items()}
    assert (record["name"], record["weight"]) == ("toy", 0.5)
    text = str(merge_file(fresh, added.file, 0.5))
    assert text.endswith("in the text_encoder, LOHA, rank 2, alpha 8, weight 0.5.")
    merge_file(fresh, added.file, 0.5)
    torch.testing.assert_close(predict(fresh), predict(model), rtol=1e-4, atol=1e-4)
    changed = [n for n, t in fresh.unet.state_dict().items() if not torch.equal(t, before[n])]
    assert changed and all(name.endswith("to_q.weight") for name in changed)
    config = folder / "unet/adapter_config.json"
    config.write_text(config.read_text().replace('"alpha": 8', '"alpha": 4'))
    assert AddedAdapter.parse(str(folder)).record["sha256"] != record["sha256"]


def rewrite(folder, change, network="text_encoder"):
    file = folder / network / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


def reconfigure(folder, **fields):
    file = folder / "text_encoder/adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def without_one(state):
    return {name: state[name] for name in sorted(state)[1:]}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda at: (at / "unet").rename(at / "dog"), "adapter in dog/, and the model has no net"),
        (lambda at: rewrite(at, without_one), "no adapter of this .*the layers lack"),
        (
            lambda at: rewrite(at, lambda s: {k.replace("fc1", "fc9"): v for k, v in s.items()}),
            "only 0 of the 8 tensors .* fit the model",
        ),
        (
            lambda at: rewrite(at, lambda s: {k: v[..., :1].clone() for k, v in s.items()}),
            "no adapter of this",
        ),
        (lambda at: reconfigure(at, peft_type="NEW"), "is a NEW adapter .* cannot read"),
        (lambda at: reconfigure(at, peft_type="VERA"), "is a VERA adapter .* needs inputs or"),
        (
            lambda at: (at / "unet/adapter_model.safetensors").write_bytes(b"x"),
            "is not a safetensors file",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_changes_nothing(folder, fresh, damage, message):
    damage(folder)
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    for load in (load_adapters, merge_file):
        with pytest.raises(UserError, match=message) as caught:
            load(fresh, folder)
        assert "\n" not in str(caught.value)
        assert not has_adapter(fresh)
        after = fresh.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())

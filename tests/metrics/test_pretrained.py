"""Networks read from a folder or the model hub, and the one sentence where that fails."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

from dreambooth.errors import UserError
from dreambooth.metrics import pretrained
from dreambooth.metrics.encoders import ENCODERS, load_encoder


@pytest.mark.parametrize("name", [n for n, s in ENCODERS.items() if s.repo])
def test_unreachable_hub_is_one_sentence(name, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as error:
        load_encoder(name, encoders_dir=tmp_path)
    text = str(error.value)
    source = ENCODERS[name]
    for word in (source.repo, f"DIR/{source.folder}", "evaluation.encoders_dir=DIR", "HF_HUB"):
        assert word in text
    assert "\n" not in text


def test_hub_is_asked_once_when_it_is_down(monkeypatch):
    asked = []

    def read(where, network, with_tokenizer, local_only=True):
        asked.append(local_only)
        raise OSError("not cached")

    def model_info(self, repo, timeout):
        raise ConnectionError("Name or service not known\nat line 2")

    monkeypatch.setattr(pretrained, "read", read)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    with pytest.raises(UserError, match="Name or service not known"):
        load_encoder("clip_b32")
    assert asked == [True]


def test_what_the_hub_has_is_downloaded(monkeypatch):
    asked = []

    def read(where, network, with_tokenizer, local_only=True):
        asked.append((where, network, with_tokenizer, local_only))
        if local_only:
            raise OSError("not cached")
        return "the network"

    monkeypatch.setattr(pretrained, "read", read)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, repo, timeout: None)
    assert pretrained.read_from_hub("openai/clip", "CLIPModel", True) == "the network"
    assert asked == [("openai/clip", "CLIPModel", True, local) for local in (True, False)]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="not cached"):
        pretrained.read_from_hub("openai/clip", "CLIPModel", True)
    assert len(asked) == 3


def test_a_repository_without_safetensors_has_its_tensors_read(encoders_dir, tmp_path):
    folder = shutil.copytree(encoders_dir / "dino", tmp_path / "dino")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    read, known = (load_encoder("pocket_dino", encoders_dir=d) for d in (tmp_path, encoders_dir))
    assert read.weights_hash == known.weights_hash
    torch.save({**state, "code": Path()}, folder / "pytorch_model.bin")  # more than tensors
    with pytest.raises(UserError, match="cannot be loaded"):
        load_encoder("pocket_dino", encoders_dir=tmp_path)

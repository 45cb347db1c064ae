"""The table of encoders and the loader's refusals."""

from __future__ import annotations

import shutil

import pytest
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTModel

from dreambooth.errors import UserError
from dreambooth.metrics import encoders
from dreambooth.metrics.encoders import ENCODERS, load_encoder


def test_table_names_every_variant_once():
    parts = [(s.kind, s.backbone) for s in ENCODERS.values()]
    assert len(set(parts)) == len(parts)
    assert parts == [
        ("dino", "vits16.hub"),
        ("dino", "vits16.hf"),
        ("dino", "vits8.hub"),
        ("dino", "v2_vits14.hf"),
        ("dino", "v2_vitb14.hf"),
        ("clip", "b32"),
        ("clip", "b16"),
        ("clip", "l14"),
        ("dino", "pocket"),
        ("clip", "pocket"),
    ]


def test_weights_of_another_model_are_refused(encoders_dir, tmp_path):
    with pytest.raises(UserError, match="no encoder dino_vitb16"):
        load_encoder("dino_vitb16")
    config = ViTConfig(hidden_size=384, num_attention_heads=6, num_hidden_layers=1, patch_size=8)
    config.intermediate_size = 64
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "dino_vits16")
    with pytest.raises(UserError, match="patch 8, but vits16.hub has width 384 and patch 16"):
        load_encoder("dino_vits16", encoders_dir=tmp_path)
    shutil.copytree(encoders_dir / "dino", tmp_path / "dino")
    weights = tmp_path / "dino" / "model.safetensors"
    state = load_file(weights)
    state.pop("layernorm.weight")
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 tensors of pocket_dino, layernorm.weight"):
        load_encoder("pocket_dino", encoders_dir=tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="cannot be loaded from .*model.safetensors"):
        load_encoder("pocket_dino", encoders_dir=tmp_path)


def test_missing_pocket_encoder_names_its_folders(monkeypatch, tmp_path):
    monkeypatch.setattr(encoders, "POCKET_WEIGHTS", tmp_path / "package")
    with pytest.raises(UserError, match="no config.json in .*package"):
        load_encoder("pocket_dino", encoders_dir=tmp_path)

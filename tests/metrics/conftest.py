"""Pictures and encoders of a seed: random weights in real configurations."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """`picture(seed, width, height)`: a smooth random picture."""

    def make(seed: int, width: int = 48, height: int = 40) -> Image.Image:
        grid = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        return Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)

    return make


@pytest.fixture(scope="session")
def tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with one token a letter: no merges, the real special tokens."""
    letters = list(string.ascii_lowercase + string.digits + "<>,.")
    tokens = letters + [f"{letter}</w>" for letter in letters]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])


@pytest.fixture(scope="session")
def vits16() -> ViTModel:
    """ViT-S/16 as DINO has it: width 384, 12 blocks, 6 heads; LayerNorms moved off the identity."""
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    model = ViTModel(config, add_pooling_layer=False).eval()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    model.layernorm.weight.data.uniform_(0.2, 2)  # or skipping the last norm would not show
    return model


@pytest.fixture(scope="session")
def encoders_dir(tmp_path_factory, vits16, tokenizer) -> Path:
    """dino_vits16 at full size, and the embedded encoders `dino` and `clip` at 64 pixels."""
    root = tmp_path_factory.mktemp("encoders")
    vits16.save_pretrained(root / "dino_vits16")
    torch.manual_seed(1)
    small = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    small |= {"intermediate_size": 64}
    vit = ViTConfig(image_size=64, patch_size=16, **small)
    ViTModel(vit, add_pooling_layer=False).save_pretrained(root / "dino")
    text = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
    text |= {"eos_token_id": tokenizer.eos_token_id, "max_position_embeddings": 77}
    config = CLIPConfig(
        text_config={**small, **text},
        vision_config={**small, "image_size": 64, "patch_size": 16},
        projection_dim=24,
    )
    CLIPModel(config).save_pretrained(root / "clip")
    tokenizer.save_pretrained(root / "clip")
    for folder in ("dino", "clip"):
        (root / folder / "preprocessor_config.json").write_text(
            '{"size": {"height": 64, "width": 64}, "resample": 3, '
            '"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
        )
    return root

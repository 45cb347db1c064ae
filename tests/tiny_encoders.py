"""Encoders of a seed that fit the real names: small, random, saved as transformers saves them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from dreambooth.pocket.pretraining.tokenizer import build_tokenizer

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 64}


def pocket_encoders(root: Path) -> Path:
    """`dino` and `clip` at 32 pixels, as the embedded model has them."""
    _save(root / "dino", root / "clip", {**SMALL, "image_size": 32, "patch_size": 16}, 32)
    for folder in ("dino", "clip"):
        (root / folder / "preprocessor_config.json").write_text(
            '{"size": {"height": 32, "width": 32}, "resample": 3, '
            '"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
        )
    return root


def canonical_encoders(root: Path) -> Path:
    """One layer at the widths and patches of DINO ViT-S/16 and CLIP ViT-B/32."""
    one = {"num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 6}
    dino = {**one, "hidden_size": 384, "image_size": 224, "patch_size": 16}
    _save(root / "dino_vits16", None, dino, 0)
    _save(None, root / "clip_b32", {**dino, "hidden_size": 768, "patch_size": 32}, 16)
    return root


def _save(dino: Path | None, clip: Path | None, vision: dict, projection: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        if dino is not None:
            ViTModel(ViTConfig(**vision), add_pooling_layer=False).save_pretrained(dino)
        if clip is not None:
            tokenizer = build_tokenizer("a sks dog red".split())
            text = {"vocab_size": len(tokenizer), "max_position_embeddings": 77}
            text |= {"bos_token_id": tokenizer.bos_token_id}
            text |= {"eos_token_id": tokenizer.eos_token_id}
            config = CLIPConfig(
                text_config={**SMALL, **text}, vision_config=vision, projection_dim=projection
            )
            CLIPModel(config).save_pretrained(clip)
            tokenizer.save_pretrained(clip)

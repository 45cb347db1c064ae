"""What the flow-matching model takes over from the embedded U-Net model, in SD3's form."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import CLIPModel, CLIPTextModel, CLIPTextModelWithProjection


def text_encoders(folder: Path) -> tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection]:
    """Load the two text encoders from the embedded U-Net model's `folder`, in float32, frozen.

    The first is its text encoder, with an identity as the projection of its pooled output, which
    Stable Diffusion has not; the second is the text tower of its metrics' CLIP.
    """
    own = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    clip = CLIPModel.from_pretrained(folder / "encoders" / "clip", dtype=torch.float32)
    identity = torch.eye(own.config.hidden_size)
    return _projected(own, identity), _projected(clip.text_model, clip.text_projection.weight)


def _projected(tower: nn.Module, projection: torch.Tensor) -> CLIPTextModelWithProjection:
    """Join a text tower with the projection `[P,D]` of its pooled output."""
    own = cast(Any, tower).config
    config = type(own)(**{**own.to_dict(), "projection_dim": len(projection)})
    encoder = CLIPTextModelWithProjection(config)
    encoder.text_model.load_state_dict(tower.state_dict())
    with torch.no_grad():
        encoder.text_projection.weight.copy_(projection)
    return encoder.eval().requires_grad_(False)

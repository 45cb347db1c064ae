"""Write a model as a diffusers pipeline folder, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from dreambooth.files import atomic
from dreambooth.model.loading import WEIGHT_PARTS, quiet

if TYPE_CHECKING:
    from dreambooth.model.stable_diffusion import LatentDiffusion


def write_pipeline(model: LatentDiffusion, folder: Path) -> None:
    """Write `folder` beside itself and rename it; an earlier one is replaced, or kept on failure.

    Float32 safetensors. Adapters that are not merged are left out.
    """
    pipeline = model.pipeline()
    pipeline.register_modules(**{part: _clean(model, part) for part in WEIGHT_PARTS})
    with atomic(folder) as new:
        with quiet():
            pipeline.save_pretrained(new, safe_serialization=True)
        _prefix_text_encoder(new / "text_encoder")
        # vocab.json and merges.txt, which version 4 of transformers looks for
        model.tokenizer.backend_tokenizer.model.save(str(new / "tokenizer"))


def _clean(model: LatentDiffusion, part: str) -> torch.nn.Module:
    """The part as its own class saves it: float32 weights by reference, no adapter inside."""
    module = getattr(model, part)
    state = model.masters.get(part) or {k: v.float() for k, v in model.base_state(part).items()}
    with torch.device("meta"):
        if part == "text_encoder":
            clean = type(module)(module.config)
        else:
            # without the path of this machine that loading left there
            config = {k: v for k, v in module.config.items() if k != "_name_or_path"}
            clean = type(module).from_config(config)
    clean.load_state_dict(state, strict=True, assign=True)
    return clean


def _prefix_text_encoder(folder: Path) -> None:
    """Name the weights `text_model.*`: every version of transformers and every converter reads it.

    Version 5 drops the prefix from models that were not loaded with it.
    """
    file = folder / "model.safetensors"
    prefix = "text_model."
    state = {prefix + name.removeprefix(prefix): x for name, x in load_file(file).items()}
    save_file(state, file, metadata={"format": "pt"})

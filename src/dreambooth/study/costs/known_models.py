"""Configurations of a run's networks: of a local folder, or of the public models.

Of each public network what differs from the defaults of its class, as in the configs on the model
hub or, for models that need a licence, in diffusers' conversion scripts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreambooth.study.costs.sizes import PARTS

Plain = Mapping[str, Any]
SD1: Plain = {
    "unet": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "text_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
    },
}
SD2: Plain = {
    "unet": {
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "text_encoder": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 23,
    },
}
SD35_MEDIUM: Plain = {
    "unet": {
        "_class_name": "SD3Transformer2DModel",
        "num_layers": 24,
        "num_attention_heads": 24,
        "caption_projection_dim": 1536,
        "pos_embed_max_size": 384,
        "dual_attention_layers": list(range(13)),
        "qk_norm": "rms_norm",
    },
    "text_encoder": SD1["text_encoder"],
}
SDXL: Plain = {
    "unet": {
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [320, 640, 1280],
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "text_encoder": SD1["text_encoder"],
    "text_encoder_2": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
    },
}
SD35_MEDIUM = {**SD35_MEDIUM, "text_encoder_2": SDXL["text_encoder_2"]}
FLUX2_KLEIN: Plain = {
    "unet": {
        "_class_name": "Flux2Transformer2DModel",
        "num_layers": 5,
        "num_single_layers": 20,
        "num_attention_heads": 24,
        "joint_attention_dim": 7680,
        "guidance_embeds": False,
    },
    "text_encoder": {
        "model_type": "qwen3",
        "vocab_size": 151_936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
}
KNOWN = {
    "sd14": SD1,
    "sd15": SD1,
    "sd21": SD2,
    "sdxl": SDXL,
    "sd35_medium": SD35_MEDIUM,
    "flux2_klein": FLUX2_KLEIN,
}


def configs_of(config: Plain) -> Plain | None:
    """Read the configurations of a run's networks by name; None for an unknown model."""
    from dreambooth.pocket.embedded import FOLDERS  # Pillow

    path = config["model"]["path"]
    folder = FOLDERS.get(path, Path(path).expanduser())
    try:
        denoiser = next(n for n in PARTS["unet"] if (folder / n / "config.json").is_file())
        names = {"unet": denoiser, "text_encoder": "text_encoder", "vae": "vae"}
        if (folder / (second := "text_encoder_2") / "config.json").is_file():
            names[second] = second
        return {n: json.loads((folder / f / "config.json").read_text()) for n, f in names.items()}
    except (OSError, ValueError, StopIteration):
        return KNOWN.get(config["model"]["name"])


def clip_encoders(settings: Plain) -> list[Plain]:
    """List the configurations of the text encoders that can train: all are CLIP's."""
    names = ("text_encoder", "text_encoder_2")
    found = [settings[name] for name in names if name in settings]
    return [each for each in found if each.get("model_type") != "qwen3"]


def tokens_of(config: Plain, settings: Plain) -> tuple[int, int]:
    """Count a prompt's tokens: CLIP's, and those of a text encoder that never trains."""
    clip = max((e.get("max_position_embeddings", 77) for e in clip_encoders(settings)), default=0)
    return clip, config["model"].get("max_sequence_length") or 0

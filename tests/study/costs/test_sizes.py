"""The counted parameters of the public models, against their architectures without memory."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    Flux2Transformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

from composed_configs import composed
from dreambooth.study.costs.known_models import KNOWN
from dreambooth.study.costs.sizes import PARAMETERS, PER_RANK

CLIP_L = CLIPTextConfig(**KNOWN["sdxl"]["text_encoder"], projection_dim=768)
CLIP_H = CLIPTextConfig(**KNOWN["sd21"]["text_encoder"])
CLIP_G = CLIPTextConfig(**KNOWN["sdxl"]["text_encoder_2"])
XL = KNOWN["sdxl"]["unet"]
KLEIN = KNOWN["flux2_klein"]
QWEN = Qwen3Config(**KLEIN["text_encoder"])


# the configuration of diffusers' scripts/convert_sd3_to_diffusers.py, of 24 layers
SD35_MEDIUM = KNOWN["sd35_medium"]["unet"]
PROJECTED = CLIPTextModelWithProjection
SD3_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
T5_XXL = T5Config(
    vocab_size=32128,
    d_model=4096,
    d_kv=64,
    d_ff=10240,
    num_layers=24,
    num_heads=64,
    feed_forward_proj="gated-gelu",
)
NEVER_TRAIN = [(AutoencoderKL, SD3_VAE), (T5EncoderModel, T5_XXL)]
CLIP = (CLIPTextModel, CLIP_L)


@pytest.mark.parametrize(
    ("name", "denoiser", "encoders", "others"),
    [
        ("sd15", (UNet2DConditionModel, {"cross_attention_dim": 768}), [CLIP], []),
        ("sd21", (UNet2DConditionModel, KNOWN["sd21"]["unet"]), [(CLIPTextModel, CLIP_H)], []),
        ("sdxl", (UNet2DConditionModel, XL), [CLIP, (PROJECTED, CLIP_G)], []),
        (
            "sd35_medium",
            (SD3Transformer2DModel, SD35_MEDIUM),
            [(PROJECTED, CLIP_L), (PROJECTED, CLIP_G)],
            NEVER_TRAIN,
        ),
        (
            "flux2_klein",
            (Flux2Transformer2DModel, KLEIN["unet"]),
            [(Qwen3ForCausalLM, QWEN)],
            [(AutoencoderKLFlux2, {})],
        ),
    ],
)
def test_the_counted_parameters_are_those_of_the_architecture(name, denoiser, encoders, others):
    """Networks of the public configurations, with no memory for their weights."""
    parts = {"unet": [denoiser], "text_encoder": encoders} | ({"vae": others} if others else {})
    ends = tuple(f".{end}" for end in composed(f"model={name}")["model"]["adapter_targets"])
    parameters, per_rank = Counter(), Counter()
    for part, networks in parts.items():
        for kind, config in networks:
            with torch.device("meta"):
                is_own = isinstance(config, PreTrainedConfig)
                network: Any = kind(config) if is_own else kind.from_config(config)
            parameters[part] += sum(p.numel() for p in network.parameters())
            named = network.named_modules()
            layers = [m for n, m in named if n.endswith(ends) and hasattr(m, "weight")]
            per_rank[part] += sum(sum(m.weight.shape) for m in layers)
    assert parameters == {part: PARAMETERS[name][part] for part in parameters}
    assert {part: per_rank[part] for part in ("unet", "text_encoder")} == PER_RANK[name]

"""A public model's true architecture with random weights, for measuring without a hub.

    python benchmarks/random_pipeline.py sd15|sd21|sdxl DIR

writes a pipeline folder in float16: 2.1, 2.6 or 6.9 GB.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from dreambooth.pocket import world
from dreambooth.pocket.pretraining.tokenizer import build_tokenizer
from dreambooth.study.costs.known_models import KNOWN

MODELS = ("sd15", "sd21", "sdxl")
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def random_pipeline(model: str, folder: Path, seed: int = 0) -> Path:
    """Write the pipeline of one of `MODELS` and return its folder.

    The sizes are those of the public model's config files. The tokenizer is this project's own,
    padded to 77 tokens, since the public one's vocabulary cannot be made from nothing.
    """
    torch.manual_seed(seed)
    known, is_xl = KNOWN[model], model == "sdxl"
    tokenizer = build_tokenizer(world.vocabulary())
    tokenizer.model_max_length = 77
    words = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    side = 128 if is_xl else 64
    parts: dict[str, Any] = {
        "unet": UNet2DConditionModel(sample_size=side, **known["unet"]),
        "vae": AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            sample_size=side * 8,
            scaling_factor=0.13025 if is_xl else 0.18215,
        ),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**known["text_encoder"], **words)),
        "tokenizer": tokenizer,
    }
    if is_xl:
        config = CLIPTextConfig(**known["text_encoder_2"], **words)
        second = {"text_encoder_2": CLIPTextModelWithProjection(config), "tokenizer_2": tokenizer}
        pipeline: Any = StableDiffusionXLPipeline(
            **parts, **second, scheduler=EulerDiscreteScheduler(**NOISE, steps_offset=1)
        )
    else:
        scheduler = PNDMScheduler(
            **NOISE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1
        )
        pipeline = StableDiffusionPipeline(
            **parts,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=Path, metavar="DIR")
    args = parser.parse_args()
    print(random_pipeline(args.model, args.folder))

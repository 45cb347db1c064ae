"""The untrained networks of the pocket model and its encoders, in the libraries' own classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    ViTConfig,
    ViTModel,
)

from dreambooth.pocket.pretraining.tokenizer import CONTEXT_LENGTH


def build_vae(
    channels: Sequence[int], *, latent_channels: int, norm_num_groups: int
) -> AutoencoderKL:
    """Build AutoencoderKL, 64 px => 8x8 latents; each level but the last halves the side."""
    blocks: dict[str, Any] = {
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "block_out_channels": list(channels),
    }
    return AutoencoderKL(
        **blocks,
        layers_per_block=1,
        latent_channels=latent_channels,
        # at least 4 channels per group at full resolution: fewer erase colour
        norm_num_groups=norm_num_groups,
        sample_size=64,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def build_text_encoder(tokenizer: CLIPTokenizer, *, width: int, layers: int) -> CLIPTextModel:
    """Build CLIPTextModel over the pocket vocabulary, token ids `[N,32]` => `[N,32,width]`."""
    return CLIPTextModel(
        CLIPTextConfig(
            **_text(tokenizer, width),
            num_hidden_layers=layers,
            num_attention_heads=width // 48,
            projection_dim=width,
        )
    )


def build_unet(
    channels: Sequence[int],
    *,
    latent_channels: int,
    text_width: int,
    heads: int,
    norm_num_groups: int,
) -> UNet2DConditionModel:
    """Build UNet2DConditionModel on 8x8 latents, with cross-attention at every level."""
    blocks: dict[str, Any] = {
        "down_block_types": ["CrossAttnDownBlock2D"] * len(channels),
        "up_block_types": ["CrossAttnUpBlock2D"] * len(channels),
        "block_out_channels": list(channels),
    }
    return UNet2DConditionModel(
        **blocks,
        sample_size=8,
        in_channels=latent_channels,
        out_channels=latent_channels,
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=heads,  # diffusers' name for the number of heads
        norm_num_groups=norm_num_groups,
    )


def build_scheduler() -> DDPMScheduler:
    """Build Stable Diffusion's noise schedule, but with v-prediction.

    A small model learns that faster.
    """
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        clip_sample=False,
        prediction_type="v_prediction",
        steps_offset=1,
    )


def build_clip(tokenizer: CLIPTokenizer, *, width: int, layers: int, text_layers: int) -> CLIPModel:
    """Build CLIPModel for 64 px images in patches of 8 and captions of up to 32 tokens."""
    text = _text(tokenizer, width)
    text |= {"num_hidden_layers": text_layers, "num_attention_heads": width // 32}
    return CLIPModel(
        CLIPConfig(text_config=text, vision_config=_vision(width, layers), projection_dim=width)
    )


def build_dino(*, width: int, layers: int) -> ViTModel:
    """Build ViTModel without a pooler: its CLS token after the last norm is the feature."""
    return ViTModel(ViTConfig(**_vision(width, layers)), add_pooling_layer=False)


def _text(tokenizer: CLIPTokenizer, width: int) -> dict[str, Any]:
    """Collect what both text towers share."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "max_position_embeddings": CONTEXT_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _vision(width: int, layers: int) -> dict[str, Any]:
    """Collect what both vision towers share."""
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "intermediate_size": 4 * width,
        "image_size": 64,
        "patch_size": 8,
    }

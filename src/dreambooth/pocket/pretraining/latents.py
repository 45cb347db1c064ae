"""Stage `latents`: encode every scene once by the VAE in the cache."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.utils.constants import SAFETENSORS_WEIGHTS_NAME

from dreambooth.files import cache_key, file_hash
from dreambooth.pocket.pretraining import shards
from dreambooth.pocket.pretraining.device import autocast, move, to_pixels
from dreambooth.pocket.pretraining.spec import PretrainSpec
from dreambooth.random import keyed_normal


def vae_hash(vae: Path) -> str:
    """Hash a VAE folder's weights and configuration, scaling factor included: 16 hex digits."""
    config = json.loads((vae / "config.json").read_text())
    return cache_key(
        config={key: value for key, value in config.items() if not key.startswith("_")},
        weights=file_hash(vae / SAFETENSORS_WEIGHTS_NAME),
    )


def latent_shards(spec: PretrainSpec, scenes: int) -> list[Path]:
    """Return the files of the first `scenes` latents; each VAE in the cache has its own folder."""
    key = cache_key(vae=vae_hash(spec.cache / "vae"), seed=spec.seed)[:8]
    indices = range(scenes // shards.SHARD)
    return [spec.cache / f"latents-{key}" / f"{index:05d}.npy" for index in indices]


@torch.no_grad()
def pretrain_latents(spec: PretrainSpec) -> None:
    """Write the latents that are missing: float16 `[SHARD,C,8,8]`, scaled, one sample per scene."""
    scenes = max(spec.denoiser.scenes, spec.flow.scenes)
    paths = shards.scene_shards(spec.cache / "scenes", scenes, "train", spec.workers)
    vae = AutoencoderKL.from_pretrained(spec.cache / "vae", local_files_only=True)
    move(vae, spec.device)
    vae.eval()
    targets = latent_shards(spec, scenes)
    for index, (images, target) in enumerate(zip(shards.open_shards(paths), targets, strict=True)):
        if target.exists():
            continue
        rows = []
        for start in range(0, len(images), 128):
            pixels = to_pixels(images[start : start + 128], spec.device)
            with autocast(spec.device, spec.bf16):
                posterior = vae.encode(pixels, return_dict=False)[0]
            mean, std = posterior.mean.float(), posterior.std.float()
            noise = keyed_normal(tuple(mean.shape), spec.seed, "posterior", index, start)
            rows.append((mean + std * noise.to(spec.device)) * vae.config["scaling_factor"])
        shards.save_array(target, torch.cat(rows).half().cpu().numpy())

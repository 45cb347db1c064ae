"""Stage `vae`: pretrain the autoencoder on rendered scenes and crops of photos."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.utils.constants import SAFETENSORS_WEIGHTS_NAME
from torch import Tensor
from torch.nn import functional as F

from dreambooth.files import atomic
from dreambooth.pocket.pretraining import shards
from dreambooth.pocket.pretraining.architecture import build_vae
from dreambooth.pocket.pretraining.checkpoints import start_from
from dreambooth.pocket.pretraining.device import autocast, move, to_pixels
from dreambooth.pocket.pretraining.photo_crops import photo_crops, photo_files
from dreambooth.pocket.pretraining.spec import PretrainSpec
from dreambooth.pocket.pretraining.training_loop import train


class VaeLoss:
    """L1 + 8 MSE of the reconstruction, and the KL divergence per latent element.

    Args:
        scenes: shards `[SHARD,64,64,3]` uint8.
        crops: photo crops `[N,64,64,3]` uint8, or None; they make up `photo_share` of a batch.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        spec: PretrainSpec,
        scenes: list[np.ndarray],
        crops: np.ndarray | None,
    ) -> None:
        self.vae, self.spec, self.scenes, self.crops = vae, spec, scenes, crops

    def __call__(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute one batch's loss."""
        spec = self.spec
        pixels = to_pixels(self._images(generator), spec.device)
        with autocast(spec.device, spec.bf16):
            posterior = self.vae.encode(pixels, return_dict=False)[0]
            mean, std = posterior.mean.float(), posterior.std.float()
            noise = torch.randn(mean.shape, generator=generator).to(spec.device)
            latents: Any = mean + std * noise  # diffusers asks for a FloatTensor
            decoded = self.vae.decode(latents, return_dict=False)[0].float()
        mse = F.mse_loss(decoded, pixels)
        kl = 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).mean()
        total = F.l1_loss(decoded, pixels) + 8 * mse + spec.vae.kl_weight * kl
        return {"total": total, "mse": mse.detach(), "kl": kl.detach()}

    def _images(self, generator: torch.Generator) -> np.ndarray:
        """Draw a batch of scenes and crops, `[N,64,64,3]` uint8."""
        size, total = self.spec.vae.batch_size, len(self.scenes) * shards.SHARD
        photos = 0 if self.crops is None else round(self.spec.vae.photo_share * size)
        picked = torch.randint(total, (size - photos,), generator=generator)
        images = shards.pick(self.scenes, picked)
        if self.crops is None or not photos:
            return images
        picked = torch.randint(len(self.crops), (photos,), generator=generator)
        return np.concatenate([images, self.crops[picked.numpy()]])


def pretrain_vae(spec: PretrainSpec) -> None:
    """Train the VAE and write `vae/` in diffusers' format, with its latents' scaling factor."""
    paths = shards.scene_shards(spec.cache / "scenes", spec.vae.scenes, "train", spec.workers)
    scenes, crops = shards.open_shards(paths), None
    if spec.photos is not None:
        crops = photo_crops(photo_files(spec.photos), spec.vae.crops_per_photo, spec.seed)
    torch.manual_seed(spec.seed)
    vae = build_vae(
        spec.vae.channels,
        latent_channels=spec.vae.latent_channels,
        norm_num_groups=spec.vae.norm_num_groups,
    )
    part = f"vae/{SAFETENSORS_WEIGHTS_NAME}"
    facts = {
        "init": start_from(spec.init, part, vae, spec.cache / "vae.pt"),
        "photo_crops": 0 if crops is None else len(crops),
    }
    move(vae, spec.device)
    if spec.compile:
        for half in ("encoder", "decoder"):
            vae.get_submodule(half).compile()
    loss = VaeLoss(vae, spec, scenes, crops)
    train("vae", vae, loss, spec.cache, spec.training(spec.vae), facts)
    with torch.no_grad():
        mean = vae.encode(to_pixels(scenes[0][:512], spec.device), return_dict=False)[0].mean
    vae.register_to_config(scaling_factor=round(1 / mean.std().item(), 5))
    with atomic(spec.cache / "vae") as temporary:
        vae.save_pretrained(temporary)

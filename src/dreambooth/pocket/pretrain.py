"""Pretrain the pocket model: `python -m dreambooth.pocket.pretrain` (see conf/pretrain.yaml)."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional as F

from dreambooth.config import entry
from dreambooth.data.subjects import suggest
from dreambooth.errors import UserError
from dreambooth.pocket import build, denoising, encoders, export, probe, scenes, training, world

log = logging.getLogger(__name__)


def pick(shards: list[np.ndarray], indices: Tensor) -> np.ndarray:
    """The images with these indices over all shards."""
    return np.stack([shards[i // scenes.SHARD][i % scenes.SHARD] for i in indices.tolist()])


def vae_loss(
    vae, shards: list[np.ndarray], crops: np.ndarray | None, cfg: DictConfig, bf16: bool,
    device: str, generator: torch.Generator, step: int,
) -> dict[str, Tensor]:
    """L1 + 8 MSE of the reconstruction, and the KL divergence per latent element."""
    photos = 0 if crops is None else round(cfg.photo_share * cfg.batch_size)
    total = len(shards) * scenes.SHARD
    picked = torch.randint(total, (cfg.batch_size - photos,), generator=generator)
    images = pick(shards, picked)
    if photos:
        picked = torch.randint(len(crops), (photos,), generator=generator)
        images = np.concatenate([images, crops[picked.numpy()]])
    pixels = encoders.to_pixels(images, device)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
        posterior = vae.encode(pixels).latent_dist
        mean, std = posterior.mean.float(), posterior.std.float()
        noise = torch.randn(mean.shape, generator=generator).to(device)
        decoded = vae.decode(mean + std * noise).sample.float()
    mse = F.mse_loss(decoded, pixels)
    kl = 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).mean()
    total = F.l1_loss(decoded, pixels) + 8 * mse + cfg.kl_weight * kl
    return {"total": total, "mse": mse.detach(), "kl": kl.detach()}


def pretrain_vae(cfg: DictConfig, folder: Path) -> None:
    """Stage `vae`: => `vae/` in diffusers' format, with the scaling factor of its latents."""
    paths = scenes.scene_shards(folder / "scenes", cfg.vae.scenes, "train", cfg.workers)
    shards = [np.load(path, mmap_mode="r") for path in paths]
    crops = None
    if cfg.photos is not None:
        crops = scenes.photo_crops(
            scenes.photo_files(Path(cfg.photos)), cfg.vae.crops_per_photo, cfg.seed
        )
    torch.manual_seed(cfg.seed)
    vae = build.build_vae(cfg.vae.channels, cfg.vae.latent_channels, cfg.vae.norm_num_groups)
    if cfg.init is not None:
        vae.load_state_dict(AutoencoderKL.from_pretrained(Path(cfg.init) / "vae").state_dict())
    vae = vae.to(cfg.device)
    if cfg.compile:
        vae.encoder.compile()
        vae.decoder.compile()
    loss = partial(vae_loss, vae, shards, crops, cfg.vae, cfg.bf16, cfg.device)
    training.train("vae", vae, loss, folder, **training.settings(cfg, "vae"))
    with torch.no_grad():
        mean = vae.encode(encoders.to_pixels(shards[0][:512], cfg.device)).latent_dist.mean
    vae.register_to_config(scaling_factor=round(1 / mean.std().item(), 5))
    vae.save_pretrained(folder / "vae")


def pretrain_latents(cfg: DictConfig, folder: Path) -> None:
    """Stage `latents`: every scene's scaled posterior sample, and token ids of its captions."""
    paths = scenes.scene_shards(folder / "scenes", cfg.denoiser.scenes, "train", cfg.workers)
    denoising.encode_scenes(paths, folder, cfg.seed, cfg.device, cfg.bf16)
    tokenizer = build.build_tokenizer(world.vocabulary())
    for index in range(len(paths)):
        denoising.tokenize_captions(
            index, tokenizer, folder, cfg.tokens_per_scene, cfg.denoiser.identifier_share
        )


def pretrain_denoiser(cfg: DictConfig, folder: Path) -> None:
    """Stage `denoiser`: U-Net and text encoder together, on cached latents."""
    c = cfg.denoiser
    torch.manual_seed(cfg.seed)
    tokenizer = build.build_tokenizer(world.vocabulary())
    network = export.make_denoiser(cfg, tokenizer)
    if cfg.init is not None:
        for part in ("unet", "text_encoder"):
            module = getattr(network, part)
            begun = type(module).from_pretrained(Path(cfg.init) / part, dtype=torch.float32)
            module.load_state_dict(begun.state_dict())
    network = network.to(cfg.device)
    if torch.device(cfg.device).type == "cpu":
        # in bfloat16 the CPU's fused attention is slow: its backward took 30 % of a step
        network.unet.set_attn_processor(AttnProcessor())
        network.text_encoder.set_attn_implementation("eager")
    if cfg.compile:
        network.unet.compile()
    loss = denoising.DenoisingLoss(
        network, folder, c.scenes // scenes.SHARD, c.batch_size, c.caption_dropout,
        c.min_snr_gamma, cfg.bf16, cfg.device,
        torch.tensor(denoising.token_ids(tokenizer, [""])),
    )  # fmt: skip
    training.train("denoiser", network, loss, folder, **training.settings(cfg, "denoiser"))


def pretrain_probe(cfg: DictConfig, folder: Path) -> None:
    """Stage `probe`: the benchmarks' independent judge => `probe.safetensors`."""
    common = {k: cfg[k] for k in ("decay", "workers", "bf16", "save_seconds", "seed", "device")}
    probe.train_probe(folder, **cfg.probe, **common)


def pretrain_export(cfg: DictConfig, folder: Path) -> None:
    """Stage `export`: what the package ships; works at any moment of the denoiser's training."""
    export.export(cfg, folder, Path(cfg.export_to or Path(__file__).parent / "weights"))


STAGES = {
    "vae": pretrain_vae,
    "latents": pretrain_latents,
    "denoiser": pretrain_denoiser,
    "encoders": encoders.pretrain_encoders,
    "probe": pretrain_probe,
    "export": pretrain_export,
}


def pretrain(cfg: DictConfig) -> None:
    """Run the stages that the configuration names, each resumed where it stopped.

    Raises:
        UserError: a stage that does not exist.
    """
    for stage in cfg.stages:
        if stage not in STAGES:
            raise UserError(suggest(stage, STAGES, "stage"))
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    for stage in cfg.stages:
        STAGES[stage](cfg, Path(cfg.cache))


if __name__ == "__main__":
    entry("pretrain", pretrain)

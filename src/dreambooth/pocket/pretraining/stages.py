"""Pretrain the pocket model: `dreambooth pretrain` (see conf/pretrain.yaml)."""

from __future__ import annotations

import logging
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn import functional as F

from dreambooth.files import atomic
from dreambooth.pocket import embedded, world
from dreambooth.pocket.pretraining import (
    build,
    denoising,
    encoders,
    export,
    probe,
    readiness,
    scenes,
    states,
    training,
)
from dreambooth.sampling.draw import torch_device

log = logging.getLogger(__name__)

WEIGHTS = "diffusion_pytorch_model.safetensors"


def vae_loss(
    vae,
    shards: list[np.ndarray],
    crops: np.ndarray | None,
    cfg: DictConfig,
    bf16: bool,
    device: str,
    generator: torch.Generator,
    step: int,
) -> dict[str, Tensor]:
    """L1 + 8 MSE of the reconstruction, and the KL divergence per latent element."""
    photos = 0 if crops is None else round(cfg.photo_share * cfg.batch_size)
    total = len(shards) * scenes.SHARD
    picked = torch.randint(total, (cfg.batch_size - photos,), generator=generator)
    images = scenes.pick(shards, picked)
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
    begun = states.begin("vae", vae, folder, cfg.init, f"vae/{WEIGHTS}")
    vae = vae.to(cfg.device)
    if cfg.compile:
        vae.encoder.compile()
        vae.decoder.compile()
    loss = partial(vae_loss, vae, shards, crops, cfg.vae, cfg.bf16, cfg.device)
    facts = {"init": begun, "photo_crops": 0 if crops is None else len(crops)}
    training.train("vae", vae, loss, folder, **training.settings(cfg, "vae"), **facts)
    with torch.no_grad():
        mean = vae.encode(encoders.to_pixels(shards[0][:512], cfg.device)).latent_dist.mean
    vae.register_to_config(scaling_factor=round(1 / mean.std().item(), 5))
    with atomic(folder / "vae") as temporary:
        vae.save_pretrained(temporary)


def pretrain_latents(cfg: DictConfig, folder: Path) -> None:
    """Stage `latents`: every scene's scaled posterior sample of the present VAE."""
    paths = scenes.scene_shards(folder / "scenes", cfg.denoiser.scenes, "train", cfg.workers)
    denoising.encode_scenes(paths, folder, cfg.seed, cfg.device, cfg.bf16)


def pretrain_denoiser(cfg: DictConfig, folder: Path) -> None:
    """Stage `denoiser`: U-Net and text encoder together, on cached latents."""
    c, state = cfg.denoiser, folder / "denoiser.pt"
    facts = {"vae": denoising.vae_hash(folder / "vae"), "scenes": c.scenes}
    if state.exists():
        before = states.read_state(state, cfg.seed, mmap=True)["sittings"][-1:]
        if any(sitting.get("vae") != facts["vae"] for sitting in before):
            log.warning("denoiser: goes on with latents of another VAE than before")
    torch.manual_seed(cfg.seed)
    tokenizer = build.build_tokenizer(world.vocabulary())
    network = export.make_denoiser(cfg, tokenizer)
    begin = partial(states.begin, "denoiser", folder=folder, init=cfg.init)
    facts["init"] = begin(network.unet, part=f"unet/{WEIGHTS}")
    begin(network.text_encoder, part="text_encoder")
    network = network.to(cfg.device)
    if torch.device(cfg.device).type == "cpu":
        # in bfloat16 the CPU's fused attention is slow: its backward took 30 % of a step
        network.unet.set_attn_processor(AttnProcessor())
        network.text_encoder.set_attn_implementation("eager")
    if cfg.compile:
        network.unet.compile()
    latents = denoising.latent_shards(folder, cfg.seed, c.scenes // scenes.SHARD)
    captions = denoising.caption_shards(
        folder, tokenizer, len(latents), cfg.tokens_per_scene, c.identifier_share
    )
    loss = denoising.DenoisingLoss(
        network,
        latents,
        captions,
        c.batch_size,
        c.caption_dropout,
        c.min_snr_gamma,
        cfg.bf16,
        cfg.device,
        torch.tensor(denoising.token_ids(tokenizer, [""])),
    )
    own = training.settings(cfg, "denoiser")
    training.train("denoiser", network, loss, folder, **own, **facts)


def pretrain_probe(cfg: DictConfig, folder: Path) -> None:
    """Stage `probe`: the benchmarks' independent judge => `probe.safetensors`."""
    keys = ("decay", "workers", "bf16", "save_seconds", "seed", "device", "init")
    probe.train_probe(folder, **cfg.probe, **{key: cfg[key] for key in keys})


def pretrain_export(cfg: DictConfig, folder: Path) -> None:
    """Stage `export`: what the package ships; works at any moment of the denoiser's training."""
    export.export(cfg, folder, Path(cfg.export_to or embedded.FOLDER))


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
        UserError: what `readiness.check` finds, before the first stage begins.
    """
    folder = Path(cfg.cache)
    readiness.check(cfg, folder)
    cfg = OmegaConf.merge(cfg, {"device": torch_device(cfg.device)})
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    if cfg.init is not None and "vae" not in cfg.stages and not (folder / "vae").exists():
        with atomic(folder / "vae") as temporary:
            shutil.copytree(Path(cfg.init) / "vae", temporary)
        (folder / "vae.json").unlink(missing_ok=True)  # of another VAE
        log.info("vae: copied from %s", cfg.init)
    for stage in cfg.stages:
        STAGES[stage](cfg, folder)

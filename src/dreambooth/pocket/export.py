"""The pretraining states as the files that the package ships: a diffusers folder and its card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from omegaconf import DictConfig

from dreambooth.cache import atomic
from dreambooth.pocket import build, world
from dreambooth.pocket.denoising import Denoiser


def averaged(network: torch.nn.Module, path: Path) -> tuple[torch.nn.Module, dict]:
    """The network with the averaged weights of a pretraining state, at any moment of it."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    parameters = [p for p in network.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter, average in zip(parameters, state["ema"], strict=True):
            parameter.copy_(average)
    return network.eval(), state


def _trained_vae(folder: Path) -> AutoencoderKL:
    """The VAE without the path of this machine that loading leaves in its config."""
    loaded = AutoencoderKL.from_pretrained(folder)
    config = {k: v for k, v in loaded.config.items() if k != "_name_or_path"}
    vae = AutoencoderKL.from_config(config)
    vae.load_state_dict(loaded.state_dict())
    return vae


def make_denoiser(cfg: DictConfig, tokenizer) -> Denoiser:
    """U-Net and text encoder in the configured sizes, untrained."""
    c = cfg.denoiser
    unet = build.build_unet(
        c.channels, cfg.vae.latent_channels, c.text_width, c.heads, c.norm_num_groups
    )
    return Denoiser(unet, build.build_text_encoder(tokenizer, c.text_width, c.text_layers))


def export(cfg: DictConfig, folder: Path, target: Path) -> None:
    """Write the pipeline in half precision, the encoders and the model card, all or nothing."""
    tokenizer = build.build_tokenizer(world.vocabulary())
    network, state = averaged(make_denoiser(cfg, tokenizer), folder / "denoiser.pt")
    pipeline = StableDiffusionPipeline(
        vae=_trained_vae(folder / "vae"), text_encoder=network.text_encoder,
        tokenizer=tokenizer, unet=network.unet, scheduler=build.build_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).to(dtype=torch.float16)  # fmt: skip
    with atomic(target) as temporary:
        pipeline.save_pretrained(temporary, safe_serialization=True)
        if (folder / "encoders").is_dir():
            shutil.copytree(folder / "encoders", temporary / "encoders")
        if (folder / "probe.safetensors").exists():
            shutil.copy(folder / "probe.safetensors", temporary)
        (temporary / "README.md").write_text(card(cfg, folder, state))


def card(cfg: DictConfig, folder: Path, state: dict) -> str:
    """The model card: what it is, what made it, and the curves' last rows."""
    rows = []
    for name in ("vae", "denoiser", "dino", "clip", "probe"):
        curve = folder / f"{name}.jsonl"
        if curve.exists():
            last = json.loads(curve.read_text().splitlines()[-1])
            terms = ", ".join(f"{k} {v}" for k, v in last.items() if k not in NOT_LOSSES)
            rows.append(f"| {name} | {last['samples']:,} | {terms} |")
    return CARD.format(
        quality=_measured(folder),
        curves="\n".join(rows), seed=cfg.seed, batch=cfg.denoiser.batch_size,
        hours=round(state["seconds"] / 3600, 2), scenes=f"{cfg.denoiser.scenes:,}",
    )  # fmt: skip


def _measured(folder: Path) -> str:
    """The figures of `quality.json`, if they are of this state and not of an earlier one."""
    path = folder / "quality.json"
    if not path.exists() or path.stat().st_mtime < (folder / "denoiser.pt").stat().st_mtime:
        return ""
    table = {k: v for k, v in json.loads(path.read_text()).items() if isinstance(v, dict)}
    rows = [f"| {row} | " + ", ".join(f"{k} {v:.3g}" for k, v in values.items()) + " |"
            for row, values in table.items()]  # fmt: skip
    return "\n".join(["", "", "| part | measured |", "|---|---|", *rows])


NOT_LOSSES = ("samples", "per_second", "scale")
CARD = """# The pocket model

A text-to-image latent diffusion model for 64x64 pictures in Stable Diffusion's own format, trained
from scratch by this project on scenes that it renders itself (`dreambooth.pocket.world`): fifteen
classes of the DreamBooth dataset in seventeen contexts. It is the default of every command, so that
DreamBooth can be studied without a GPU and without a network. `encoders/` holds a small CLIP and a
small DINO-style ViT for the metrics, trained on the same world.

It draws that world and nothing else: it knows no people, no places and no words beyond the world's
captions. Identities and some combinations of class, colour and context are held out of its training
by a hash, for measuring. Its VAE also saw crops of real photos (the DreamBooth dataset, CC BY 4.0),
so that a user's own photos survive it; none of them is in this repository.

## What made it

`python -m dreambooth.pocket.pretrain photos=DIR compile=true`, seed {seed}, float16 safetensors,
U-Net batch {batch}, {scenes} scenes, v-prediction with Min-SNR weights, averaged weights.
U-Net and text encoder took {hours} hours on CPU cores that were shared with other work.

| network | samples | last logged values |
|---|---|---|
{curves}

Measured quality: `python benchmarks/pocket_quality.py`; what the rows mean is said there.{quality}
"""

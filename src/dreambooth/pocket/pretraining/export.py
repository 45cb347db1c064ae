"""The pretraining states as the files that the package ships: a diffusers folder and its card."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from omegaconf import DictConfig

from dreambooth.errors import UserError
from dreambooth.files import atomic
from dreambooth.model.stable_diffusion import assemble
from dreambooth.pocket import world
from dreambooth.pocket.embedded import weights_hash
from dreambooth.pocket.pretraining import build, states
from dreambooth.pocket.pretraining.card import card, measured
from dreambooth.pocket.pretraining.denoising import Denoiser, vae_hash

log = logging.getLogger(__name__)

EXTRAS = ("encoders/clip", "encoders/dino", "probe.safetensors")


def _trained_vae(folder: Path) -> AutoencoderKL:
    """The VAE without the path of this machine that loading leaves in its config."""
    loaded = AutoencoderKL.from_pretrained(folder, local_files_only=True)
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
    """Write the pipeline in half precision, the encoders, the probe and the card, all or nothing.

    What the cache lacks of EXTRAS comes from `init`, or stays as the target has it.

    Raises:
        UserError: the state does not fit the configured sizes, or the present VAE.
    """
    tokenizer = build.build_tokenizer(world.vocabulary())
    network = make_denoiser(cfg, tokenizer)
    state = states.average(network, folder / "denoiser.pt")
    check_vae(state, folder)
    networks = {"unet": network.unet, "text_encoder": network.text_encoder}
    networks["vae"] = _trained_vae(folder / "vae")
    pipeline = assemble(networks, tokenizer, build.build_scheduler()).to(dtype=torch.float16)
    sources = [folder, *([] if cfg.init is None else [Path(cfg.init)]), target]
    found = {part: _found(part, sources) for part in EXTRAS}
    absent = [part for part in EXTRAS if found[part] is None]
    if absent:
        log.warning("%s will lack %s: stages encoders, probe make it", target, ", ".join(absent))
    with atomic(target) as temporary:
        pipeline.save_pretrained(temporary, safe_serialization=True)
        _load_in_float32(temporary / "text_encoder" / "config.json")
        for part, source in found.items():
            if source is not None:
                _copy(source / part, temporary / part)
        quality = measured(folder / "quality.json", weights_hash(temporary))
        text = card(states.account(state, folder / "denoiser.jsonl"), folder, found, quality)
        (temporary / "README.md").write_text(text)


def _load_in_float32(config: Path) -> None:
    """Make transformers load float16 weights in float32, as diffusers loads the other networks."""
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "dtype": "float32"}, indent=2) + "\n")


def check_vae(state: dict, folder: Path) -> None:
    """Raise UserError when the denoiser's last latents were of another VAE than the cache's."""
    last = state["sittings"][-1] if state["sittings"] else {}
    if last.get("vae") != vae_hash(folder / "vae"):
        raise UserError(
            f"the denoiser in {folder} was last trained on latents of another VAE than "
            f"{folder / 'vae'}: train it on this one's first (stages=[latents,denoiser])."
        )


def _found(part: str, sources: list[Path]) -> Path | None:
    """The first folder that holds a part with its weights."""
    weights = part if part.endswith(".safetensors") else f"{part}/model.safetensors"
    return next((source for source in sources if (source / weights).is_file()), None)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)

"""What must hold before pretraining's first stage begins: hours later is too late to say it."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from dreambooth.data.subjects import suggest
from dreambooth.errors import UserError
from dreambooth.pocket.pretraining import denoising, encoders, probe, scenes, states
from dreambooth.pocket.pretraining.export import check_vae

NEEDS = {
    "vae": (),
    "latents": ("vae",),
    "denoiser": ("latents",),
    "encoders": (),
    "probe": (),
    "export": ("vae", "denoiser"),
}
RESULTS = {
    "vae": "VAE",
    "latents": "latents of its present VAE for all denoiser.scenes",
    "denoiser": "state of the denoiser",
}
WHOLE = (
    "workers",
    "tokens_per_scene",
    "vae.samples",
    "vae.batch_size",
    "denoiser.samples",
    "denoiser.batch_size",
    "encoders.samples",
    "encoders.batch_size",
    "probe.samples",
    "probe.batch_size",
)
SCENES = ("vae.scenes", "denoiser.scenes", "encoders.scenes", "probe.scenes_count")
INIT = (
    "model_index.json",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
)


def check(cfg: DictConfig, folder: Path) -> None:
    """Refuse what a stage could only stumble over.

    Args:
        folder: the cache.

    Raises:
        UserError: names the key or the file, and the mend.
    """
    _check_names(cfg.stages, "stages", NEEDS, "stage")
    _check_names(cfg.encoders.which, "encoders.which", encoders.ENCODERS, "encoder")
    _check_values(cfg)
    if cfg.init is not None:
        absent = [name for name in INIT if not (Path(cfg.init) / name).is_file()]
        if absent:
            raise UserError(
                f"init={cfg.init} is not a pipeline folder on this machine (it lacks {absent[0]}): "
                "give one that stage export wrote."
            )
    if cfg.photos is not None and "vae" in cfg.stages:
        if not scenes.photo_files(Path(cfg.photos)):
            raise UserError(
                f"photos={cfg.photos} is no folder with pictures: give one that holds .jpg or .png "
                "files, at any depth."
            )
    _check_order(cfg, folder)
    _check_channels(cfg, folder)
    _check_states(cfg, folder)


def _check_names(names: object, key: str, known: dict, what: str) -> None:
    if not isinstance(names, ListConfig):
        raise UserError(f"{key}={names} is not usable: {key} must be a list, such as [{names}].")
    for name in names:
        if name not in known:
            raise UserError(suggest(str(name), known, what))


def _check_values(cfg: DictConfig) -> None:
    seeds, last = scenes.SHARD, probe.FIRST_SHARD * scenes.SHARD
    for keys, kind, holds in (
        (("device",), "auto, cpu or cuda", lambda v: v in ("auto", "cpu", "cuda")),
        (("decay",), "over 0 and at most 1", lambda v: type(v) in (int, float) and 0 < v <= 1),
        (WHOLE, "a whole number over 0", lambda v: type(v) is int and v > 0),
        (("threads",), "null or over 0", lambda v: v is None or type(v) is int and v > 0),
        (
            SCENES,
            f"a multiple of {seeds:,} (a file's scenes)",
            lambda v: type(v) is int and v > 0 and v % seeds == 0,
        ),
        (SCENES[:3], f"at most {last:,}, where the probe's own scenes begin", lambda v: v <= last),
    ):
        for key in keys:
            value = OmegaConf.select(cfg, key)
            if not holds(value):
                raise UserError(f"{key}={value} is not usable: {key} must be {kind}.")


def _check_order(cfg: DictConfig, folder: Path) -> None:
    """Every stage's need lies in the cache or is made by a stage before it."""
    there = {
        "vae": cfg.init is not None or (folder / "vae").is_dir(),
        "latents": (folder / "vae").is_dir()
        and all(
            path.exists()
            for path in denoising.latent_shards(
                folder, cfg.seed, cfg.denoiser.scenes // scenes.SHARD
            )
        ),
        "denoiser": (folder / "denoiser.pt").exists(),
    }
    for stage in cfg.stages:
        for need in NEEDS[stage]:
            if not there[need]:
                raise UserError(
                    f"stage {stage} needs what stage {need} makes, and {folder} holds no "
                    f"{RESULTS[need]}: run stage {need} before it, stages=[{need},{stage}]."
                )
        there[stage] = True
        if stage == "vae":  # another VAE, other latents
            there["latents"] = False


def _check_channels(cfg: DictConfig, folder: Path) -> None:
    """The VAE at hand gives latents of as many channels as the U-Net will take."""
    if "vae" in cfg.stages or not {"latents", "denoiser", "export"} & set(cfg.stages):
        return
    vae = folder / "vae" if (folder / "vae").is_dir() else Path(cfg.init) / "vae"
    channels = json.loads((vae / "config.json").read_text())["latent_channels"]
    if channels != cfg.vae.latent_channels:
        raise UserError(
            f"{vae} gives latents of {channels} channels, not vae.latent_channels="
            f"{cfg.vae.latent_channels}: set that to {channels}, or train the VAE anew."
        )


def _check_states(cfg: DictConfig, folder: Path) -> None:
    """States that will be gone on from are whole and of this seed."""
    named = {"vae": ["vae"], "denoiser": ["denoiser"], "encoders": cfg.encoders.which}
    for stage in cfg.stages:
        for name in named.get(stage, [stage]):
            if (folder / f"{name}.pt").exists():
                states.read_state(folder / f"{name}.pt", cfg.seed, mmap=True)
    fresh = {"vae", "denoiser"} & set(cfg.stages) or not (folder / "vae").is_dir()
    if "export" in cfg.stages and not fresh:  # export itself looks again
        check_vae(states.read_state(folder / "denoiser.pt", mmap=True), folder)

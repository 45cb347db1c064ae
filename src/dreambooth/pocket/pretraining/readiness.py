"""Checks of files before pretraining's first stage begins, since later costs hours.

Values are checked by `spec`.
"""

from __future__ import annotations

import json

from diffusers.utils.constants import SAFETENSORS_WEIGHTS_NAME

from dreambooth.errors import UserError
from dreambooth.pocket.pretraining.checkpoints import read_checkpoint
from dreambooth.pocket.pretraining.export import check_vae
from dreambooth.pocket.pretraining.latents import latent_shards
from dreambooth.pocket.pretraining.photo_crops import photo_files
from dreambooth.pocket.pretraining.spec import STAGE_NEEDS, PretrainSpec

RESULTS = {
    "vae": "VAE",
    "latents": "latents of its present VAE for all scenes of the stage",
    "denoiser": "checkpoint of the denoiser",
    "flow": "checkpoint of the flow-matching transformer",
}
INIT = (
    "model_index.json",
    "vae/config.json",
    f"vae/{SAFETENSORS_WEIGHTS_NAME}",
    f"unet/{SAFETENSORS_WEIGHTS_NAME}",
    "text_encoder/model.safetensors",
)


def check(spec: PretrainSpec) -> None:
    """Refuse a cache or folder that some stage could not use.

    Raises:
        UserError: names the key or file at fault, and the fix.
    """
    if spec.init is not None:
        absent = [name for name in INIT if not (spec.init / name).is_file()]
        if absent:
            raise UserError(
                f"init={spec.init} is not a pipeline folder on this machine (it lacks {absent[0]}):"
                " give one that stage export wrote."
            )
    if spec.photos is not None and "vae" in spec.stages and not photo_files(spec.photos):
        raise UserError(
            f"photos={spec.photos} is not a folder with pictures: give one that holds .jpg or .png "
            "files, at any depth."
        )
    _check_order(spec)
    _check_channels(spec)
    _check_checkpoints(spec)


def _check_order(spec: PretrainSpec) -> None:
    """Check that what a stage needs is in the cache or made by a stage before it."""
    vae = (spec.cache / "vae").is_dir()
    there = {
        "vae": spec.init is not None or vae,
        "latents": vae and all(path.exists() for path in latent_shards(spec, _scenes(spec))),
        "denoiser": (spec.cache / "denoiser.pt").exists(),
        "flow": (spec.cache / "flow.pt").exists(),
    }
    for stage in spec.stages:
        for need in STAGE_NEEDS[stage]:
            if not there[need]:
                raise UserError(
                    f"stage {stage} needs what stage {need} makes, and {spec.cache} holds no "
                    f"{RESULTS[need]}: run stage {need} before it, stages=[{need},{stage}]."
                )
        there[stage] = True
        if stage == "vae":  # another VAE, other latents
            there["latents"] = False


def _scenes(spec: PretrainSpec) -> int:
    """Count the scenes whose latents the stages read."""
    networks = [n for n in (spec.denoiser, spec.flow) if n.block in spec.stages]
    return max((network.scenes for network in networks), default=0)


def _check_channels(spec: PretrainSpec) -> None:
    """Check that the VAE to be used gives latents of as many channels as the denoisers take."""
    if "vae" in spec.stages or not set(spec.stages) - {"encoders", "probe"}:
        return
    own, init = spec.cache / "vae", spec.init
    vae = own if own.is_dir() or init is None else init / "vae"
    channels = json.loads((vae / "config.json").read_text())["latent_channels"]
    if channels != spec.vae.latent_channels:
        raise UserError(
            f"{vae} gives latents of {channels} channels, not vae.latent_channels="
            f"{spec.vae.latent_channels}: set that to {channels}, or train the VAE anew."
        )


def _check_checkpoints(spec: PretrainSpec) -> None:
    """Check that checkpoints to resume from are whole and of this seed."""
    names = {"vae": ("vae",), "denoiser": ("denoiser",), "encoders": spec.encoders.which}
    for stage in spec.stages:
        for name in names.get(stage, (stage,)):
            if (spec.cache / f"{name}.pt").exists():
                read_checkpoint(spec.cache / f"{name}.pt", spec.seed, mmap=True)
    for export, trained in (("export", "denoiser"), ("export_flow", "flow")):
        fresh = {"vae", trained} & set(spec.stages) or not (spec.cache / "vae").is_dir()
        if export in spec.stages and not fresh:  # export itself looks again
            check_vae(read_checkpoint(spec.cache / f"{trained}.pt", mmap=True), spec.cache)

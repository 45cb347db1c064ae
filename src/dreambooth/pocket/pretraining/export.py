"""Stage `export`: write the trained networks as the folder that the package ships, with a card."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from dreambooth.errors import UserError
from dreambooth.files import atomic
from dreambooth.model.stable_diffusion import assemble
from dreambooth.pocket import world
from dreambooth.pocket.embedded import FOLDER, weights_hash
from dreambooth.pocket.pretraining.architecture import build_scheduler
from dreambooth.pocket.pretraining.checkpoints import (
    load_average,
    progress_of,
    training_record,
)
from dreambooth.pocket.pretraining.denoiser import build_denoiser
from dreambooth.pocket.pretraining.latents import vae_hash
from dreambooth.pocket.pretraining.model_card import EXTRAS, card, quality_table
from dreambooth.pocket.pretraining.spec import PretrainSpec
from dreambooth.pocket.pretraining.tokenizer import build_tokenizer

log = logging.getLogger(__name__)


def pretrain_export(spec: PretrainSpec) -> None:
    """Write pipeline, encoders, probe and card, all or nothing; at any time of the training.

    The pipeline is in half precision. What the cache lacks of EXTRAS comes from `init`, or stays
    as the target has it.

    Raises:
        UserError: a checkpoint that does not fit the configured sizes or the VAE in the cache.
    """
    folder, target = spec.cache, spec.export_to or FOLDER
    tokenizer = build_tokenizer(world.vocabulary())
    network = build_denoiser(spec, tokenizer)
    state = load_average(network, folder / "denoiser.pt")
    check_vae(state, folder)
    networks = {"unet": network.unet, "text_encoder": network.text_encoder}
    networks["vae"] = trained_vae(folder / "vae")
    pipeline = assemble(networks, tokenizer, build_scheduler()).to(dtype=torch.float16)
    sources = [folder, *([] if spec.init is None else [spec.init]), target]
    found = {part: _first_with(part, sources) for part in EXTRAS.values()}
    if absent := [part for part in found if found[part] is None]:
        log.warning(
            "%s will lack %s: stages encoders and probe make them", target, ", ".join(absent)
        )
    with atomic(target) as temporary:
        pipeline.save_pretrained(temporary, safe_serialization=True)
        load_in_float32(temporary / "text_encoder" / "config.json")
        for part, source in found.items():
            if source is not None:
                _copy(source / part, temporary / part)
        quality = quality_table(folder / "quality.json", weights_hash(temporary))
        record = training_record(progress_of(state), folder / "denoiser.jsonl")
        (temporary / "README.md").write_text(card(record, folder, found, quality))


def load_in_float32(config: Path) -> None:
    """Make transformers load float16 weights in float32, as diffusers loads the other networks."""
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "dtype": "float32"}, indent=2) + "\n")


def check_vae(state: dict[str, Any], folder: Path) -> None:
    """Check that the denoiser was last trained on latents of the VAE in the cache.

    Raises:
        UserError: it was trained on those of another VAE.
    """
    last = state["sessions"][-1] if state["sessions"] else {}
    if last.get("vae") != vae_hash(folder / "vae"):
        raise UserError(
            f"the denoiser in {folder} was last trained on latents of another VAE than "
            f"{folder / 'vae'}: train it on this one's first (stages latents and denoiser or flow)."
        )


def trained_vae(folder: Path, **changes: Any) -> AutoencoderKL:
    """Load the VAE, without the path of this machine that loading leaves in its config.

    Args:
        changes: values of its config that are to be others.
    """
    loaded = AutoencoderKL.from_pretrained(folder, local_files_only=True)
    config = {k: v for k, v in loaded.config.items() if k != "_name_or_path"}
    vae = cast(AutoencoderKL, AutoencoderKL.from_config({**config, **changes}))
    vae.load_state_dict(loaded.state_dict())
    return vae


def _first_with(part: str, folders: list[Path]) -> Path | None:
    """Find the first folder that holds a part with its weights."""
    weights = part if part.endswith(".safetensors") else f"{part}/model.safetensors"
    return next((folder for folder in folders if (folder / weights).is_file()), None)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)

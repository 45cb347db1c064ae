"""Read the parts of a model folder; what is damaged or does not fit is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from transformers import CLIPTokenizer
from transformers.utils import logging as transformers_logging

from dreambooth.diffusion.samplers import require_family
from dreambooth.errors import UserError, reason
from dreambooth.model.source import Source, fix_for

# In an exported scheduler_config.json: the config of the training noise schedule, without the
# options of the sampler that the file describes. diffusers ignores names that begin with `_`.
TRAINING_SCHEDULE = "_training_schedule"
MOST_TOKENS = 512  # of max_sequence_length, in the pipelines of SD3 and FLUX.2


def load_network(source: Source, network: str) -> Any:
    """Load one network of a model folder: float32, evaluation mode, frozen, safetensors only.

    The global random state is left as it was.

    Raises:
        UserError: names the network when weights are damaged, not finite, absent, or do not fit its
            config.
    """
    where = source.folder / network
    try:
        with keep_random_state(), quiet():
            model, info = source.layout.networks[network].from_pretrained(
                where,
                variant=source.variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except Exception as error:  # each library has its own types for a damaged file
        advice = fix_for(source.folder)
        raise UserError(f"{where} cannot be loaded ({reason(error)}): {advice}.") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(
            f"{where} lacks {len(missing)} tensors, {missing[0]} first: {fix_for(source.folder)}."
        )
    for name, weights in model.state_dict().items():
        # a sum is quick, and may overflow where all is well
        if weights.is_floating_point() and not weights.sum().isfinite():
            if not weights.isfinite().all():
                advice = fix_for(source.folder)
                raise UserError(f"{where} holds numbers that are not finite, in {name}: {advice}.")
    return model.eval().requires_grad_(False)


def load_tokenizer(folder: Path, name: str = "tokenizer", kind: Any = CLIPTokenizer) -> Any:
    """Load a tokenizer of the folder, by its class; most are CLIP's.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return kind.from_pretrained(folder / name)
    except Exception as error:
        raise UserError(
            f"{folder / name} cannot be loaded ({reason(error)}): {fix_for(folder)}."
        ) from error


def load_schedulers(folder: Path, training_kind: Any = DDPMScheduler) -> tuple[Any, SchedulerMixin]:
    """Load the training schedule, as `training_kind`, and the sampler that the folder names.

    Raises:
        UserError: the file cannot be read, or names no scheduler of diffusers, or one that is not
            for the process that `training_kind` is of.
    """
    where = folder / "scheduler" / "scheduler_config.json"
    try:
        config, of_diffusion = json.loads(where.read_text()), training_kind is DDPMScheduler
        if of_diffusion:
            # latents are never clipped; where the file is silent, diffusers' default would be to
            config = {"clip_sample": False, **config}
        schedule = config.pop(TRAINING_SCHEDULE, config)
        sampler = getattr(diffusers, config["_class_name"]).from_config(config)
        require_family(config["_class_name"], config, not of_diffusion)
        return training_kind.from_config(schedule), sampler
    except Exception as error:
        raise UserError(
            f"{where} cannot be loaded ({reason(error)}): {fix_for(folder)}."
        ) from error


def check_fit(folder: Path, tokenizer: CLIPTokenizer, unet, vae, text_encoder, *others) -> None:
    """Refuse parts of different models, which load one by one but cannot work together.

    The tokenizer is `text_encoder`'s; the denoiser is given the embeddings of `others` too.

    Raises:
        UserError: names the two parts and the sizes that differ.
    """
    width = sum(encoder.config.hidden_size for encoder in (text_encoder, *others))
    if unet.config.cross_attention_dim != width:
        raise UserError(
            f"{folder}/unet expects embeddings of width {unet.config.cross_attention_dim} but its "
            f"text_encoder gives {width}: {fix_for(folder, 'take both from one model')}."
        )
    if unet.config.in_channels != vae.config.latent_channels:
        raise UserError(
            f"{folder}/unet takes {unet.config.in_channels} channels but its vae gives "
            f"{vae.config.latent_channels}: "
            f"{fix_for(folder, 'inpainting and depth models cannot be trained here')}."
        )
    check_words(folder, tokenizer, text_encoder)


def check_words(folder: Path, tokenizer: Any, text_encoder: Any) -> None:
    """Refuse a tokenizer with more tokens than its text encoder knows.

    Raises:
        UserError: gives both numbers.
    """
    vocabulary = text_encoder.config.vocab_size
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"{folder}/tokenizer has {len(tokenizer)} tokens but its text_encoder knows "
            f"{vocabulary}: {fix_for(folder, 'take both from one model')}."
        )


def refuse_misfit(folder: Path, faults: Mapping[str, bool]) -> None:
    """Refuse a transformer that cannot work with the other parts of its folder.

    Args:
        faults: what the transformer takes and is not given, in words, and whether that is so.

    Raises:
        UserError: names the first fault that is there.
    """
    for fault, is_there in faults.items():
        if is_there:
            advice = fix_for(folder, "take both from one model")
            raise UserError(f"{folder}/transformer {fault}: {advice}.")


@contextmanager
def keep_random_state() -> Iterator[None]:
    """Restore torch's global generators afterwards: a library draws initial values from them."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Hide transformers' progress bars: loading takes about a second."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def require_length(source: Source, least: int, what: str, known: str) -> None:
    """Refuse a `max_sequence_length` that diffusers' pipelines cannot be told, and none at all.

    Args:
        what: that many of what, as a message says it.
        known: the `model=` whose configuration has a length.

    Raises:
        UserError: names the length and what it must be.
    """
    length = source.max_sequence_length
    if type(length) is not int or not least <= length <= MOST_TOKENS:
        raise UserError(
            f"model.max_sequence_length={length} must be a whole number from {least} to "
            f"{MOST_TOKENS} for {source.path}: the {what}. model={known} has one."
        )

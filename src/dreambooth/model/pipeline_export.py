"""Write a model as a diffusers pipeline folder, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedModel

from dreambooth.files import atomic
from dreambooth.model.interface import BaseModel
from dreambooth.model.loading import TRAINING_SCHEDULE, quiet


def write_pipeline(
    model: BaseModel, folder: Path, scheduler: SchedulerMixin | None, dtype: torch.dtype
) -> None:
    """Write `folder` beside itself and rename it; an earlier one is replaced, or kept on failure.

    safetensors in `dtype`. Adapters that are not merged are left out. `scheduler`, or else the
    model's own, is the sampler that the folder names.
    """
    pipeline = model.pipeline(scheduler)
    clean = {name: _clean(model, name, dtype) for name in model.layout.networks}
    pipeline.register_modules(**clean, scheduler=with_training_schedule(model, pipeline.scheduler))
    for name in model.layout.tokenizers:
        _forget_calls(getattr(pipeline, name))
    with atomic(folder) as new:
        with quiet(), _no_warnings():  # one for each network that the model lacks, as SD3's T5
            pipeline.save_pretrained(new, safe_serialization=True)
        for name in model.text_encoders:
            if isinstance(clean[name], CLIPTextModel):
                _prefix_text_encoder(new / name)
        # vocab.json and merges.txt, which version 4 of transformers looks for
        for name in model.layout.tokenizers:
            if isinstance(tokenizer := getattr(model, name), CLIPTokenizer):
                tokenizer.backend_tokenizer.model.save(str(new / name))


def _forget_calls(tokenizer: Any) -> None:
    """Drop the padding and truncation of a tokenizer's last call, which its file would hold."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()


@contextmanager
def _no_warnings() -> Iterator[None]:
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(level)


def exact_state(model: BaseModel, name: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """List a network's weights in `dtype`, from float32, without adapters that are not merged."""
    state = (model.masters.get(name) or model.base_state(name)).items()
    return {key: x.to(dtype) if x.is_floating_point() else x for key, x in state}


def _clean(model: BaseModel, name: str, dtype: torch.dtype) -> Any:
    """Make the network as its own class saves it: float32 by reference, no adapter inside."""
    module, state = model.network(name), exact_state(model, name, dtype)
    with torch.device("meta"):
        if isinstance(module, PreTrainedModel):
            clean = type(module)(deepcopy(module.config))  # saving writes the dtype into it
        else:
            # without the path of this machine that loading left there
            config = {k: v for k, v in module.config.items() if k != "_name_or_path"}
            clean = type(module).from_config(config)
    clean.load_state_dict(state, strict=True, assign=True)
    return clean


def with_training_schedule(model: BaseModel, sampler: Any) -> SchedulerMixin:
    """Copy a sampler with the model's training noise schedule in its config.

    Without it, a model that is loaded from the folder could not tell the sampler's options and
    defaults from the noise schedule, and would hand them on to every other sampler.
    """
    config = model.noise_scheduler.config
    dropped = {*config.get("_use_default_values", ()), "_use_default_values", "_diffusers_version"}
    schedule = {key: value for key, value in config.items() if key not in dropped}
    sampler = deepcopy(sampler)
    sampler.register_to_config(**{TRAINING_SCHEDULE: schedule})
    return sampler


def _prefix_text_encoder(folder: Path) -> None:
    """Name the weights `text_model.*`: every version of transformers and every converter reads it.

    Version 5 drops the prefix from models that were not loaded with it.
    """
    file = folder / "model.safetensors"
    prefix = "text_model."
    state = {prefix + name.removeprefix(prefix): x for name, x in load_file(file).items()}
    save_file(state, file, metadata={"format": "pt"})

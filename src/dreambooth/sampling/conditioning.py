"""What a pipeline is told of prompts: the words, or embeddings that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dreambooth.model.embeddings import Embeddings
from dreambooth.model.interface import BaseModel
from dreambooth.model.offload import alone, waits
from dreambooth.sampling.spec import Sampling


def keep_prompts(model: BaseModel, prompts: Sequence[str], sampling: Sampling) -> None:
    """Embed what is new of the prompts if all that embeds them waits: it is not trained in the run.

    So each comes to the GPU once, alone there, and the encoders need not come back for it. What
    guidance leads away from is a prompt too.
    """
    if not waits(model, model.prompt_encoders):
        return
    asked = [(prompt, False) for prompt in prompts]
    if sampling.guidance_scale > 1:
        asked.append((sampling.negative_prompt, True))
    missing = [each for each in dict.fromkeys(asked) if _key(model, *each) not in model.kept]
    if missing:
        with alone(model, *model.prompt_encoders):
            for prompt, is_negative in missing:
                embed = model.embed_negative if is_negative else lambda one: model.embed([one])
                model.kept[_key(model, prompt, is_negative)] = embed(prompt)[0].to("cpu")


def told(model: BaseModel, prompts: Sequence[str], sampling: Sampling) -> dict[str, Any]:
    """Name what a pipeline's call is told of N prompts, and of what guidance leads away from.

    That is their words, or what `keep_prompts` has kept.
    """
    negative = sampling.negative_prompt
    if not waits(model, model.prompt_encoders):
        # none where there is none: SDXL then guides away from zeros, not from "" embedded
        without = {"negative_prompt": [negative] * len(prompts)} if negative else {}
        return {"prompt": list(prompts), **without}
    arguments = as_arguments("", _kept(model, prompts, False))
    if sampling.guidance_scale > 1:
        arguments |= as_arguments("negative_", _kept(model, [negative] * len(prompts), True))
    return arguments


def as_arguments(prefix: str, embeddings: Embeddings) -> dict[str, Tensor]:
    """Name embeddings as diffusers' pipelines do."""
    named = {f"{prefix}prompt_embeds": embeddings.tokens}
    if "text_embeds" in embeddings.extra:
        named[f"{prefix}pooled_prompt_embeds"] = embeddings.extra["text_embeds"]
    return named


def _kept(model: BaseModel, prompts: Sequence[str], is_negative: bool) -> Embeddings:
    each = [model.kept[_key(model, prompt, is_negative)] for prompt in prompts]
    return Embeddings.stack(each).to(model.device)


def _key(model: BaseModel, prompt: str, is_negative: bool) -> tuple[Any, ...]:
    """Name an embedding by what it depends on: the prompt, and what it is computed in."""
    kind = model.device.type
    computed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    dtypes = tuple(model.network(name).dtype for name in model.prompt_encoders)
    return prompt, is_negative, computed, dtypes

"""Frames of a film that moves through the latents and the prompts of a model, and closes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dreambooth.diffusion.samplers import slerp
from dreambooth.model.embeddings import Embeddings
from dreambooth.model.interface import BaseModel
from dreambooth.sampling.conditioning import as_arguments
from dreambooth.sampling.draw import autocast, evaluation_mode
from dreambooth.sampling.spec import Sampling


@dataclass(frozen=True)
class Morph:
    """A closed loop of `frames` frames.

    The initial latents pass those of every seed at equal intervals and return to the first, and so
    do the embeddings of the prompts. At a seed's own frame the picture is that of the seed, with a
    sampler that adds no noise; one that does takes the same noise for every frame.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    frames: int

    @property
    def facts(self) -> dict[str, Any]:
        """What the frames depend on beside model and sampler, as JSON values."""
        return {"morph": asdict(self)}

    def between(self, points: Tensor, frame: int) -> Tensor:
        """Interpolate `points [K, ...]` on the sphere, at a frame's place in the loop (SLERP)."""
        place = frame * len(points) / self.frames
        start, fraction = int(place), place - int(place)
        if fraction == 0:
            return points[start]
        return slerp(points[start], points[(start + 1) % len(points)], fraction)


@torch.no_grad()
def draw_frames(
    model: BaseModel, morph: Morph, numbers: Sequence[int], sampling: Sampling
) -> list[Image.Image]:
    """Draw frames by their numbers, from 0, as one batch: RGB, `resolution` pixels square."""
    pipeline: Any = model.pipeline(sampling.build(model.process))
    with evaluation_mode(pipeline), autocast(model, pipeline, sampling.dtype):
        noise = _noise(model, morph.seeds, sampling.resolution)
        prompts, negative = (
            model.embed(morph.prompts),
            model.embed_negative(sampling.negative_prompt),
        )
        latents = torch.stack([morph.between(noise, number) for number in numbers])
        between = _interpolated(morph, prompts, numbers)
        return pipeline(
            **as_arguments("", between),
            **as_arguments("negative_", negative[[0] * len(numbers)]),
            latents=latents.to(model.device, prompts.tokens.dtype),
            generator=[torch.Generator().manual_seed(morph.seeds[0]) for _ in numbers],
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            height=sampling.resolution,
            width=sampling.resolution,
            **model.drawing_options,
        ).images


def _interpolated(morph: Morph, prompts: Embeddings, numbers: Sequence[int]) -> Embeddings:
    """Interpolate everything that K prompts are embedded as, at the frames' places."""

    def between(points: Tensor) -> Tensor:
        return torch.stack([morph.between(points, number) for number in numbers])

    extra = {name: between(points) for name, points in prompts.extra.items()}
    return Embeddings(between(prompts.tokens), extra)


def _noise(model: BaseModel, seeds: Sequence[int], resolution: int) -> Tensor:
    """Draw every seed's initial latents `[K,C,h,w]` as the pipeline draws them: on the CPU."""
    shape = (1, *model.latent_shape(resolution))
    return torch.cat(
        [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    )

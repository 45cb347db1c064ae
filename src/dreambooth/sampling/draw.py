"""Draw images: each depends on its own seed, whatever batch it is made in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from PIL import Image

from dreambooth.errors import UserError
from dreambooth.model.stable_diffusion import LatentDiffusion
from dreambooth.sampling.spec import Sampling


@torch.no_grad()
def draw(
    model: LatentDiffusion, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling
) -> list[Image.Image]:
    """Draw one RGB image for each (prompt, seed) pair, `resolution` pixels square.

    The initial latents and any sampler noise of an image come from a CPU generator seeded with
    its own seed, so a batch size changes nothing but floating-point rounding.
    """
    pipeline = model.pipeline(sampling.build(model.noise_scheduler.config))
    images: list[Image.Image] = []
    with evaluation_mode(pipeline), _one_dtype(pipeline, sampling.dtype):
        for start in range(0, len(prompts), sampling.batch_size):
            part = slice(start, start + sampling.batch_size)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
            images += pipeline(
                list(prompts[part]),
                negative_prompt=[sampling.negative_prompt] * len(generators),
                generator=generators,
                num_inference_steps=sampling.num_inference_steps,
                guidance_scale=sampling.guidance_scale,
                height=sampling.resolution,
                width=sampling.resolution,
            ).images
    return images


def torch_device(device: str) -> str:
    """Return PyTorch's name of `auto`, `cpu` or `cuda`.

    Raises:
        UserError: `cuda` where there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda needs a GPU, and PyTorch finds none here: use device=auto.")
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    return automatic if device == "auto" else device


@contextmanager
def evaluation_mode(pipeline: Any) -> Iterator[None]:
    """Put a pipeline's modules in eval mode, and back: sampling must not change training."""
    modules = [m for m in pipeline.components.values() if isinstance(m, torch.nn.Module)]
    modes = [m.training for m in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)


def _one_dtype(pipeline: Any, dtype: str) -> AbstractContextManager:
    """Autocast where `dtype` asks for it, or where half-precision parts lie beside float32 ones."""
    modules = [m for m in pipeline.components.values() if isinstance(m, torch.nn.Module)]
    held = {next(m.parameters()).dtype for m in modules}
    half = {torch.float16, torch.bfloat16} & {*held, getattr(torch, dtype)}
    if not half or (len(held) == 1 and held == half):
        return nullcontext()
    return torch.autocast(pipeline.device.type, sorted(half, key=str)[0])

"""Draw images, each from its own seed, whatever batch it is drawn in."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion
from diffusers.pipelines.stable_diffusion_3 import pipeline_stable_diffusion_3
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl
from PIL import Image

from dreambooth.errors import UserError
from dreambooth.model.interface import BaseModel
from dreambooth.model.offload import one_at_a_time
from dreambooth.sampling.conditioning import keep_prompts, told
from dreambooth.sampling.spec import Sampling


class _ShortTruncation(logging.Filter):
    """Word diffusers' warning of a prompt that is cut, which repeats thousands of padding tokens.

    It comes once for each text that is cut.
    """

    def __init__(self) -> None:
        super().__init__()
        self.known: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; leave out one that repeats another."""
        start, _, cut = record.getMessage().partition(" tokens: ")
        if not start.startswith("The following part of your input was truncated"):
            return True
        texts = re.findall(r"'([^']*)'", cut.replace("<|endoftext|>", ""))
        new = {text for text in texts if text.strip()} - self.known
        self.known |= new
        told = "; ".join(sorted(text.strip() for text in new))
        record.msg = "warning: a prompt is longer than %s tokens, so this is cut: %s"
        record.args = start.split()[-1], told  # the limit ends diffusers' sentence
        return bool(new)


for _module in (
    pipeline_stable_diffusion,
    pipeline_stable_diffusion_xl,
    pipeline_stable_diffusion_3,
):
    logging.getLogger(_module.__name__).addFilter(_ShortTruncation())
# a second warning of the same prompt, of indexing errors that cannot come: it is cut
logging.getLogger("transformers.tokenization_utils_base").addFilter(
    lambda record: not record.getMessage().startswith("Token indices sequence length")
)


@torch.no_grad()
def draw(
    model: BaseModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Image.Image]:
    """Draw one RGB image for each (prompt, seed) pair, `resolution` pixels square.

    The initial latents and any sampler noise of an image come from a CPU generator seeded with
    its own seed, so a batch size changes nothing but floating-point rounding.

    Args:
        advance: is told the number of images of each batch when it is drawn.

    Raises:
        UserError: a negative prompt for a model that takes none.
    """
    pipeline: Any = model.pipeline(sampling.build(model.process))
    images: list[Image.Image] = []
    if (negative := sampling.negative_prompt) and not model.takes_negative_prompt:
        raise UserError(
            f"negative_prompt={negative} cannot be used: the pipeline of {model.layout.described} "
            "takes none."
        )
    with evaluation_mode(pipeline), autocast(model, pipeline, sampling.dtype):
        keep_prompts(model, prompts, sampling)
        with one_at_a_time(model, pipeline):
            for start in range(0, len(prompts), sampling.batch_size):
                part = slice(start, start + sampling.batch_size)
                generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
                images += pipeline(
                    **told(model, prompts[part], sampling),
                    generator=generators,
                    num_inference_steps=sampling.num_inference_steps,
                    guidance_scale=sampling.guidance_scale,
                    height=sampling.resolution,
                    width=sampling.resolution,
                    **model.drawing_options,
                ).images
                advance(len(generators))
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
    """Put a pipeline's networks in eval mode, and back: drawing must not change training."""
    networks = _networks(pipeline)
    modes = [network.training for network in networks]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)


def _networks(pipeline: Any) -> list[torch.nn.Module]:
    return [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]


@contextmanager
def autocast(model: BaseModel, pipeline: Any, dtype: str) -> Iterator[None]:
    """Compute in half precision if `dtype` is one, or if some networks were cast while frozen.

    The dtype of those networks comes first, because autocast does not convert their weights. An
    autoencoder that overflows in float16 decodes in float32.
    """
    present = {next(network.parameters()).dtype for network in _networks(pipeline)}
    wanted = next((d for d in present if d != torch.float32), getattr(torch, dtype))
    if present == {wanted}:
        yield
        return
    exact = wanted == torch.float16 and model.overflows_in_float16
    with torch.autocast(model.device.type, wanted):
        with _decoded_exactly(pipeline, model.device.type) if exact else nullcontext():
            yield


@contextmanager
def _decoded_exactly(pipeline: Any, device: str) -> Iterator[None]:
    """Have a pipeline decode outside autocast."""
    vae, decode = pipeline.vae, pipeline.vae.decode

    def outside(latents: torch.Tensor, **options: Any) -> Any:
        with torch.autocast(device, enabled=False):
            return decode(latents.float(), **options)

    vae.decode = outside
    try:
        yield
    finally:
        del vae.decode  # the class's own again

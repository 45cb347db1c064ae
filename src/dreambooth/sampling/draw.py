"""Images from a pipeline: each depends on its own seed, whatever batch it was made in."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw, ImageFont

from dreambooth.errors import UserError
from dreambooth.files import atomic, file_hash


@dataclass(frozen=True)
class Sampling:
    """How images are drawn; `resolution` in pixels, `batch_size` in images."""

    num_inference_steps: int
    guidance_scale: float
    resolution: int
    batch_size: int
    negative_prompt: str = ""


def generate(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
) -> list[Image.Image]:
    """One image for each (prompt, seed) pair, RGB, `resolution` pixels square.

    The initial latents and any sampler noise of an image come from a CPU generator seeded with
    its own seed, so a batch size changes nothing but floating-point rounding.
    """
    images: list[Image.Image] = []
    with evaluating(pipeline), one_dtype(pipeline):
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
    """PyTorch's name of `auto`, `cpu` or `cuda`.

    Raises:
        UserError: `cuda` where there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda needs a GPU, and PyTorch finds none here: use device=auto.")
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    return automatic if device == "auto" else device


@contextmanager
def evaluating(pipeline: DiffusionPipeline) -> Iterator[None]:
    """Modules in eval mode, afterwards as they were: sampling must not change training."""
    modules = [m for m in pipeline.components.values() if isinstance(m, torch.nn.Module)]
    modes = [m.training for m in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)


def one_dtype(pipeline: DiffusionPipeline) -> AbstractContextManager:
    """Autocast where frozen parts were cast to half precision beside trained float32 ones."""
    modules = [m for m in pipeline.components.values() if isinstance(m, torch.nn.Module)]
    dtypes = {module.dtype for module in modules}
    if len(dtypes) == 1:
        return nullcontext()
    half = next(dtype for dtype in dtypes if dtype != torch.float32)
    return torch.autocast(pipeline.device.type, half)


MANIFEST = ("file", "prompt", "class_only", "seed", "sha256")


def save_images(
    folder: Path,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    class_only: Sequence[str],
    seeds: Sequence[int],
) -> None:
    """Write PNGs and `manifest.csv`: file, prompt, prompt without identifier, seed, SHA-256."""
    rows = []
    numbers: dict[str, int] = {}
    for image, prompt, plain, seed in zip(images, prompts, class_only, seeds, strict=True):
        number = numbers.setdefault(prompt, len(numbers))
        name = f"{number:02d}_{slug(prompt)}_seed{seed}.png"
        with atomic(folder / name) as temporary:
            image.save(temporary, format="PNG")
        rows.append((name, prompt, plain, seed, file_hash(folder / name)))
    with atomic(folder / "manifest.csv") as temporary, open(temporary, "w", newline="") as file:
        csv.writer(file).writerows([MANIFEST, *rows])


def slug(text: str, length: int = 60) -> str:
    """A prompt as part of a file name: letters, digits and dashes."""
    return "-".join("".join(c if c.isalnum() else " " for c in text).lower().split())[:length]


def grid(
    images: Sequence[Image.Image], columns: int, labels: Sequence[str] = (), cell: int = 192
) -> Image.Image:
    """Images row by row, `columns` a row, each row under its label."""
    rows = -(-len(images) // columns)
    margin, header = 4, 20 if labels else 0
    sheet = Image.new(
        "RGB",
        (columns * (cell + margin) + margin, rows * (cell + margin + header) + margin),
        "white",
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        x, y = margin + column * (cell + margin), margin + row * (cell + margin + header)
        if labels and column == 0:
            draw.text((x, y), labels[row], fill="black", font=font)
        # a 64 px image keeps its pixels, a larger one is reduced
        kernel = Image.Resampling.NEAREST if image.width < cell else Image.Resampling.LANCZOS
        sheet.paste(image.resize((cell, cell), kernel), (x, y + header))
    return sheet

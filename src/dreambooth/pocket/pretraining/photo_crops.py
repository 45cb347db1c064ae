"""Random crops of real photos, which the VAE trains on beside rendered scenes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dreambooth.data.photos import load_photo


def photo_files(folder: Path) -> list[Path]:
    """List every photo below a folder, sorted."""
    suffixes = {".jpg", ".jpeg", ".png"}
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes)


def photo_crops(files: list[Path], crops_each: int, seed: int, size: int = 64) -> np.ndarray:
    """Cut random squares at random scales out of photos, half of them mirrored.

    Returns:
        `[len(files) * crops_each, size, size, 3]` uint8.

    Raises:
        UserError: a photo that cannot be read.
    """
    return np.stack(list(_crops(files, crops_each, seed, size)))


def _crops(files: list[Path], crops_each: int, seed: int, size: int) -> Iterator[np.ndarray]:
    for number, file in enumerate(files):
        image = load_photo(file)
        image.thumbnail((8 * size, 8 * size))
        rng = np.random.default_rng([seed, number])
        for _ in range(crops_each):
            side = int(min(image.size) * rng.uniform(0.3, 1.0))
            left = int(rng.integers(image.width - side + 1))
            top = int(rng.integers(image.height - side + 1))
            box = (left, top, left + side, top + side)
            crop = np.asarray(image.resize((size, size), Image.Resampling.BOX, box=box))
            yield crop[:, ::-1] if rng.random() < 0.5 else crop

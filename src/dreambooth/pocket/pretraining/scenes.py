"""Rendered scenes and photo crops on disk, for pretraining: made once, in shards, by all cores."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from dreambooth.data.photos import load_photo
from dreambooth.files import atomic
from dreambooth.pocket import world

SHARD = 4096  # scenes


def save_array(path: Path, array: np.ndarray) -> None:
    """Write `path` (.npy): absent or whole."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def pick(shards: list[np.ndarray], indices: Tensor) -> np.ndarray:
    """The rows with these indices `[N]`, counted over all shards."""
    return np.stack([shards[i // SHARD][i % SHARD] for i in indices.tolist()])


def render_shard(index: int, folder: Path, split: str) -> Path:
    """Scenes with seeds `index * SHARD ...` => `[4096,64,64,3]` uint8 in one `.npy`."""
    path = folder / f"{split}_{index:05d}.npy"
    if not path.exists():
        seeds = range(index * SHARD, (index + 1) * SHARD)
        scenes = [world.render(world.sample_scene(s, split=split)) for s in seeds]
        save_array(path, np.stack(scenes))
    return path


def scene_shards(folder: Path, count: int, split: str, workers: int, first: int = 0) -> list[Path]:
    """`count` scenes, a multiple of SHARD, from shard `first` on, rendered if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = range(first, first + count // SHARD)
    # spawned, since a forked process must not inherit torch's thread pool
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(partial(render_shard, folder=folder, split=split), shards))


def photo_files(folder: Path) -> list[Path]:
    """Every photo below a folder, sorted."""
    suffixes = {".jpg", ".jpeg", ".png"}
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes)


def photo_crops(files: list[Path], crops_each: int, seed: int, size: int = 64) -> np.ndarray:
    """Random square cuts of photos at random scales, and flips => `[N,size,size,3]` uint8.

    Raises UserError naming a photo that cannot be read.
    """
    return np.stack(list(_cuts(files, crops_each, seed, size)))


def _cuts(files: list[Path], crops_each: int, seed: int, size: int) -> Iterator[np.ndarray]:
    for number, file in enumerate(files):
        image = load_photo(file)
        image.thumbnail((8 * size, 8 * size))
        rng = np.random.default_rng([seed, number])
        for _ in range(crops_each):
            side = int(min(image.size) * rng.uniform(0.3, 1.0))
            left = int(rng.integers(image.width - side + 1))
            top = int(rng.integers(image.height - side + 1))
            box = (left, top, left + side, top + side)
            cut = np.asarray(image.resize((size, size), Image.Resampling.BOX, box=box))
            yield cut[:, ::-1] if rng.random() < 0.5 else cut

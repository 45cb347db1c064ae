"""Rendered scenes on disk, in files ("shards") of equal size, made once and by all cores.

Imports no torch, so that the processes that render start fast.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dreambooth.files import atomic
from dreambooth.pocket import world

if TYPE_CHECKING:
    from torch import Tensor

SHARD = 4096  # scenes per file
PROBE_SHARD = 2442  # first of the probe: seeds from 10,002,432 on, which no other stage may reach


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array to `path` (.npy), whole or not at all."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def open_shards(paths: list[Path]) -> list[np.ndarray]:
    """Open files of arrays without reading them into memory."""
    return [np.load(path, mmap_mode="r") for path in paths]


def pick(arrays: list[np.ndarray], indices: Tensor) -> np.ndarray:
    """Gather the rows with the given indices `[N]`, counted over all shards in turn."""
    return np.stack([arrays[i // SHARD][i % SHARD] for i in indices.tolist()])


def scene_shards(folder: Path, count: int, split: str, workers: int, first: int = 0) -> list[Path]:
    """Return the files of `count` scenes from shard `first` on, rendering what is missing.

    Args:
        count: a multiple of SHARD.
        split: as in `world.sample_scene`.
        workers: processes that render.
    """
    folder.mkdir(parents=True, exist_ok=True)
    indices = range(first, first + count // SHARD)
    missing = [i for i in indices if not _path(folder, split, i).exists()]
    if missing:
        render = partial(render_shard, folder=folder, split=split, size=SHARD)
        # spawned, since a forked process must not inherit torch's thread pool
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(render, missing))
    return [_path(folder, split, i) for i in indices]


def render_shard(index: int, folder: Path, split: str, size: int) -> Path:
    """Render the scenes with seeds `index * size ...` into one file, uint8 `[size,64,64,3]`."""
    path = _path(folder, split, index)
    if not path.exists():
        seeds = range(index * size, (index + 1) * size)
        save_array(
            path, np.stack([world.render(world.sample_scene(s, split=split)) for s in seeds])
        )
    return path


def _path(folder: Path, split: str, index: int) -> Path:
    return folder / f"{split}_{index:05d}.npy"

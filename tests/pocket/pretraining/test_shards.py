"""Rendered scenes on disk."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from dreambooth.pocket import world
from dreambooth.pocket.pretraining import shards
from spine import environment


@pytest.fixture
def small(monkeypatch) -> int:
    monkeypatch.setattr(shards, "SHARD", 6)
    return 6


def test_a_shard_is_its_scenes_rendered_one_by_one(small, tmp_path):
    path = shards.render_shard(2, tmp_path, "train", small)
    shard = np.load(path)
    assert shard.shape == (small, 64, 64, 3) and shard.dtype == np.uint8
    for place, seed in enumerate(range(12, 18)):
        assert np.array_equal(shard[place], world.render(world.sample_scene(seed, split="train")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train_00002.npy"]


def test_a_shard_is_made_once(small, tmp_path):
    path = shards.render_shard(0, tmp_path, "train", small)
    before = path.stat()
    path.chmod(0o444)
    assert shards.render_shard(0, tmp_path, "train", small) == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_ino == before.st_ino


def test_splits_do_not_share_a_file(small, tmp_path):
    train, held = (
        shards.render_shard(0, tmp_path, split, small) for split in ("train", "held_out")
    )
    assert train != held and not np.array_equal(np.load(train), np.load(held))


def test_missing_scenes_are_rendered_by_processes(small, tmp_path):
    made = shards.scene_shards(tmp_path / "processes", 18, "train", workers=2)
    own = [shards.render_shard(index, tmp_path, "train", small) for index in range(3)]
    assert [path.name for path in made] == [path.name for path in own]
    assert [path.read_bytes() for path in made] == [path.read_bytes() for path in own]


def test_no_process_starts_where_nothing_is_missing(small, tmp_path, monkeypatch):
    made = [shards.render_shard(index, tmp_path, "train", small) for index in range(3)]
    monkeypatch.setattr(shards, "ProcessPoolExecutor", None)
    assert shards.scene_shards(tmp_path, 18, "train", workers=2) == made
    assert shards.scene_shards(tmp_path, 6, "train", workers=1, first=2) == made[2:]


def test_rows_are_counted_over_all_shards(small):
    arrays = [np.arange(6), np.arange(6, 12)]
    assert shards.pick(arrays, torch.tensor([11, 0, 6, 5])).tolist() == [11, 0, 6, 5]


def test_a_process_that_renders_starts_without_torch():
    code = "import sys, dreambooth.pocket.pretraining.shards; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True
    )
    assert done.stdout.split() == ["False"], done.stderr


def test_a_broken_write_leaves_what_was_there(tmp_path, monkeypatch):
    shards.save_array(tmp_path / "a/b.npy", np.arange(3))

    def half(file, array):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", half)
    with pytest.raises(KeyboardInterrupt):
        shards.save_array(tmp_path / "a/b.npy", np.arange(4))
    assert np.load(tmp_path / "a/b.npy").tolist() == [0, 1, 2]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.npy"]

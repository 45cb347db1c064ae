"""Scenes and photo crops on disk."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dreambooth.errors import UserError
from dreambooth.pocket import world
from dreambooth.pocket.pretraining import scenes


@pytest.fixture
def small(monkeypatch) -> int:
    monkeypatch.setattr(scenes, "SHARD", 6)
    return 6


def test_a_shard_is_its_scenes_rendered_one_by_one(small, tmp_path):
    path = scenes.render_shard(2, tmp_path, "train")
    shard = np.load(path)
    assert shard.shape == (small, 64, 64, 3) and shard.dtype == np.uint8
    for place, seed in enumerate(range(12, 18)):
        assert np.array_equal(shard[place], world.render(world.sample_scene(seed, split="train")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train_00002.npy"]


def test_a_shard_is_made_once(small, tmp_path):
    path = scenes.render_shard(0, tmp_path, "train")
    before = path.stat()
    path.chmod(0o444)
    assert scenes.render_shard(0, tmp_path, "train") == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_ino == before.st_ino


def test_splits_do_not_share_a_file(small, tmp_path):
    train, held = (scenes.render_shard(0, tmp_path, split) for split in ("train", "held_out"))
    assert train != held and not np.array_equal(np.load(train), np.load(held))


@pytest.mark.slow
def test_scenes_come_in_whole_shards_over_processes(small, tmp_path):
    # made beforehand, since a spawned process renders shards of the real size
    made = [scenes.render_shard(index, tmp_path, "train") for index in range(3)]
    assert scenes.scene_shards(tmp_path, 18, "train", workers=2) == made
    assert scenes.scene_shards(tmp_path, 6, "train", workers=1, first=2) == made[2:]


def test_a_broken_write_leaves_what_was_there(tmp_path, monkeypatch):
    scenes.save_array(tmp_path / "a/b.npy", np.arange(3))

    def half(file, array):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", half)
    with pytest.raises(KeyboardInterrupt):
        scenes.save_array(tmp_path / "a/b.npy", np.arange(4))
    assert np.load(tmp_path / "a/b.npy").tolist() == [0, 1, 2]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.npy"]


def test_photos_are_found_below_a_folder_in_order(tmp_path):
    for name in ("b/2.JPG", "a/1.png", "a/notes.txt", "c.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [str(p.relative_to(tmp_path)) for p in scenes.photo_files(tmp_path)]
    assert found == ["a/1.png", "b/2.JPG", "c.jpeg"]


def test_a_damaged_photo_is_one_sentence(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="a.png is not an image"):
        scenes.photo_crops(scenes.photo_files(tmp_path), 1, seed=0)


def test_crops_are_whole_pictures_of_a_seed(tmp_path):
    # red rises to the right, green to the bottom: a cut or a mirror image stays monotonic
    ramp = np.linspace(0, 255, 200)
    image = np.zeros((120, 200, 3), np.uint8)
    image[..., 0], image[..., 1] = ramp[None], ramp[:120, None]
    Image.fromarray(image).save(tmp_path / "ramp.png")
    Image.fromarray(image).convert("L").save(tmp_path / "gray.png")
    files = scenes.photo_files(tmp_path)
    crops = scenes.photo_crops(files, 10, seed=0)
    assert crops.shape == (20, 64, 64, 3) and crops.dtype == np.uint8
    assert np.array_equal(crops, scenes.photo_crops(files, 10, seed=0))
    assert not np.array_equal(crops, scenes.photo_crops(files, 10, seed=1))
    directions = set()
    for crop in crops[10:].astype(int):
        right, down = np.diff(crop[..., 0], axis=1), np.diff(crop[..., 1], axis=0)
        assert (right >= 0).all() or (right <= 0).all()
        assert (down >= 0).all() and down.sum() > 0
        directions.add(int(np.sign(right.sum())))
    assert directions == {-1, 1}  # some are mirrored

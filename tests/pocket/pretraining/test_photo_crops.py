"""Crops of real photos."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dreambooth.errors import UserError
from dreambooth.pocket.pretraining.photo_crops import photo_crops, photo_files


def test_photos_are_found_below_a_folder_in_order(tmp_path):
    for name in ("b/2.JPG", "a/1.png", "a/notes.txt", "c.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [str(p.relative_to(tmp_path)) for p in photo_files(tmp_path)]
    assert found == ["a/1.png", "b/2.JPG", "c.jpeg"]


def test_a_damaged_photo_is_one_sentence(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="a.png is not an image"):
        photo_crops(photo_files(tmp_path), 1, seed=0)


def test_crops_are_whole_pictures_of_a_seed(tmp_path):
    # red rises to the right, green to the bottom: a crop or a mirror image stays monotonic
    ramp = np.linspace(0, 255, 200)
    image = np.zeros((120, 200, 3), np.uint8)
    image[..., 0], image[..., 1] = ramp[None], ramp[:120, None]
    Image.fromarray(image).save(tmp_path / "ramp.png")
    Image.fromarray(image).convert("L").save(tmp_path / "gray.png")
    files = photo_files(tmp_path)
    crops = photo_crops(files, 10, seed=0)
    assert crops.shape == (20, 64, 64, 3) and crops.dtype == np.uint8
    assert np.array_equal(crops, photo_crops(files, 10, seed=0))
    assert not np.array_equal(crops, photo_crops(files, 10, seed=1))
    directions = set()
    for crop in crops[10:].astype(int):
        right, down = np.diff(crop[..., 0], axis=1), np.diff(crop[..., 1], axis=0)
        assert (right >= 0).all() or (right <= 0).all()
        assert (down >= 0).all() and down.sum() > 0
        directions.add(int(np.sign(right.sum())))
    assert directions == {-1, 1}  # some are mirrored

"""A subject's rendered photos."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dreambooth.data.photos import list_photos
from dreambooth.errors import UserError
from dreambooth.pocket import world
from dreambooth.pocket.embedded import rendered_photos


def test_photos_are_the_subjects_scenes(tmp_path):
    folder = rendered_photos("dog", "dog", 5, tmp_path)
    scenes = world.subject_scenes(world.subject_identity("dog", "dog"), 5)
    photos = list_photos(folder)
    assert len(photos) == 5
    for path, scene in zip(photos, scenes, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), world.render(scene))


def test_photos_are_made_once(tmp_path):
    folder = rendered_photos("cat", "mimi", 3, tmp_path)
    before = [p.stat().st_mtime_ns for p in list_photos(folder)]
    assert rendered_photos("cat", "mimi", 3, tmp_path) == folder
    assert [p.stat().st_mtime_ns for p in list_photos(folder)] == before
    left = {p.name for p in (tmp_path / "rendered").iterdir()} - {f"{folder.name}.lock"}
    assert left == {folder.name}


@pytest.mark.parametrize("damage", ["removed", "bit", "added", "no hashes"])
def test_damaged_photos_are_rendered_again(tmp_path, caplog, damage):
    folder = rendered_photos("dog", "rex", 3, tmp_path)
    first, *others = list_photos(folder)
    whole = first.read_bytes()
    if damage == "removed":
        first.unlink()  # in silence a run would train on two
    elif damage == "bit":
        first.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "added":
        (folder / "03.png").write_bytes(whole)
    else:
        (folder / "hashes.json").unlink()
    assert rendered_photos("dog", "rex", 3, tmp_path) == folder
    assert list_photos(folder) == [first, *others] and first.read_bytes() == whole
    assert "rendered again" in caplog.text


def test_a_class_that_the_world_lacks_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no fabric pattern: give photos .* dog"):
        rendered_photos("fabric pattern", "fabric", 2, tmp_path)


def test_another_name_class_or_count_is_another_folder(tmp_path):
    asked = [("dog", "rex", 2), ("dog", "fido", 2), ("cat", "rex", 2), ("dog", "rex", 3)]
    folders = [rendered_photos(*each, tmp_path) for each in asked]
    assert len(set(folders)) == 4
    first = [list_photos(folder)[0].read_bytes() for folder in folders[:3]]
    assert len(set(first)) == 3

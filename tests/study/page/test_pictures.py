"""Pictures of a page: once each, inside it or beside it."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from dreambooth.study.page import pictures as module
from dreambooth.study.page.pictures import Pictures
from page_records import picture


def opened(source: str, folder: Path) -> Image.Image:
    """The picture of a `src`."""
    if source.startswith("data:image/webp;base64,"):
        return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    return Image.open(folder / source)


def test_a_small_picture_is_kept_exactly_and_a_large_one_is_reduced(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "small.png")
    large = picture(tmp_path / "large.png", (250, 0, 0), 800)
    pictures = Pictures(tmp_path / "beside")
    assert [pictures.add(tmp_path / "small.png"), pictures.add(large)] == [0, 1]
    small, reduced = (opened(source, tmp_path) for source in pictures.sources())
    assert np.array_equal(np.asarray(small.convert("RGB")), noise)
    assert reduced.size == (384, 384) and not (tmp_path / "beside").exists()


def test_equal_pictures_are_held_once_and_damaged_ones_have_no_number(tmp_path):
    first, same = (picture(tmp_path / name, (1, 2, 3)) for name in ("a.png", "b.png"))
    (tmp_path / "bad.png").write_text("no picture")
    pictures = Pictures(tmp_path / "beside")
    numbers = [pictures.add(p) for p in (first, same, tmp_path / "bad.png", tmp_path / "none.png")]
    assert numbers == [0, 0, None, None] and len(pictures.sources()) == 1


def test_too_many_bytes_go_beside_the_page_and_earlier_ones_are_removed(tmp_path, monkeypatch):
    paths = [picture(tmp_path / f"{i}.png", (i, 0, 0)) for i in range(3)]
    monkeypatch.setattr(module, "INLINE_BYTES", 60)
    pictures = Pictures(tmp_path / "beside")
    assert [pictures.add(path) for path in paths] == [0, 1, 2]
    sources = pictures.sources()
    assert [opened(s, tmp_path).convert("RGB").getpixel((0, 0))[0] for s in sources] == [0, 1, 2]
    monkeypatch.setattr(module, "encoded", lambda path: 1 / 0)  # what is there is not made again
    again = Pictures(tmp_path / "beside", beside=True)
    again.add(paths[1])
    assert again.sources() == [sources[1]] and len(list((tmp_path / "beside").iterdir())) == 1

"""A folder of drawn images: what is kept, what is drawn again, what its manifest says."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock, Timeout
from PIL import Image

from dreambooth.files import file_hash
from dreambooth.png_text import read_text
from dreambooth.sampling.manifest import COLUMNS, Item, items_of_prompts, read_manifest
from dreambooth.sampling.store import ImageStore

FACTS = {"model": "m", "steps": 20}
PROMPTS = ("a sks dog", "a sks dog in snow")
ITEMS = items_of_prompts(PROMPTS, ("a dog", "a dog in snow"), (0, 1))


def picture(prompt: str, seed: int) -> Image.Image:
    """The one picture of a prompt and a seed."""
    digest = hashlib.sha256(f"{prompt} {seed}".encode()).digest()
    pixels = np.frombuffer(digest * 3, np.uint8)[:48].reshape(4, 4, 3)
    return Image.fromarray(pixels)


class Painter:
    """Draws, and keeps what it was asked for, one list per batch."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, int]]] = []

    def __call__(self, prompts, seeds):
        self.batches.append(list(zip(prompts, seeds, strict=True)))
        return [picture(*pair) for pair in self.batches[-1]]


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


@pytest.fixture
def store(tmp_path) -> ImageStore:
    """A store that holds all of `ITEMS`."""
    store = ImageStore(tmp_path / "images", FACTS)
    assert store.fill(Painter(), ITEMS, 3) == 4
    return store


def test_every_image_is_drawn_once_and_recorded(tmp_path):
    painter, store = Painter(), ImageStore(tmp_path / "images", FACTS)
    assert store.fill(painter, ITEMS, 3) == 4
    pairs = [(item.prompt, item.seed) for item in ITEMS]
    assert painter.batches == [pairs[:3], pairs[3:]]
    rows = table(store.folder)
    assert tuple(rows[0]) == COLUMNS
    for row, item in zip(rows, ITEMS, strict=True):
        assert tuple(row.values())[:5] == tuple(map(str, astuple(item)))
        assert row["sha256"] == file_hash(store.folder / item.file)
        assert row["provenance"] == store.provenance
        kept = np.asarray(Image.open(store.folder / item.file))
        assert (kept == np.asarray(picture(item.prompt, item.seed))).all()
    assert read_manifest(store.folder) == ITEMS
    assert store.fill(painter, ITEMS, 3) == 0 and len(painter.batches) == 2


@pytest.mark.parametrize("damage", ["cut", "emptied", "removed", "another picture"])
def test_a_damaged_image_is_drawn_again_alone(store, damage):
    before, path = files(store.folder), store.folder / ITEMS[2].file
    if damage == "removed":
        path.unlink()
    elif damage == "another picture":
        path.write_bytes((store.folder / ITEMS[1].file).read_bytes())
    else:
        path.write_bytes(before[path.name][:30] if damage == "cut" else b"")
    painter = Painter()
    assert store.fill(painter, ITEMS, 4) == 1
    assert painter.batches == [[(ITEMS[2].prompt, ITEMS[2].seed)]]
    assert files(store.folder) == before


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"file\n", b"a,b\n1,2\n"])
def test_what_a_damaged_manifest_described_is_drawn_again(store, content):
    manifest = store.folder / "manifest.csv"
    before, whole = files(store.folder), manifest.read_bytes()
    manifest.write_bytes(content)
    assert store.fill(Painter(), ITEMS, 4) == 4
    assert files(store.folder) == before and manifest.read_bytes() == whole


def test_other_facts_or_another_prompt_are_other_images(store):
    assert ImageStore(store.folder, {**FACTS, "steps": 21}).fill(Painter(), ITEMS, 4) == 4
    changed = [Item("subject", ITEMS[0].file, "a red sks dog", "a red dog", 0), *ITEMS[1:]]
    other = ImageStore(store.folder, {**FACTS, "steps": 21})
    assert other.fill(Painter(), changed, 4) == 1 and not store.is_whole() and other.is_whole()


def test_images_that_nobody_asks_for_are_removed_or_kept(store):
    before = files(store.folder)
    assert store.fill(Painter(), ITEMS[:2], 4, keep_others=True) == 0
    assert files(store.folder) == before and len(table(store.folder)) == 4
    (store.folder / "mine.png").write_bytes(b"not of the manifest")
    assert store.fill(Painter(), ITEMS[:2], 4) == 0
    assert files(store.folder).keys() == {ITEMS[0].file, ITEMS[1].file, "mine.png"}
    assert [row["file"] for row in table(store.folder)] == [ITEMS[0].file, ITEMS[1].file]


def test_an_interrupted_drawing_keeps_what_is_done(tmp_path):
    store, painter = ImageStore(tmp_path / "images", FACTS), Painter()

    def stops(prompts, seeds):
        if ITEMS[3].seed in seeds and ITEMS[3].prompt in prompts:
            raise KeyboardInterrupt
        return painter(prompts, seeds)

    with pytest.raises(KeyboardInterrupt):
        store.fill(stops, ITEMS, 2)
    assert len(table(store.folder)) == 2
    assert store.fill(painter, ITEMS, 2) == 2


def test_the_folder_is_locked_while_it_is_drawn(tmp_path):
    store, locks = ImageStore(tmp_path / "images", FACTS), []

    def draws(prompts, seeds):
        with pytest.raises(Timeout):
            FileLock(tmp_path / ".images.lock", timeout=0).acquire()
        locks.append(True)
        return Painter()(prompts, seeds)

    store.fill(draws, ITEMS, 4)
    assert locks == [True]


def test_a_store_is_whole_when_all_was_drawn_under_its_facts(store, tmp_path):
    assert store.is_whole()
    assert not ImageStore(store.folder, {**FACTS, "steps": 3}).is_whole()
    assert not ImageStore(tmp_path / "absent", FACTS).is_whole()


def test_files_and_manifest(tmp_path):
    images = [Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue")]
    prompts = ["a sks dog, on: the/beach", "Ein Hüte <x>"]
    items = items_of_prompts(prompts, ["a dog", "b"], [0, 7])[:3]
    ImageStore(tmp_path / "images", FACTS).replace(items, images)
    rows = table(tmp_path / "images")
    assert tuple(rows[0]) == COLUMNS
    assert [row["prompt"] for row in rows] == [prompts[0], prompts[0], prompts[1]]
    assert [row["class_only"] for row in rows] == ["a dog", "a dog", "b"]
    assert [row["seed"] for row in rows] == ["0", "7", "0"]
    for row, image in zip(rows, images, strict=True):
        path = tmp_path / "images" / row["file"]
        assert file_hash(path) == row["sha256"]
        assert list(Image.open(path).get_flattened_data()) == list(image.get_flattened_data())
    assert len(list((tmp_path / "images").iterdir())) == 4
    ImageStore(tmp_path / "images", FACTS).replace(items[:1], images[2:])
    (row,) = table(tmp_path / "images")
    assert Image.open(tmp_path / "images" / row["file"]).getpixel((0, 0)) == (0, 0, 255)


def test_each_png_says_what_drew_it(tmp_path):
    def text(prompt: str, seed: int) -> dict[str, str]:
        return {"dreambooth": f"{prompt} {seed}"}

    store = ImageStore(tmp_path / "images", FACTS, text)
    assert store.missing(ITEMS) == ITEMS and store.fill(Painter(), ITEMS, 3) == 4
    assert store.missing(ITEMS) == []
    for item in ITEMS:
        assert read_text(store.folder / item.file) == text(item.prompt, item.seed)
    # neither images without text nor another text are drawn again
    assert ImageStore(store.folder, FACTS).fill(Painter(), ITEMS, 3) == 0


def test_what_a_grid_no_longer_shows_is_removed(store):
    (store.folder / "mine.png").write_bytes(b"not of the manifest")
    store.keep_only({ITEMS[0].file, ITEMS[3].file})
    assert files(store.folder).keys() == {ITEMS[0].file, ITEMS[3].file, "mine.png"}
    assert {row["file"] for row in table(store.folder)} == {ITEMS[0].file, ITEMS[3].file}
    assert store.missing(ITEMS) == ITEMS[1:3]

from __future__ import annotations

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dreambooth.data import dataset, subjects
from dreambooth.data.dataset import dataset_subjects
from dreambooth.data.subjects import (
    check_name,
    describe_copies,
    find_photos,
    gallery_photos,
    subject_folder,
)
from dreambooth.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf" / "subject"
CLASS_NOUNS = {
    "backpack": "backpack",
    "backpack_dog": "backpack",
    "bear_plushie": "stuffed animal",
    "berry_bowl": "bowl",
    "can": "can",
    "candle": "candle",
    "cat": "cat",
    "cat2": "cat",
    "clock": "clock",
    "colorful_sneaker": "sneaker",
    "dog": "dog",
    "dog2": "dog",
    "dog3": "dog",
    "dog5": "dog",
    "dog6": "dog",
    "dog7": "dog",
    "dog8": "dog",
    "duck_toy": "toy",
    "fancy_boot": "boot",
    "grey_sloth_plushie": "stuffed animal",
    "monster_toy": "toy",
    "pink_sunglasses": "glasses",
    "poop_emoji": "toy",
    "rc_car": "toy",
    "red_cartoon": "cartoon",
    "robot_toy": "toy",
    "shiny_sneaker": "sneaker",
    "teapot": "teapot",
    "vase": "vase",
    "wolf_plushie": "stuffed animal",
}
LIVE = {"cat", "cat2", "dog", "dog2", "dog3", "dog5", "dog6", "dog7", "dog8"}


def test_subject_configs_agree_with_the_table() -> None:
    assert len(CLASS_NOUNS) == 30
    files = {path.stem: OmegaConf.load(path) for path in sorted(CONF.glob("*.yaml"))}
    assert set(files) == set(CLASS_NOUNS) | {"fabric", "folder", "world"}
    for name, noun in CLASS_NOUNS.items():
        expected = {"name": name, "class_noun": noun, "live": name in LIVE, "photos": None}
        assert OmegaConf.to_container(files[name]) == expected


def test_other_subject_configs() -> None:
    fabric, folder, world = (
        OmegaConf.load(CONF / f"{name}.yaml") for name in ("fabric", "folder", "world")
    )
    assert (fabric.class_noun, fabric.live, fabric.photos) == ("fabric pattern", False, None)
    assert OmegaConf.missing_keys(folder) == {"class_noun", "photos"}
    assert (world.class_noun, world.live, world.identity) == ("dog", True, 0)


def test_subject_configs_agree_with_the_datasets_file() -> None:
    root = os.environ.get("DREAMBOOTH_PHOTOS")
    if not root or not (Path(root) / "prompts_and_classes.txt").is_file():
        pytest.skip("DREAMBOOTH_PHOTOS names no folder with prompts_and_classes.txt")
    text = (Path(root) / "prompts_and_classes.txt").read_text()
    table = text.split("subject_name,class\n")[1].split("\n\n")[0]
    rows = dict(line.split(",") for line in table.splitlines())
    assert len(rows) == 30
    for name, noun in rows.items():
        assert OmegaConf.load(CONF / f"{name}.yaml").class_noun == noun


def test_manifest_lists_the_whole_dataset_and_its_attribution() -> None:
    manifest = dataset._manifest()
    assert dataset_subjects() == tuple(sorted(CLASS_NOUNS))
    paths = [entry["path"] for entry in manifest["files"]]
    assert len(set(paths)) == 161
    assert sum(path.endswith(".jpg") for path in paths) == 158
    texts = {"LICENSE.md", "dataset/references_and_licenses.txt", "dataset/prompts_and_classes.txt"}
    assert texts < set(paths)
    assert manifest["commit"] == "4f887af7970a06fc0cd3adaa1d0b368547d6a1d0"


def test_folder_is_resolved_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root" / "dog").mkdir(parents=True)
    root = str(tmp_path / "root")
    assert subject_folder("dog", str(tmp_path / "mine"), root, tmp_path) == tmp_path / "mine"
    assert subject_folder("dog", None, root, tmp_path) == tmp_path / "root" / "dog"
    calls = []
    monkeypatch.setattr(
        subjects, "fetch_dataset", lambda place, names: calls.append((place, names)) or place
    )
    fetched = tmp_path / "cache" / "dreambooth"
    assert subject_folder("dog", None, None, tmp_path / "cache") == fetched / "dog"
    assert calls == [(fetched, ["dog"])]


def test_photos_are_a_given_folders_or_rendered(tmp_path: Path) -> None:
    for folder in ("mine", "root/dog"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.jpg").write_bytes(b"x")
    mine, root, photo = str(tmp_path / "mine"), str(tmp_path / "root"), Path("a.jpg")
    assert find_photos("dog", "dog", mine, root, 3, tmp_path) == [Path(mine) / photo]
    assert find_photos("dog", "dog", None, root, 3, tmp_path) == [Path(root) / "dog" / photo]
    rendered = find_photos("dog", "dog", None, None, 3, tmp_path)
    assert [path.name for path in rendered] == ["00.png", "01.png", "02.png"]
    assert rendered[0].parent.parent == tmp_path / "rendered"
    with pytest.raises(UserError, match="has no toaster"):
        find_photos("toaster", "toaster", None, None, 3, tmp_path)
    with pytest.raises(UserError, match="not allowed"):
        find_photos("../dog", "dog", None, None, 3, tmp_path)


def test_subject_missing_from_the_root_or_the_dataset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        subject_folder("dog", None, str(tmp_path / "none"), tmp_path)
    with pytest.raises(UserError, match="no sub-folder"):
        subject_folder("dog", None, str(tmp_path), tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(UserError, match="unknown subject 'dgo': did you mean 'dog'"):
        subject_folder("dgo", None, str(tmp_path), tmp_path)
    with pytest.raises(UserError, match="unknown subject 'fabric'.*subject.photos=DIR"):
        subject_folder("fabric", None, None, tmp_path)


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "../dog", "a b", "dög", "x" * 65, "dog\n"])
def test_unsafe_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not allowed"):
        check_name(name)
    with pytest.raises(UserError, match="not allowed"):
        subject_folder(name, None, str(tmp_path), tmp_path)


def test_the_gallery_is_from_where_the_subjects_photos_are(tmp_path):
    for name in ("dog", "dog2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(b"a photo")
    own, names = str(tmp_path / "dog"), ("dog2", "dog3")
    found = gallery_photos(names, "dog", own, str(tmp_path), 2, tmp_path)
    assert found == {"dog2": [tmp_path / "dog2" / "0.png"]}  # dog3 is not there
    assert gallery_photos(names, "dog", own, None, 2, tmp_path) == {}
    rendered = gallery_photos(names, "dog", None, None, 2, tmp_path)
    assert {name: len(paths) for name, paths in rendered.items()} == {"dog2": 2, "dog3": 2}
    assert gallery_photos((), "vase", None, None, 2, tmp_path) == {}


def test_copies_of_a_photo_are_named(tmp_path):
    photos = [tmp_path / f"{name}.jpg" for name in "abcd"]
    for photo, content in zip(photos, "xyxx", strict=True):
        photo.write_text(content)
    assert describe_copies(photos[:2]) is None
    assert describe_copies(photos) == (
        "c.jpg is a copy of a.jpg, d.jpg is a copy of a.jpg: each is trained on and counts as a "
        "photo."
    )

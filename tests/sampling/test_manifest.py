"""The images that a folder's manifest lists, and manifests that are refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dreambooth.errors import UserError
from dreambooth.sampling.manifest import read_manifest, slug


def test_a_slug_is_safe_in_a_path():
    assert slug("a <sks> dog/../cat: 50%") == "a-sks-dog-cat-50"
    assert len(slug("x " * 500)) <= 60 and slug("...") == ""
    assert len(slug("𐐀" * 60).encode()) <= 160 and slug("犬" * 60) == "犬" * 53


def write(folder: Path, *rows: tuple[str, str]) -> None:
    (folder / "0.png").write_bytes(b"image")
    lines = [f"{file},a sks dog,a dog,{sha256}" for file, sha256 in rows]
    (folder / "manifest.csv").write_text("\n".join(["file,prompt,class_only,sha256", *lines, ""]))


def test_a_file_is_named_once_and_is_the_one_described(tmp_path):
    write(tmp_path, ("0.png", hashlib.sha256(b"image").hexdigest()))
    (item,) = read_manifest(tmp_path)
    assert (item.set, item.file, item.seed) == ("subject", "0.png", -1)
    write(tmp_path, ("0.png", ""))
    assert read_manifest(tmp_path) == [item]
    write(tmp_path, ("0.png", ""), ("./0.png", ""))
    with pytest.raises(UserError, match="names ./0.png twice"):
        read_manifest(tmp_path)
    write(tmp_path, ("0.png", "0" * 64))
    with pytest.raises(UserError, match="0.png is not the image"):
        read_manifest(tmp_path)


def test_a_set_is_read_or_follows_from_the_prompts(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"image")
    lines = ["file,prompt,class_only,seed", "a.png,a sks dog,a dog,3", "b.png,a dog,a dog,x"]
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    assert [(item.set, item.seed) for item in read_manifest(tmp_path)] == [
        ("subject", 3),
        ("class", -1),
    ]
    lines = ["file,prompt,class_only,set", "a.png,a sks dog,a dog,photo"]
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match="set=photo is not one of subject, class"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as a table"):
        read_manifest(tmp_path)

"""The images' table: every row one file, and the file that it describes."""

from __future__ import annotations

import hashlib

import pytest

from dreambooth.errors import UserError
from dreambooth.evaluation.plan import read_manifest


def write(folder, *rows: tuple[str, str]) -> None:
    (folder / "0.png").write_bytes(b"image")
    lines = [f"{file},a sks dog,a dog,{sha256}" for file, sha256 in rows]
    table = "\n".join(["file,prompt,class_only,sha256", *lines, ""])
    (folder / "manifest.csv").write_text(table)


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

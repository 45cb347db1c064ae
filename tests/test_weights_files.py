"""Equal weights are equal files, and what a folder holds has one hash however it is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreambooth.weights_files import content_hash, read_header, sort_header

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}
NAMES = [f"name_{i}" for i in range(12)]


def write(folder: Path, metadata: dict[str, str] | None = None, **state) -> Path:
    folder.mkdir(parents=True)
    save_file({**STATE, **state}, folder / "w.safetensors", metadata)
    return folder / "w.safetensors"


def test_metadata_in_any_order_gives_the_same_bytes(tmp_path):
    """safetensors writes twelve names in one of 479 million orders."""
    files = [write(tmp_path / str(i), {n: "ü" for n in NAMES}) for i in range(3)]
    for file in files:
        sort_header(file)
        assert list(read_header(file)["__metadata__"]) == sorted(NAMES)
        assert file.stat().st_mode & 0o777 == 0o644
        assert all(torch.equal(load_file(file)[key], value) for key, value in STATE.items())
    assert len({file.read_bytes() for file in files}) == 1


def test_more_metadata_moves_the_tensors_and_leaves_them(tmp_path):
    file = write(tmp_path / "more", {"format": "pt"})
    sort_header(file, {"title": "x" * 999})
    assert read_header(file)["__metadata__"] == {"format": "pt", "title": "x" * 999}
    assert all(torch.equal(load_file(file)[key], value) for key, value in STATE.items())


def test_only_what_the_weights_are_counts(tmp_path):
    first = content_hash(write(tmp_path / "a", {"format": "pt"}).parent)
    again = write(tmp_path / "b", {n: n for n in NAMES}).parent
    (again / "README.md").write_text("for readers")
    assert content_hash(again) == first and len(first) == 16
    meaning = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8})}
    others = [
        write(tmp_path / "alpha", meaning).parent,
        write(tmp_path / "value", b=torch.zeros(4, dtype=torch.float16)).parent,
        write(tmp_path / "dtype", b=torch.ones(4, dtype=torch.bfloat16)).parent,
        write(tmp_path / "shape", a=torch.arange(6.0)).parent,
    ]
    assert len({first, *map(content_hash, others)}) == 5


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:4], lambda d: b""])
def test_a_damaged_file_has_another_hash(tmp_path, damage):
    file = write(tmp_path / "a")
    before = content_hash(file.parent)
    file.write_bytes(damage(file.read_bytes()))
    assert content_hash(file.parent) != before


def test_versions_in_json_do_not_count(tmp_path):
    hashes = set()
    for version, width in (("1", 8), ("2", 8), ("2", 9)):
        (tmp_path / "config.json").write_text(
            json.dumps({"_diffusers_version": version, "w": width})
        )
        hashes.add(content_hash(tmp_path))
    assert len(hashes) == 2

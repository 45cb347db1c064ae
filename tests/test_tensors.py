"""Tensors come back as they were written, or not at all."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from dreambooth.tensors import Damaged, read_tensors, write_tensors

TENSORS = {
    "a": torch.arange(6.0).view(2, 3).t(),
    "b": torch.tensor([1.5], dtype=torch.bfloat16),
    "none": torch.zeros(0, 4),
}


def test_tensors_and_metadata_come_back(tmp_path):
    write_tensors(tmp_path / "x.safetensors", TENSORS, {"key": "ü"})
    tensors, metadata = read_tensors(tmp_path / "x.safetensors")
    assert metadata == {"key": "ü"} and tensors.keys() == TENSORS.keys()
    assert all(
        torch.equal(tensors[k], v) and tensors[k].dtype == v.dtype for k, v in TENSORS.items()
    )


def test_every_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, {"key": "k"})
    whole = path.read_bytes()
    unnoticed = []
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            tensors, metadata = read_tensors(path)
        except Damaged:
            continue
        same = all(torch.equal(tensors[k], v) for k, v in TENSORS.items())
        unnoticed += [] if same and metadata == {"key": "k"} else [place]
    assert unnoticed == []


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"{}"])
def test_what_is_no_such_file_is_damaged(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(Damaged):
        read_tensors(tmp_path / "x")
    save_file({"a": torch.zeros(1)}, tmp_path / "x")
    with pytest.raises(Damaged, match="no hash"):
        read_tensors(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "y")

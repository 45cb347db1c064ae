"""The embedded model's files: their hash."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from dreambooth.pocket.weights import weights_hash


def pretend(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_hash_is_of_names_and_bytes_of_the_weights_alone(tmp_path):
    names = ["unet/a.safetensors", "encoders/dino/b.safetensors", "probe.safetensors"]
    first, second = pretend(tmp_path / "1", names), pretend(tmp_path / "2", names[::-1])
    files = {name: hashlib.sha256(name.encode()).hexdigest() for name in sorted(names)}
    expected = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]
    assert weights_hash(first) == weights_hash(second) == expected
    (second / "README.md").write_text("a card")
    assert weights_hash(second) == expected
    (second / names[1]).write_bytes(b"others")
    assert weights_hash(second) != expected
    (first / names[2]).rename(first / "judge.safetensors")
    assert weights_hash(first) != expected

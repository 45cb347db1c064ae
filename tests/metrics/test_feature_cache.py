"""The features' file: merged under a lock, replaced whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from dreambooth.metrics import feature_cache
from dreambooth.metrics.feature_cache import FeatureCache


def test_round_trip_and_merge(tmp_path):
    cache = FeatureCache(tmp_path / "new", "dino.x-0")
    assert cache.read() == {}
    cache.add({"a": torch.arange(3.0)})
    cache.add({"b": torch.ones(3)})
    stored = FeatureCache(tmp_path / "new", "dino.x-0").read()
    assert sorted(stored) == ["a", "b"] and torch.equal(stored["a"], torch.arange(3.0))
    assert FeatureCache(tmp_path / "new", "dino.x-1").read() == {}


def test_parallel_writers_lose_nothing(tmp_path):
    def write(i: int) -> None:
        FeatureCache(tmp_path, "dino").add({str(i): torch.full((4,), float(i))})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(24)))
    stored = FeatureCache(tmp_path, "dino").read()
    assert {key: float(value[0]) for key, value in stored.items()} == {
        str(i): float(i) for i in range(24)
    }


def test_killed_writer_leaves_the_old_file(tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path, "dino")
    cache.add({"a": torch.ones(2)})

    def killed(tensors, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(feature_cache, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.add({"b": torch.ones(2)})
    assert sorted(cache.read()) == ["a"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "dino.safetensors", "dino.safetensors.lock",
    ]  # fmt: skip


def test_damaged_file_is_written_anew(tmp_path):
    cache = FeatureCache(tmp_path, "dino")
    cache.path.write_bytes(b"damaged")
    assert cache.read() == {}
    cache.add({"a": torch.ones(2)})
    assert sorted(cache.read()) == ["a"]

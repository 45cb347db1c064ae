"""The features' files: added whole, read once, shared."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from dreambooth import tensors
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


def test_killed_writer_leaves_what_was_there(tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path, "dino")
    cache.add({"a": torch.ones(2)})

    def killed(tensors, path, metadata):
        raise KeyboardInterrupt

    monkeypatch.setattr(tensors, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.add({"b": torch.ones(2)})
    assert sorted(FeatureCache(tmp_path, "dino").read()) == ["a"]
    assert len(list(cache.folder.iterdir())) == 1


def test_a_damaged_file_is_nothing_and_is_written_anew(tmp_path):
    cache = FeatureCache(tmp_path, "dino")
    cache.add({"a": torch.ones(2)})
    (path,) = cache.folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # in silence it would change a score
    again = FeatureCache(tmp_path, "dino")
    assert again.read() == {}
    again.add({"a": torch.ones(2)})
    assert sorted(FeatureCache(tmp_path, "dino").read()) == ["a"]


def test_each_file_is_read_once_and_others_files_are_seen(tmp_path, monkeypatch):
    one, other = FeatureCache(tmp_path, "dino"), FeatureCache(tmp_path, "dino")
    one.add({"a": torch.zeros(2)})
    assert sorted(other.read()) == ["a"]
    one.add({"b": torch.ones(2)})
    opened = []
    load = FeatureCache._load
    monkeypatch.setattr(FeatureCache, "_load", lambda c, p: opened.append(p) or load(c, p))
    assert sorted(other.read()) == sorted(other.read()) == sorted(one.read()) == ["a", "b"]
    assert len(opened) == 1

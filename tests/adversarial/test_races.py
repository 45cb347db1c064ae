"""Processes that meet in a cache while each is slowed down between its steps."""

from __future__ import annotations

import sys
from pathlib import Path

import faults
import pytest
import torch
from PIL import Image

from dreambooth.data.photos import list_photos
from dreambooth.files import file_hashes
from dreambooth.metrics.feature_cache import FeatureCache
from dreambooth.pocket.embedded import rendered_photos
from dreambooth.sampling.class_images import ClassImages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks with torch")


def use_every_cache(cache: Path, job: int) -> None:
    """Read what another job may be writing; an error ends the process."""
    folder = rendered_photos("dog", "rex", 2, cache)
    assert len(list_photos(folder)) == 2
    wanted = ClassImages("a dog", 3, 0, batch_size=2)
    paint = lambda prompts, seeds: [Image.new("RGB", (16, 16), (seed, 0, 0)) for seed in seeds]  # noqa: E731
    assert len(wanted.drawn(paint, {"model": "m"}, cache)) == 3
    features = FeatureCache(cache / "features", "dino")
    features.add({str(job): torch.full((2,), float(job))})
    assert all(float(row[0]) == float(name) for name, row in features.read().items())


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in (1, 2, 3))]
)
def test_jobs_that_start_together_share_every_cache(tmp_path, seed):
    use_every_cache(tmp_path / "alone", 0)
    cache, jobs = tmp_path / "shared", {}
    for job in range(3):

        def slow(job=job) -> None:
            faults.slowly(seed * 3 + job, 0.005)
            use_every_cache(cache, job)

        log = tmp_path / f"log{job}"
        jobs[faults.fork(slow, log)] = log
    for child, log in jobs.items():
        ended = faults.wait(child, log)
        assert ended.code == 0, ended.printed
    assert len(FeatureCache(cache / "features", "dino").read()) == 3
    assert not list(cache.rglob(".*.tmp-*"))
    for part in ("rendered", "class_images"):
        assert file_hashes(cache / part) == file_hashes(tmp_path / "alone" / part)

"""Processes that meet in a cache while each is slowed down between its steps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

import faults
import pytest
import torch
from PIL import Image

from dreambooth.data.crops import Crops
from dreambooth.data.latents import encode_examples
from dreambooth.data.photos import list_photos
from dreambooth.files import file_hashes
from dreambooth.metrics.feature_cache import FeatureCache
from dreambooth.model.interface import BaseModel
from dreambooth.pocket.embedded import rendered_photos
from dreambooth.sampling.class_images import ClassImages
from dreambooth.tensors import read_tensors
from dreambooth.training.exports.export import share
from dreambooth.training.resuming.checkpoint_records import verify
from dreambooth.training.resuming.checkpoints import VerifiedCheckpointIO
from dreambooth.training.resuming.trained import Trained

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks with torch")


class Encoder:
    """The part of a model that encodes photos; a forked process cannot run a network's threads."""

    device, autoencoder, offloads_from = "cpu", "vae", None

    def weights_hash(self) -> str:
        return "of no weights"

    def encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return pixels[..., ::8, ::8], pixels[..., 1::8, 1::8]


HISTORY = {"key": "key", "seconds": 1.0, "reused": None}


def train(cache: Path, run: Path) -> Path:
    """Train, or take what another job has trained."""
    shared = Trained(cache / "trained", "key", 1.0, run, 2, 0)
    while not shared.published():
        if shared.hold():
            if not shared.published():
                path = run / "step-000002.ckpt"
                state = {"global_step": 2, "state_dict": {"w": torch.ones(3)}}
                VerifiedCheckpointIO({"lr": 1}, lambda: HISTORY).save_checkpoint(state, path)
                shared.publish(path)
            shared.release()
    taken = shared.take(shared.published()[0], run / "taken")
    assert taken is not None
    return taken


def use_every_cache(cache: Path, job: int) -> None:
    """Read what another job may be writing; an error ends the process."""
    run = cache / "runs" / str(job)
    folder = rendered_photos("dog", "rex", 2, cache)
    assert len(list_photos(folder)) == 2
    wanted = ClassImages("a dog", 3, 0, batch_size=2)
    paint = lambda prompts, seeds: [Image.new("RGB", (16, 16), (seed, 0, 0)) for seed in seeds]  # noqa: E731
    assert len(wanted.drawn(paint, {"model": "m"}, cache)) == 3
    features = FeatureCache(cache / "features", "dino")
    features.add({str(job): torch.full((2,), float(job))})
    assert all(float(row[0]) == float(name) for name, row in features.read().items())
    encoder, paths = cast(BaseModel, Encoder()), list_photos(folder)
    encode_examples(encoder, paths, ["a dog"] * 2, Crops(16), 0, cache)
    verify(train(cache, run))
    (run / "vae.safetensors").write_bytes(b"weights")
    share(run / "vae.safetensors", cache / "exported")


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
    for part in ("rendered", "class_images", "exported"):
        assert file_hashes(cache / part) == file_hashes(tmp_path / "alone" / part)
    (latents,) = cache.glob("latents/*.safetensors")
    read_tensors(latents)
    trained = [*cache.rglob("step-000002.ckpt")]
    assert len({path.stat().st_ino for path in trained}) == 1 < len(trained)  # trained once

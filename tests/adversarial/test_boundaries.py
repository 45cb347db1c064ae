"""A process that is stopped before or after any fsync, rename or link loses nothing.

The fast part of `benchmarks/campaign.py`, which does the same to a whole run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faults
import pytest
import torch
from PIL import Image

from dreambooth.files import atomic, file_hashes, link, write_json
from dreambooth.locks import held
from dreambooth.pocket.embedded import rendered_photos
from dreambooth.sampling.manifest import items_of_prompts
from dreambooth.sampling.store import ImageStore
from dreambooth.scratch import find_files
from dreambooth.training.resuming.checkpoint_records import verify
from dreambooth.training.resuming.checkpoints import VerifiedCheckpointIO

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks with torch")


def record(folder: Path) -> None:
    write_json(folder / "run.json", {"new": True})


def model(folder: Path) -> None:
    with atomic(folder / "model") as temporary:
        for name in ("unet", "vae"):
            (temporary / name).mkdir(parents=True)
            (temporary / name / "config.json").write_text("new")


def checkpoint(folder: Path) -> None:
    state = {"global_step": 2, "state_dict": {"w": torch.ones(3)}}
    VerifiedCheckpointIO({"lr": 1}).save_checkpoint(state, folder / "step-000002.ckpt")
    verify(folder / "step-000002.ckpt")
    link(folder / "step-000002.ckpt", folder / "shared.ckpt")


def pictures(folder: Path) -> None:
    items = items_of_prompts(["a"], ["a"], [0])
    store = ImageStore(folder / "pictures", {"steps": 1})
    store.fill(lambda prompts, seeds: [Image.new("RGB", (4, 4)) for _ in prompts], items, 1)
    assert not store.missing(items)


def photos(folder: Path) -> None:
    rendered_photos("can", "can", 1, folder)


WORK = (record, model, checkpoint, pictures, photos)


def stopped_at(number: int, when: str, action: faults.Act, work: Callable[[], None], log: Path):
    def armed() -> None:
        faults.at_boundary(number, when, action)
        work()

    return faults.wait(faults.fork(armed, log), log)


OTHERS = [*(("before", work) for work in WORK[1:]), ("after", record), ("after", model)]


@pytest.mark.parametrize(
    "when, work",
    [("before", record), *(pytest.param(*each, marks=pytest.mark.thorough) for each in OTHERS)],
)
def test_every_boundary_leaves_the_old_or_the_new(tmp_path, when, work):
    """And the same work done again ends as if nothing had been, with nothing left over."""
    whole, log = tmp_path / "whole", tmp_path / "log"
    with held(whole):
        work(whole)
    number = killed = 0
    while True:
        folder = tmp_path / str(number)
        with held(folder):
            if work in (record, model):
                work(folder)  # over what was there
        ended = stopped_at(number, when, faults.kill, partial(_held, folder, work), log)
        killed += ended.code < 0
        assert len(find_files(folder, "run.json")) <= 1
        _held(folder, work)
        assert file_hashes(folder) == file_hashes(whole), f"{when} boundary {number}"
        if ended.code == 0:
            break
        number += 1
    assert killed == number >= 4


def _held(folder: Path, work: Callable[[Path], None]) -> None:
    with held(folder):
        work(folder)


def test_a_full_disk_is_one_sentence_at_every_boundary(tmp_path):
    for number in range(4):
        log, folder = tmp_path / "log", tmp_path / str(number)
        record(folder)
        ended = stopped_at(number, "before", faults.fill_disk, partial(record, folder), log)
        assert ended.code in (0, 70) and ended.printed.count("is full") <= 1
        assert "UserError" in ended.printed or ended.code == 0
        assert [path.name for path in folder.iterdir()] == ["run.json"]

"""Class images: one seed an image, made once, topped up, shared by processes."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
from dreambooth.data.class_images import class_images, own_class_images
from dreambooth.training.stages import Sampler, prepare_class_images
from PIL import Image

from dreambooth.errors import UserError
from dreambooth.model.stable_diffusion import LatentDiffusion
from dreambooth.sampling.draw import Sampling

FACTS = {"model": "m", "prompt": "a dog", "steps": 20}
SAMPLING = Sampling(2, 4.0, 16, batch_size=4)


def paint(seeds) -> list[Image.Image]:
    """One picture a seed."""
    draws = [np.random.default_rng(s).integers(0, 256, (16, 16, 3), np.uint8) for s in seeds]
    return [Image.fromarray(draw) for draw in draws]


class Painter:
    """Counts what it is asked for."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def __call__(self, seeds):
        self.seeds += seeds
        return paint(seeds)


def test_each_image_has_its_own_seed(tmp_path):
    painter = Painter()
    paths = class_images(painter, FACTS, 5, seed=10, batch_size=2, cache_dir=tmp_path)
    assert painter.seeds == [10, 11, 12, 13, 14]
    for path, image in zip(paths, paint(range(10, 15)), strict=True):
        assert (np.asarray(Image.open(path)) == np.asarray(image)).all()
    record = json.loads((paths[0].parent / "manifest.json").read_text())
    assert record["facts"] == {**FACTS, "seed": 10}
    assert [e["seed"] for e in record["images"].values()] == [10, 11, 12, 13, 14]


def test_more_are_topped_up_and_fewer_are_taken(tmp_path):
    first, more = Painter(), Painter()
    four = class_images(first, FACTS, 4, 0, 3, tmp_path)
    before = [p.read_bytes() for p in four]
    eight = class_images(more, FACTS, 8, 0, 3, tmp_path)
    assert more.seeds == [4, 5, 6, 7] and eight[:4] == four
    assert [p.read_bytes() for p in eight[:4]] == before
    none = Painter()
    assert class_images(none, FACTS, 2, 0, 3, tmp_path) == four[:2] and none.seeds == []


@pytest.mark.parametrize("damage", ["cut", "emptied", "removed", "another picture"])
def test_a_damaged_image_is_made_again_alone(tmp_path, damage):
    paths = class_images(paint, FACTS, 4, 0, 4, tmp_path)
    whole = paths[2].read_bytes()
    if damage == "removed":
        paths[2].unlink()
    elif damage == "another picture":
        paths[2].write_bytes(paths[1].read_bytes())
    else:
        paths[2].write_bytes(whole[:100] if damage == "cut" else b"")
    painter = Painter()
    class_images(painter, FACTS, 4, 0, 4, tmp_path)
    assert painter.seeds == [2] and paths[2].read_bytes() == whole


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": null}'])
def test_a_damaged_manifest_is_made_again(tmp_path, text):
    paths = class_images(paint, FACTS, 2, 0, 4, tmp_path)
    manifest = paths[0].parent / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text(text)
    assert class_images(paint, FACTS, 2, 0, 4, tmp_path) == paths
    assert manifest.read_text() == whole


def test_an_interrupted_generation_keeps_what_is_done(tmp_path):
    def stops(seeds):
        if 4 in seeds:
            raise KeyboardInterrupt
        return paint(seeds)

    with pytest.raises(KeyboardInterrupt):
        class_images(stops, FACTS, 6, 0, 2, tmp_path)
    painter = Painter()
    class_images(painter, FACTS, 6, 0, 2, tmp_path)
    assert painter.seeds == [4, 5]


def test_the_folder_changes_with_every_fact(tmp_path):
    def folder(seed=0, **changed) -> Path:
        return class_images(paint, {**FACTS, **changed}, 1, seed, 1, tmp_path)[0].parent

    others = [folder(prompt="a cat"), folder(model="n"), folder(steps=21), folder(seed=1)]
    assert len({folder(), *others}) == 5 and folder() == folder()


def _draw_slowly(cache: Path, log: Path) -> None:
    def slow(seeds):
        with open(log, "a") as file:
            file.writelines(f"{seed}\n" for seed in seeds)
        time.sleep(0.05)
        return paint(seeds)

    class_images(slow, FACTS, 6, 0, 2, cache)


def test_two_processes_at_once_make_each_image_once(tmp_path):
    fork = multiprocessing.get_context("fork")
    jobs = [fork.Process(target=_draw_slowly, args=(tmp_path, tmp_path / "log")) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == list("012345")


@pytest.fixture(scope="module")
def model(tiny_model_dir) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(str(tiny_model_dir))


def prepare(model, cache, count=4, prompt="a dog", sampler="DDIMScheduler", seed=0, **sampling):
    options = {} if sampler == "DDIMScheduler" else {"skip_prk_steps": True}
    settings = Sampling(**{**vars(SAMPLING), **sampling})
    return prepare_class_images(
        model, prompt, count, Sampler(sampler, options), settings, seed, None, str(cache)
    )


def test_an_image_does_not_depend_on_the_batch_it_was_made_in(model, tmp_path):
    def pixels(name: str, batch_size: int) -> list[np.ndarray]:
        paths = prepare(model, tmp_path / name, batch_size=batch_size)
        return [np.asarray(Image.open(p)).astype(int) for p in paths]

    four, one, again = pixels("a", 4), pixels("b", 1), pixels("c", 4)
    assert all((x == y).all() for x, y in zip(four, again, strict=True))
    assert all(abs(x - y).max() <= 2 for x, y in zip(four, one, strict=True))  # grey levels
    assert abs(four[0] - four[1]).max() > 8


def test_the_key_holds_everything_the_images_depend_on(model, tiny_v_model_dir, tmp_path):
    def folder(model=model, **changed) -> Path:
        return prepare(model, tmp_path, count=1, **changed)[0].parent

    other = LatentDiffusion.from_pretrained(str(tiny_v_model_dir))
    folders = [
        folder(),
        folder(other),
        folder(prompt="a cat"),
        folder(sampler="PNDMScheduler"),
        folder(num_inference_steps=3),
        folder(guidance_scale=5.0),
        folder(seed=7),
        folder(resolution=24),
        folder(negative_prompt="red"),
    ]
    assert len(set(folders)) == 9
    assert folder(batch_size=1) == folders[0]  # but not the batch


def test_ones_own_folder_is_used_as_it_is(spine, tmp_path):
    assert own_class_images(spine.photos, 2) == [spine.photos / "0.png", spine.photos / "1.png"]
    with pytest.raises(UserError, match=r"holds 3 images, fewer than .*num_class_images=4"):
        own_class_images(spine.photos, 4)
    with pytest.raises(UserError, match="does not exist"):
        own_class_images(tmp_path / "absent", 1)

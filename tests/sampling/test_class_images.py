"""Class images: one seed per image, drawn once, topped up, shared by processes."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreambooth.data.photos import own_class_images
from dreambooth.errors import UserError
from dreambooth.files import file_hash
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.sampling.class_images import ClassImages, describe_faults
from dreambooth.sampling.draw import draw
from dreambooth.sampling.spec import Sampling
from dreambooth.training.logs.costs import Costs
from dreambooth.training.prepare import prepare

FACTS = {"model": "m", "steps": 20}
WANTED = ClassImages("a dog", count=4, seed=0, batch_size=3)
SAMPLING = Sampling("DDIMScheduler", 2, 4.0, 16, batch_size=4)


def paint(prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
    """One picture per seed."""
    draws = [np.random.default_rng(s).integers(0, 256, (16, 16, 3), np.uint8) for s in seeds]
    return [Image.fromarray(draw) for draw in draws]


class Painter:
    """Keeps what it is asked for."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.prompts: set[str] = set()

    def __call__(self, prompts, seeds):
        self.seeds += seeds
        self.prompts |= set(prompts)
        return paint(prompts, seeds)


def test_each_image_has_its_own_seed(tmp_path):
    painter = Painter()
    paths = replace(WANTED, count=5, seed=10, batch_size=2).drawn(painter, FACTS, tmp_path)
    assert painter.seeds == [10, 11, 12, 13, 14] and painter.prompts == {"a dog"}
    for path, image in zip(paths, paint([], range(10, 15)), strict=True):
        assert (np.asarray(Image.open(path)) == np.asarray(image)).all()
    facts = json.loads((paths[0].parent / "facts.json").read_text())
    assert facts == {**FACTS, "prompt": "a dog", "seed": 10}


def test_black_blank_and_repeated_images_are_counted(tmp_path):
    noise = paint([], range(3))
    near_black = Image.fromarray(np.full((16, 16, 3), 3, np.uint8))
    images = [*noise, noise[0], noise[0], near_black, Image.new("RGB", (16, 16), "white")]
    paths = [tmp_path / f"{i}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(path)
    assert describe_faults(paths[:3]) is None
    sentence = "of 7 class images, 1 black, 1 blank, 2 copies of others: the prior loss"
    assert describe_faults(paths).startswith(sentence)


def test_more_are_topped_up_and_fewer_are_taken(tmp_path):
    first, more = Painter(), Painter()
    four = WANTED.drawn(first, FACTS, tmp_path)
    before = [p.read_bytes() for p in four]
    eight = replace(WANTED, count=8).drawn(more, FACTS, tmp_path)
    assert more.seeds == [4, 5, 6, 7] and eight[:4] == four
    assert [p.read_bytes() for p in eight[:4]] == before
    none = Painter()
    assert replace(WANTED, count=2).drawn(none, FACTS, tmp_path) == four[:2] and none.seeds == []
    assert replace(WANTED, count=8).drawn(none, FACTS, tmp_path) == eight and none.seeds == []


@pytest.mark.parametrize("damage", ["cut", "emptied", "removed", "another picture"])
def test_a_damaged_image_is_drawn_again_alone(tmp_path, damage):
    paths = WANTED.drawn(paint, FACTS, tmp_path)
    whole = paths[2].read_bytes()
    if damage == "removed":
        paths[2].unlink()
    elif damage == "another picture":
        paths[2].write_bytes(paths[1].read_bytes())
    else:
        paths[2].write_bytes(whole[:100] if damage == "cut" else b"")
    painter = Painter()
    WANTED.drawn(painter, FACTS, tmp_path)
    assert painter.seeds == [2] and paths[2].read_bytes() == whole


def test_a_run_goes_on_after_a_class_image_was_drawn_again_in_another_batch(spine, tmp_path):
    """Its bytes may differ by rounding, of which the run's fingerprint knows nothing."""
    cache = f"cache_dir='{tmp_path / 'cache'}'"
    spec = spine.spec(tmp_path / "run", cache, "sampling.batch_size=2")
    before = prepare(spec, Costs()).batches.prior
    assert before is not None
    (path,) = (tmp_path / "cache").glob("class_images/*/00001.png")
    with Image.open(path) as image:
        other = Image.fromarray(255 - np.asarray(image))
    manifest = path.parent / "manifest.csv"
    old = file_hash(path)
    other.save(path)
    manifest.write_text(manifest.read_text().replace(old, file_hash(path)))
    after = prepare(spec, Costs()).batches.prior
    assert after is not None and after.key == before.key
    assert torch.equal(after.mean, before.mean)


@pytest.mark.parametrize("text", ["", "{", "[]", "file,sha256\n", "a,b\n1,2,3\n"])
def test_a_damaged_manifest_is_written_again(tmp_path, text):
    paths = WANTED.drawn(paint, FACTS, tmp_path)
    manifest = paths[0].parent / "manifest.csv"
    whole = manifest.read_text()
    manifest.write_text(text)
    assert WANTED.drawn(paint, FACTS, tmp_path) == paths
    assert manifest.read_text() == whole


def test_an_interrupted_drawing_keeps_what_is_done(tmp_path):
    six = replace(WANTED, count=6, batch_size=2)

    def stops(prompts, seeds):
        if 4 in seeds:
            raise KeyboardInterrupt
        return paint(prompts, seeds)

    with pytest.raises(KeyboardInterrupt):
        six.drawn(stops, FACTS, tmp_path)
    painter = Painter()
    paths = six.drawn(painter, FACTS, tmp_path)
    assert painter.seeds == [4, 5] and (paths[0].parent / "facts.json").exists()


def test_the_folder_changes_with_every_fact(tmp_path):
    def folder(wanted=WANTED, **changed) -> Path:
        return wanted.drawn(paint, {**FACTS, **changed}, tmp_path)[0].parent

    others = [
        folder(replace(WANTED, prompt="a cat")),
        folder(model="n"),
        folder(steps=21),
        folder(replace(WANTED, seed=1)),
    ]
    assert len({folder(), *others}) == 5 and folder() == folder()


def draw_together(barrier: Barrier, cache: Path, log: Path) -> None:
    def noted(prompts, seeds):
        with open(log, "a") as file:
            file.writelines(f"{seed}\n" for seed in seeds)
        return paint(prompts, seeds)

    barrier.wait(60)
    replace(WANTED, count=6, batch_size=2).drawn(noted, FACTS, cache)


def test_two_processes_at_once_draw_each_image_once(tmp_path):
    fork = multiprocessing.get_context("fork")
    arguments = (fork.Barrier(2), tmp_path, tmp_path / "log")
    jobs = [fork.Process(target=draw_together, args=arguments) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == list("012345")


@pytest.fixture(scope="module")
def model(tiny_model_dir) -> StableDiffusion:
    return StableDiffusion.from_pretrained(str(tiny_model_dir))


def drawn(model, cache, wanted=WANTED, **changed) -> list[Path]:
    """What a run does: see `training.prepare`."""
    sampling = replace(SAMPLING, **changed)
    wanted = replace(wanted, batch_size=sampling.batch_size)
    facts = {"model": model.weights_hash(), **sampling.facts}
    return wanted.drawn(lambda prompts, seeds: draw(model, prompts, seeds, sampling), facts, cache)


def test_an_image_does_not_depend_on_the_batch_it_was_drawn_in(model, tmp_path):
    def pixels(name: str, batch_size: int) -> list[np.ndarray]:
        paths = drawn(model, tmp_path / name, batch_size=batch_size)
        return [np.asarray(Image.open(p)).astype(int) for p in paths]

    four, one, again = pixels("a", 4), pixels("b", 1), pixels("c", 4)
    assert all((x == y).all() for x, y in zip(four, again, strict=True))
    assert all(abs(x - y).max() <= 2 for x, y in zip(four, one, strict=True))  # grey levels
    assert abs(four[0] - four[1]).max() > 8


def test_the_key_holds_everything_the_images_depend_on(model, tiny_v_model_dir, tmp_path):
    single = replace(WANTED, count=1)

    def folder(model=model, wanted=single, **changed) -> Path:
        return drawn(model, tmp_path, wanted, **changed)[0].parent

    other = StableDiffusion.from_pretrained(str(tiny_v_model_dir))
    folders = [
        folder(),
        folder(other),
        folder(wanted=replace(single, prompt="a cat")),
        folder(scheduler="PNDMScheduler", options={"skip_prk_steps": True}),
        folder(options={"clip_sample": False}),
        folder(num_inference_steps=3),
        folder(guidance_scale=5.0),
        folder(wanted=replace(single, seed=7)),
        folder(resolution=24),
        folder(negative_prompt="red"),
        folder(dtype="bfloat16"),
    ]
    assert len(set(folders)) == 11
    assert folder(batch_size=1) == folders[0]  # but not the batch


@pytest.mark.slow
def test_a_run_draws_them_in_its_inference_dtype_and_keeps_dtypes_apart(spine, tmp_path, autocasts):
    def folder(*overrides: str) -> Path:
        """Where a run's class images are."""
        autocasts.clear()
        cache = tmp_path / "cache"
        prepare(spine.spec(tmp_path / "run", f"cache_dir='{cache}'", *overrides), Costs())
        (new,) = set((cache / "class_images").glob("[!.]*")) - known
        known.add(new)
        return new

    known: set[Path] = set()
    exact = folder()
    assert autocasts == {None}
    half = folder("trainer.precision=bf16-mixed")
    assert autocasts == {torch.bfloat16} and half != exact
    facts = [json.loads((path / "facts.json").read_text()) for path in (exact, half)]
    assert [each["dtype"] for each in facts] == ["float32", "bfloat16"]
    assert facts[0] | {"dtype": ""} == facts[1] | {"dtype": ""}
    pixels = [np.asarray(Image.open(path / "00000.png")) for path in (exact, half)]
    assert (pixels[0] != pixels[1]).any()
    folder("trainer.precision=16-mixed")  # as trainer=t4_16gb
    assert autocasts == {torch.float16} and len(known) == 3


def test_ones_own_folder_is_used_as_it_is(spine, tmp_path):
    assert own_class_images(spine.photos, 2) == [spine.photos / "0.png", spine.photos / "1.png"]
    with pytest.raises(UserError, match=r"holds 3 images, fewer than .*num_class_images=4"):
        own_class_images(spine.photos, 4)
    with pytest.raises(UserError, match="does not exist"):
        own_class_images(tmp_path / "absent", 1)

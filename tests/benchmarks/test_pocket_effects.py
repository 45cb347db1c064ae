"""Which runs are used again, what the base model draws, and how figures are averaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pocket_effects as effects
import pytest
import torch
from PIL import Image

from dreambooth.cli.configuration.configs import CONF
from dreambooth.errors import UserError
from dreambooth.pocket import world
from dreambooth.pocket.embedded import weights_hash

DOG = effects.Subject("held-out-00", "dog")


@pytest.mark.parametrize("count", [8, 12, 32])
def test_counts_that_contexts_share(count):
    effects.check_images(count)


@pytest.mark.parametrize("count", [0, 4, 7, 10, 33])
def test_other_counts_are_refused(count):
    with pytest.raises(UserError, match=f"--images {count} cannot be shared by 4 contexts"):
        effects.check_images(count)


def settings(runs: Path, **changed) -> Any:
    facts = {"runs": runs, "model": "pocket", "model_hash": "aa", "options": [], "images": 8}
    return SimpleNamespace(**facts | {"kinds": "base,plain,ppl"} | changed)


@pytest.fixture
def trained(monkeypatch):
    """Commands that would have trained."""
    commands = []

    def start(script, arguments):
        assert script == "train.py"
        commands.append(arguments)
        folder = Path(next(a for a in arguments if a.startswith("hydra.run.dir="))[15:-1])
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")

    monkeypatch.setattr(effects.commands, "run", start)
    return commands


def test_a_finished_run_is_used_again_for_what_it_is(trained, tmp_path, monkeypatch):
    first = effects.train(DOG, True, settings(tmp_path))
    assert effects.train(DOG, True, settings(tmp_path)) == first and len(trained) == 1
    others = [
        effects.train(DOG, False, settings(tmp_path)),
        effects.train(DOG, True, settings(tmp_path, model_hash="bb")),
        effects.train(DOG, True, settings(tmp_path, options=["lr=1e-4"])),
    ]
    monkeypatch.setattr(effects, "configuration", lambda: {"train.yaml": "another"})
    others.append(effects.train(DOG, True, settings(tmp_path)))
    assert len({first, *others}) == 5 == len(trained)
    assert "photos.root=null" in trained[0] and "ppl=true" in trained[0]


def test_a_changed_default_is_another_configuration(tmp_path):
    conf = Path(shutil.copytree(CONF, tmp_path / "conf"))
    before = effects.configuration(conf)
    assert before == effects.configuration() and "model/pocket.yaml" in before
    (conf / "pretrain.yaml").write_text("# of no concern to train.py")
    assert effects.configuration(conf) == before
    (conf / "model" / "pocket.yaml").write_text("lr: 1")
    assert effects.configuration(conf) != before


def test_the_others_are_each_unlike_the_rest():
    """Rendered photos tell them apart, for proportions alone do not make another identity."""
    others = DOG.others(19)
    photos = {np.asarray(photos[0]).tobytes() for photos in (DOG.photos, *others)}
    assert len(others) == 19 and len(photos) == 20 and all(len(each) == 5 for each in others)


def test_summary_by_hand():
    def of(base: float, plain: float, ppl: float) -> dict:
        binding = {"base": base, "plain": plain, "ppl": ppl}
        rest = {"context": 0.5, "drift": 0.5, "diversity": 0.5}
        return {model: {"binding": value, **rest} for model, value in binding.items()}

    table = effects.summary({"b": of(0, 1, 1), "a": of(0.5, 1, 0.5)})
    means = {model: value["mean"] for model, value in table["binding"].items()}
    assert means == {
        "base": 0.25,
        "plain": 1.0,
        "ppl": 0.75,
        "ppl - plain": -0.25,
        "ppl - base": 0.5,
        "plain - base": 0.75,
    }
    assert table["binding"]["plain"]["interval"] == (1.0, 1.0)
    assert table["binding"]["base"]["interval"] == (0.0, 0.5)  # of two subjects, each end is one
    assert set(table) == {"binding", "context", "drift", "diversity"}


class East:
    """A stand-in for DINO whose features tell by the colour which identity a picture shows."""

    def images(self, images):
        reds = [np.asarray(image)[0, 0, 0] / 255 for image in images]
        return torch.tensor([[red, (1 - red**2) ** 0.5] for red in reds])


def stand_ins(distance: Any = None) -> effects.Judges:
    dino: Any = East()
    network: Any = None
    return effects.Judges(dino, distance, network)


def test_subject_figures_by_hand(monkeypatch):
    red, black = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4))
    seen = [{"context": context} for context in ("jungle", "snow", "city", "city")]
    monkeypatch.setattr(effects.probe, "judge", lambda judge, images: seen[: len(images)])
    candidates = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])]  # red, black
    judges = stand_ins()
    own = [red, red, red, black]
    figures = effects.subject_figures(own, [red] * 4, candidates, judges)
    assert figures == {"binding": 0.75, "context": 0.75}


def test_the_base_model_is_asked_what_the_trained_ones_are(monkeypatch):
    asked = []

    def draw(model, prompts, seed, settings):
        asked.append((model, tuple(prompts), seed, settings))
        return [Image.new("RGB", (64, 64), (255, 0, 0))] * len(prompts)

    def read(folder):
        return SimpleNamespace(
            record={"subject_phrase": "sks dog"},
            config={"class_prompt": "a dog"},
            sampling="20 steps of ddim",
            load_model=lambda: folder,
        )

    monkeypatch.setattr(effects, "draw", draw)
    monkeypatch.setattr(effects.Run, "read", read)
    monkeypatch.setattr(effects, "train", lambda subject, ppl, args: f"ppl {ppl}")
    monkeypatch.setattr(effects.probe, "judge", lambda _, images: [{"context": "snow"}] * 8)
    distance = SimpleNamespace(distance=lambda images, batch: torch.ones(len(images), len(images)))
    base: Any = "base"
    figures, row = effects.measure(
        DOG, base, stand_ins(distance), settings(Path(), kinds=list(effects.KINDS))
    )
    by_model = {}
    for model, *rest in asked:
        by_model.setdefault(model, []).append(rest)
    assert set(by_model) == {"base", "ppl False", "ppl True"}
    assert by_model["base"] == by_model["ppl False"] == by_model["ppl True"]
    prompts = {prompt for prompts, *_ in by_model["base"] for prompt in prompts}
    assert {"a sks dog", "a dog", "a sks dog in the jungle"} <= prompts
    names = {"binding", "context", "drift", "diversity"}
    assert {model: set(values) for model, values in figures.items()} == {
        "base": names,
        "plain": names,
        "ppl": names,
    }
    assert figures["base"]["context"] == 0.25 and [len(pair) for pair in row] == [2] * 6


def test_a_model_s_own_judges_are_asked_for(monkeypatch, tmp_path):
    model = SimpleNamespace(weights_hash=lambda: "aa")
    monkeypatch.setattr(effects, "load", lambda path: model)
    with pytest.raises(UserError, match="has no encoders/dino"):
        effects.run(settings(tmp_path, model=str(tmp_path)))


def test_one_of_the_trained_kinds_is_asked_for(tmp_path):
    with pytest.raises(UserError, match="--kinds must name plain, ppl or both"):
        effects.run(settings(tmp_path, kinds="base"))


def test_photos_are_those_that_training_renders():
    scenes = world.subject_scenes(world.subject_identity("dog", "held-out-00"))
    for photo, scene in zip(DOG.photos, scenes, strict=True):
        assert np.array_equal(np.asarray(photo), world.render(scene))


def test_the_file_says_which_weights_and_how_many_images(monkeypatch, tmp_path):
    (tmp_path / "probe.safetensors").write_bytes(b"a judge")
    model = SimpleNamespace(weights_hash=lambda: "aa")
    figures = dict.fromkeys(("binding", "context", "drift", "diversity"), 0.5)
    picture = [Image.new("RGB", (64, 64))] * 2
    measured = dict.fromkeys(("base", "plain", "ppl"), figures), [picture] * 6
    monkeypatch.setattr(effects, "load", lambda path: model)
    monkeypatch.setattr(effects.probe, "load_probe", lambda folder: None)
    monkeypatch.setattr(effects, "own_encoder", lambda kind, weights: None)
    monkeypatch.setattr(effects, "pocket_distance", lambda dino: None)
    monkeypatch.setattr(effects, "measure", lambda *_: measured)
    out = tmp_path / "effects.json"
    effects.run(settings(tmp_path, model=str(tmp_path), subjects=2, out=out, options=["lr=1"]))
    written = json.loads(out.read_text())
    assert written["weights"] == weights_hash(tmp_path) and written["images"] == 8
    assert written["subjects"] == {"held-out-00": "dog", "held-out-01": "backpack"}
    assert written["figures"]["binding"]["base"]["mean"] == 0.5 and written["options"] == ["lr=1"]
    assert out.with_suffix(".png").is_file()

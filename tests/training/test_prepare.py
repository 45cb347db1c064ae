"""What is done before the first step: in which order, with which sampler, and what is warned of."""

from __future__ import annotations

import csv
import logging

import pytest
import torch

from dreambooth.errors import UserError
from dreambooth.sampling import class_images
from dreambooth.training.logs.costs import Costs
from dreambooth.training.prepare import (
    prepare,
    prompts_of,
    warn_of_unseen_words,
)


@pytest.mark.slow
def test_without_preservation_there_are_no_class_images(spine, tmp_path):
    out = spine.run(tmp_path / "run", "ppl=false", f"cache_dir='{tmp_path / 'cache'}'")
    assert not (tmp_path / "cache" / "class_images").exists()
    with open(out / "metrics.csv") as file:
        row = list(csv.DictReader(file))[-1]
    assert float(row["loss/prior"]) == 0
    assert float(row["loss/total"]) == float(row["loss/instance"])


def test_a_bad_photo_is_found_before_class_images_are_drawn(spine, tmp_path):
    photos, cache = tmp_path / "photos", tmp_path / "cache"
    photos.mkdir()
    (photos / "a.png").write_text("no image")
    spec = spine.spec(tmp_path, f"subject.photos='{photos}'", f"cache_dir='{cache}'")
    with pytest.raises(UserError, match=r"a\.png"):
        prepare(spec, Costs())
    assert not (cache / "class_images").exists()


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (
            ("method=lora", "method.adapter.target_modules=[to_q,foo]"),
            "foo names no layer of the model",
        ),
        (("method=textual_inversion", "method.token.token=dog"), "method.token.token"),
    ],
)
def test_what_the_model_cannot_train_is_refused_before_class_images(
    spine, tmp_path, method, expected
):
    cache = tmp_path / "cache"
    spec = spine.spec(tmp_path, f"cache_dir='{cache}'", *method)
    with pytest.raises(UserError, match=expected):
        prepare(spec, Costs())
    assert not (cache / "class_images").exists() and not (cache / "latents").exists()


def test_class_images_are_drawn_with_their_own_sampler_in_the_runs_dtype(
    spine, tmp_path, monkeypatch
):
    drawn, draw = [], class_images.draw

    def watched(model, prompts, seeds, sampling):
        drawn.append((list(prompts), list(seeds), sampling))
        return draw(model, prompts, seeds, sampling)

    monkeypatch.setattr(class_images, "draw", watched)
    spec = spine.spec(
        tmp_path,
        f"cache_dir='{tmp_path / 'cache'}'",
        "scheduler=euler",
        "prior.seed=7",
        "prior.num_inference_steps=3",
        "trainer.precision=bf16-mixed",
    )
    prepared = prepare(spec, costs := Costs())
    ((prompts, seeds, sampling),) = drawn
    assert prompts == ["a dog", "a dog"] and seeds == [7, 8]
    assert sampling == spec.prior.sampling
    assert (sampling.scheduler, sampling.num_inference_steps) == ("DDIMScheduler", 3)
    assert sampling.dtype == "bfloat16"
    assert len(prepared.batches.instance) == 3 and len(prepared.batches.prior) == 2
    assert list(costs.stages) == ["latents", "class_images", "class_latents"]
    prepare(spec, Costs())
    assert len(drawn) == 1  # they are cached


@pytest.mark.parametrize("kind", ["images", "prediction"])
def test_a_users_own_class_images_are_used(spine, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(class_images, "draw", None)
    spec = spine.spec(tmp_path, f"prior.images_dir='{spine.photos}'", f"prior.kind={kind}")
    assert prepare(spec, Costs()).batches.prior.names == ("0.png", "1.png")


def test_a_predicted_prior_needs_no_class_images(spine, tmp_path, monkeypatch):
    monkeypatch.setattr(class_images, "draw", None)
    spec = spine.spec(tmp_path, f"cache_dir='{tmp_path}'", "prior.kind=prediction")
    prepared = prepare(spec, costs := Costs())
    instance, prior = prepared.batches.instance, prepared.batches.prior
    assert prior.prompts == ("a dog",) * 3 and torch.equal(prior.mean, instance.mean)
    assert list(costs.stages) == ["latents"] and not (tmp_path / "class_images").exists()


@pytest.mark.parametrize("path, warns", (("pocket", True), ("some/other-model", False)))
def test_a_run_warns_once_and_only_with_the_embedded_model(path, warns, caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_unseen_words(path, ["a wug dog on mars", "a dog", "a wug dog"], "wug")
    assert [("mars" in r.message, "wug" in r.message) for r in caplog.records] == (
        [(True, False)] if warns else []
    )


def test_every_prompt_of_a_run_is_checked_for_unseen_words(spine, tmp_path):
    more = ("identifier=wug", "samples.prompts=['a {subject} on mars']")
    trained_and_drawn = {"a wug dog", "a dog", "a wug dog on mars"}
    prompts = set(prompts_of(spine.spec(tmp_path, *more, "evaluation=quick")))
    assert trained_and_drawn | {"a red wug dog"} <= prompts
    assert set(prompts_of(spine.spec(tmp_path, *more))) == trained_and_drawn


def test_some_photos_train_and_all_are_references(spine, tmp_path):
    prepared = prepare(spine.spec(tmp_path, "ppl=false", "photos.use=2"), Costs())
    assert [path.name for path in prepared.photos] == ["0.png", "1.png", "2.png"]
    assert [path.name for path in prepared.training_photos] == ["0.png", "1.png"]
    assert len(prepared.batches.instance.prompts) == 2
    assert prepared.references == "training and other photos"
    everything = prepare(spine.spec(tmp_path, "ppl=false", "photos.use=3"), Costs())
    assert everything.references == "training photos"


def test_more_photos_than_there_are_is_one_sentence(spine, tmp_path):
    with pytest.raises(UserError, match="photos.use=4 is more than the 3 photos"):
        prepare(spine.spec(tmp_path, "photos.use=4"), Costs())

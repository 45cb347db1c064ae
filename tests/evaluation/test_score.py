"""What is scored of a folder, and what its summary records."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth.evaluation.networks import METRICS, Encoders, load_encoders
from dreambooth.evaluation.record import Groups, References, Scores
from dreambooth.evaluation.score import score
from dreambooth.metrics.aggregate import bootstrap_interval
from dreambooth.sampling.manifest import Item


@pytest.fixture
def networks(encoders_dir, tmp_path) -> Encoders:
    return load_encoders("pocket", METRICS, "cpu", str(encoders_dir), str(tmp_path / "cache"))


def names(networks: Encoders, photos: list[Path], *class_prompts: str):
    """Metrics and notes of two images of the subject and one of each class prompt."""
    items = [Item("subject", f"{i}.png", "a sks dog", "a dog", i) for i in range(2)]
    items += [Item("class", "c.png", prompt, prompt, -1) for prompt in class_prompts]
    images = [photos[i % len(photos)] for i in range(len(items))]
    scores = score(items, images, References(photos), networks, METRICS[:5])
    return {entry["metric"] for entry in scores.summary.values()}, scores.notes


def test_pres_and_div_of_class_are_of_one_prompt(networks, spine):
    photos = sorted(spine.photos.iterdir())
    both = {"PRES", "DIV of class"}
    metrics, notes = names(networks, photos, "a dog", "a dog")
    assert both <= metrics and not notes
    metrics, notes = names(networks, photos, "a dog", "a dog on the beach")
    assert not both & metrics and {"DINO", "DIV"} <= metrics
    assert "2 prompts" in notes[0] and '"a dog on the beach"' in notes[0]
    metrics, notes = names(networks, photos)
    assert not both & metrics and "no images of the class prompt" in notes[0]
    assert {"PRES"} == both & names(networks, photos, "a dog")[0]


def test_a_prompt_that_is_too_long_costs_its_own_score_alone(networks, spine):
    photos = sorted(spine.photos.iterdir())
    long = "a <" + "grey_sloth_plushie_" * 40 + "> on the beach"
    items = [Item("subject", f"{i}.png", long, "a dog on the beach", i) for i in range(2)]
    scores = score(items, photos[:2], References(photos), networks, ["dino", "clip_t"])
    metrics = {entry["metric"] for entry in scores.summary.values()}
    assert {"DINO", "CLIP-T class_only"} <= metrics and "CLIP-T with_id" not in metrics
    assert "CLIP-T with_id is left out" in scores.notes[0] and "shorten it" in scores.notes[0]


def test_an_interval_is_over_groups_and_a_mean_over_values():
    rows, values = [{"prompt": p} for p in "aabb"], [0.1, 0.2, 0.3, 0.6]
    scores = Scores(rows)
    scores.add("v", "DINO", rows, values, Groups(list("aabb"), "prompts"), references=5)
    assert [row["v"] for row in rows] == values
    assert scores.summary["v"] == {
        "metric": "DINO",
        "mean": pytest.approx(0.3),
        "mean_over": "images",
        "interval_95": bootstrap_interval(values, list("aabb"), seed=0),
        "interval_over": "prompts",
        "images": 4,
        "references": 5,
    }
    scores.add("w", "DINO", rows[:2], values[:2], Groups(list("aa"), "prompts"))
    scores.add("x", "DINO", rows, values, None)
    for variant in ("w", "x"):  # one group, and none: no interval
        summary = scores.summary[variant]
        assert summary["interval_95"] is summary["interval_over"] is None


def test_unequal_counts_of_images_are_part_of_divs_variant(networks, spine):
    photos = sorted(spine.photos.iterdir())
    items = [Item("subject", f"{i}.png", f"prompt {i // 2 % 2}", "a dog", i) for i in range(5)]
    scores = score(items, [photos[i % 3] for i in range(5)], References(photos), networks, ["div"])
    (variant,) = scores.summary
    assert variant.endswith("within_prompt.2to3")
    assert scores.summary[variant]["mean_over"] == "prompts"
    assert [row["set"] for row in scores.rows] == ["subject"] * 5  # no score of the photos


def test_one_photo_has_no_score_among_the_photos(networks, spine):
    photos = sorted(spine.photos.iterdir())
    items = [Item("subject", "0.png", "a sks dog", "a dog", 0)]
    for references, count in ((photos[:1], 0), (photos, 3)):
        scores = score(items, photos[:1], References(references), networks, ["dino"])
        assert sum(row["set"] == "photo" for row in scores.rows) == count
        assert any(v.startswith("real_ref.") for v in scores.summary) == bool(count)


def test_kernel_distances_compare_with_the_base_models_images_of_the_prompt(networks, spine):
    photos = sorted(spine.photos.iterdir())
    items = [Item("class", f"{i}.png", "a dog", "a dog", i) for i in range(2)]
    items += [Item("other", f"{i}.png", "a cat", "a cat", i) for i in range(2)]
    images = [photos[0], photos[1], photos[1], photos[2]]
    base = {"a dog": photos[:2], "a cat": [photos[2], photos[0]]}
    scores = score(items, images, References(photos, base=base), networks, ["kernel"])
    entries = {entry["metric"]: entry for entry in scores.summary.values()}
    own, other = (entries[f"Kernel distance {k}"] for k in ("own class", "other classes"))
    assert own["mean"] == 0 and other["mean"] != 0 and other["images"] == 2
    (variant,) = (v for v in scores.summary if v.startswith("kernel.other_classes.dino.pocket."))
    rows = [row[variant] for row in scores.rows if row["set"] == "other"]
    assert sum(rows) / 2 == pytest.approx(other["mean"])
    scores = score(items, images, References(photos, base={"a dog": photos}), networks, ["kernel"])
    assert not scores.summary and "own class are not there" in scores.notes[0]


def test_gallery_identity_needs_another_subject_of_the_class(networks, spine):
    photos = sorted(spine.photos.iterdir())
    items = [Item("subject", f"{i}.png", "a sks dog", "a dog", i) for i in range(2)]
    references = References(photos[:1], {"dog2": photos[1:2]})
    scores = score(items, photos[:2], references, networks, ["gallery"])
    entries = {e["metric"]: (e["mean"], e["gallery"]) for e in scores.summary.values()}
    assert entries == {"Gallery recall@1": (0.5, 2), "Gallery rank": (1.5, 2)}
    scores = score(items, photos[:2], References(photos[:1]), networks, ["gallery"])
    assert not scores.summary and "no photos of other subjects" in scores.notes[0]


def test_prompts_without_an_identifier_have_one_clip_t(networks, spine):
    photos = sorted(spine.photos.iterdir())
    items = [Item("subject", f"{i}.png", "a dog", "a dog", i) for i in range(2)]
    scores = score(items, photos[:2], References(photos), networks, ["clip_t", "div"])
    assert {e["metric"] for e in scores.summary.values()} == {"CLIP-T class_only", "DIV"}
    assert "no identifier" in scores.notes[0]


def test_a_prompt_with_one_image_is_left_out_of_div(networks, spine):
    photos = sorted(spine.photos.iterdir())
    prompts = ["a red dog", "a wet dog", "a wet dog"]
    items = [Item("subject", f"{i}.png", p, p, i) for i, p in enumerate(prompts)]
    scores = score(items, photos, References(photos), networks, ["div"])
    (entry,) = scores.summary.values()
    assert (entry["images"], entry["prompts"]) == (2, 1)
    assert scores.notes[0] == 'DIV leaves out 1 prompts with one image, "a red dog" first.'

"""What is scored of a folder, and with which networks."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth.errors import UserError
from dreambooth.evaluation.plan import Item
from dreambooth.evaluation.score import METRICS, Encoders, load_encoders, network_names, score
from tiny_encoders import canonical_encoders, pocket_encoders


@pytest.fixture(scope="module")
def encoders_dir(tmp_path_factory) -> Path:
    return pocket_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture
def networks(encoders_dir, tmp_path) -> Encoders:
    return load_encoders("pocket", METRICS, "cpu", str(encoders_dir), str(tmp_path / "cache"))


def names(networks: Encoders, photos: list[Path], *class_prompts: str):
    """Metrics and notes of two images of the subject and one of each class prompt."""
    items = [Item("subject", f"{i}.png", "a sks dog", "a dog", i) for i in range(2)]
    items += [Item("class", "c.png", prompt, prompt, -1) for prompt in class_prompts]
    images = [photos[i % len(photos)] for i in range(len(items))]
    scores = score(items, images, photos, networks, METRICS)
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


def test_any_network_scores_when_it_is_named(encoders_dir, tmp_path):
    every = ["canonical", "dinov2_s", "clip_l14", "vgg"]
    assert network_names(every) == {"dino": "dinov2_s", "clip": "clip_l14", "lpips": "vgg"}
    assert network_names("dino_vits8") == {"dino": "dino_vits8"}
    weights = canonical_encoders(encoders_dir)
    options = "cpu", str(weights), str(tmp_path)
    mixed = load_encoders(["pocket", "dino_vits16"], METRICS, *options)
    assert mixed.dino.name == "dino_vits16" and mixed.clip.name == "pocket_clip"
    assert mixed.distance.variant == "lpips.pocket.v1.32"  # over its own encoder
    assert mixed.distance.weights_hash != mixed.dino.weights_hash
    alone = load_encoders("clip_b32", ["clip_t"], *options)
    assert (alone.dino, alone.clip.name, alone.distance) == (None, "clip_b32", None)
    for encoders, word in ((["dino_vits16"], "no clip network for clip_i"), ("dino", "not one of")):
        with pytest.raises(UserError, match=word):
            load_encoders(encoders, METRICS, *options)

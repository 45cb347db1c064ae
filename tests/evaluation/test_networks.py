"""Which networks score, by the names in `evaluation.encoders`."""

from __future__ import annotations

import pytest

from dreambooth.errors import UserError
from dreambooth.evaluation.networks import METRICS, load_encoders, network_names
from tiny_encoders import canonical_encoders, pocket_encoders


def test_any_network_scores_when_it_is_named(tmp_path):
    encoders_dir = pocket_encoders(tmp_path / "encoders")
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

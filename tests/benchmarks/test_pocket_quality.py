"""What the quality benchmark draws, leaves out and writes."""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pocket_quality as quality
import pytest
import torch
from PIL import Image
from pocket_truth import Share

from dreambooth.errors import UserError
from dreambooth.pocket import world
from dreambooth.pocket.embedded import weights_hash
from dreambooth.pocket.pretraining import probe


@pytest.fixture
def drawn(monkeypatch):
    """Stand-ins for model, judge and renderer, which keep their inputs."""
    kept = SimpleNamespace(seeds=[], scenes=[], prompts=[])

    def pictures(model, prompts, seed, sampling=None):
        kept.seeds.append(range(seed, seed + len(prompts)))
        kept.prompts.append(prompts)
        return [Image.new("RGB", (64, 64), "red")] * len(prompts)

    def remember(scene):
        kept.scenes.append(scene)
        return np.zeros((64, 64, 3), np.uint8)

    monkeypatch.setattr(quality, "pictures", pictures)
    monkeypatch.setattr(quality, "latent_spread", lambda model, images: 2.0)
    monkeypatch.setattr(quality, "psnr", lambda model, images: 30.0)
    monkeypatch.setattr(quality, "load", lambda path: None)
    monkeypatch.setattr(world, "render", remember)
    reading = {"class": "dog", "color": "red", "context": "snow"}
    monkeypatch.setattr(probe, "judge", lambda network, images: [reading] * len(images))
    return kept


@pytest.fixture
def weights(tmp_path):
    """A folder with a judge and no encoders."""
    torch.manual_seed(0)
    probe.save_probe(probe.Probe(), tmp_path)
    return tmp_path


def measured(weights, seed: int = 0, images: int = 4) -> Any:
    args: Any = SimpleNamespace(
        weights=weights, judges=weights, photos=None, images=images, seed=seed
    )
    return quality.measure(args)


def test_another_seed_draws_nothing_twice(drawn, weights):
    seen = []
    for seed in (0, 1, 2):
        drawn.seeds, drawn.scenes = [], []
        measured(weights, seed)
        *asked, _, _ = drawn.seeds  # those of the timing come last and give no figure
        assert len(set().union(*asked)) == sum(map(len, asked)) == 4 + 4 + 4
        seen.append((set().union(*asked), set(drawn.scenes)))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not seen[one][0] & seen[other][0] and not seen[one][1] & seen[other][1]


def test_the_same_seed_draws_the_same(drawn, weights):
    first, _ = measured(weights)
    seeds, scenes = drawn.seeds, drawn.scenes
    drawn.seeds, drawn.scenes = [], []
    second, _ = measured(weights)
    assert drawn.seeds == seeds and drawn.scenes == scenes
    assert {k: v for k, v in first.items() if k != "seconds"} == {
        k: v for k, v in second.items() if k != "seconds"
    }


def test_held_out_prompts_are_combinations_that_training_never_showed(drawn, weights):
    table, _ = measured(weights, images=500)
    count = sum(
        world.held_out_combination(noun, color, context)
        for noun in world.CLASSES
        for color in world.COLORS
        for context in world.CONTEXTS
    )
    held = drawn.prompts[1]
    assert len(set(held)) == len(held) == count == table["held-out"]["all"].n < 500
    assert table["asked"]["all"].n == table["probe"]["class"].n == 500


def test_an_encoder_that_the_folder_lacks_is_never_the_package_s(encoders_dir, tmp_path):
    shutil.copytree(encoders_dir / "dino", tmp_path / "encoders" / "dino")
    assert quality.own_encoder("dino", tmp_path).weights_hash
    with pytest.raises(UserError, match=r"has no encoders/clip: train it with .*encoders,export"):
        quality.own_encoder("clip", tmp_path)


def test_rows_whose_part_is_missing_are_left_out_and_named(drawn, tmp_path):
    table, absent = measured(tmp_path)
    assert list(table) == ["vae", "diversity", "seconds"] and table["diversity"] == {"latents": 1.0}
    assert [[part in sentence for sentence in absent] for part in ("probe", "dino", "clip")] == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]


def test_a_model_with_another_s_judges_is_measured_by_its_pictures(drawn, weights, monkeypatch):
    monkeypatch.setattr(quality, "own_encoder", lambda kind, folder: (kind, folder))
    monkeypatch.setattr(quality, "pocket_distance", lambda dino: None)
    args: Any = SimpleNamespace(weights="other", judges=weights, images=4, seed=0)
    table, absent = quality.measure(args)
    assert list(table) == ["asked", "held-out", "diversity", "seconds"] and not absent


def test_both_identity_rows_stand_beside_each_other(drawn, weights, encoders_dir, monkeypatch):
    shutil.copytree(encoders_dir / "dino", weights / "encoders" / "dino")
    monkeypatch.setattr(quality, "pocket_distance", lambda dino: None)
    table, absent = measured(weights, images=30)
    assert list(table["triples"]) == ["identity", "identity, tints too"]
    assert all(share.n == 30 for share in table["triples"].values())
    assert len(absent) == 1 and "clip" in absent[0]


def test_the_file_says_which_weights_it_is_of(drawn, weights, tmp_path, monkeypatch):
    out = tmp_path / "quality.json"
    command = ["pocket_quality.py", "--weights", str(weights), "--images", "4", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    quality.main()
    written = json.loads(out.read_text())
    assert written["weights"] == weights_hash(weights)
    assert (written["images"], written["seed"]) == (4, 0)
    rows = {k: v for k, v in written.items() if isinstance(v, dict)}
    assert set(rows) == {"vae", "asked", "held-out", "probe", "diversity", "seconds"}
    assert all(isinstance(v, float) for row in rows.values() for v in row.values())
    counted = {(s["row"], s["name"]): s["n"] for s in written["shares"]}
    assert counted["probe", "class"] == 4 and ("vae", "scenes") not in counted


@pytest.mark.parametrize("wrong", [["--seed", "-1"], ["--images", "1"]])
def test_values_that_cannot_be_are_refused(monkeypatch, capsys, wrong):
    monkeypatch.setattr(sys, "argv", ["pocket_quality.py", *wrong])
    with pytest.raises(SystemExit) as stopped:
        quality.main()
    assert stopped.value.code == 2 and "--seed must be 0 or more" in capsys.readouterr().err


def test_psnr_by_hand():
    """A VAE that is off by a tenth of the range everywhere: 20 dB."""
    images = np.full((3, 64, 64, 3), 100, np.uint8)
    model: Any = SimpleNamespace(
        encode=lambda pixels: (pixels, None),
        vae=SimpleNamespace(decode=lambda z: SimpleNamespace(sample=z + 0.2)),
    )
    assert quality.psnr(model, images) == pytest.approx(20, abs=1e-4)


def test_photos_are_cut_square_in_the_middle(tmp_path):
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, 32:96] = 255  # the middle of a wide picture
    Image.fromarray(image).save(tmp_path / "wide.png")
    assert quality.photos_at_64(tmp_path).tolist() == np.full((1, 64, 64, 3), 255).tolist()


def test_share_is_what_the_judge_sees(drawn):
    nothing: Any = None
    found = quality.found(nothing, nothing, ["a", "b"], [{"class": "dog"}, {"class": "cat"}], 5)
    assert found == {"class": Share(0.5, 2), "all": Share(0.5, 2)} and drawn.seeds == [range(5, 7)]

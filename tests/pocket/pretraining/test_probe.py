"""The independent judge of pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dreambooth.errors import UserError
from dreambooth.pocket import world
from dreambooth.pocket.pretraining import probe, shards
from dreambooth.pocket.pretraining.checkpoints import load_average
from dreambooth.pocket.pretraining.device import to_pixels
from small_pretraining import make, shipped


def test_facts_are_what_is_painted():
    who = world.Identity("cat", "red", "blue", "spots", 1)
    tinted = world.Scene(who, world.View(context="snow", tint="green"))
    assert probe.facts(tinted) == {"class": "cat", "color": "green", "context": "snow"}
    assert probe.facts(world.Scene(who, world.View()))["color"] == "red"


def test_it_sees_seeds_of_its_own():
    """That no other stage may reach them is tested in test_spec.py."""
    spec = shipped()
    last = max(spec.vae.scenes, spec.denoiser.scenes, spec.encoders.scenes)
    first = shards.PROBE_SHARD * shards.SHARD
    assert last < first < first + spec.probe.scenes < 30_000_000  # the benchmarks' own


def test_logits_have_a_place_for_every_word():
    logits = probe.Probe().eval()(torch.zeros(2, 3, 64, 64))
    assert {k: v.shape for k, v in logits.items()} == {
        "class": (2, 15),
        "color": (2, 11),
        "context": (2, 17),
    }


@pytest.mark.slow
def test_training_saves_what_loading_gives(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 16)
    (tmp_path / "scenes").mkdir()
    for index in (2442, 2443):
        shards.render_shard(index, tmp_path / "scenes", "any", 16)
    sizes = "probe.samples=48", "probe.scenes=32", "probe.batch_size=8"
    spec = make(tmp_path, "device=cpu", *sizes)
    probe.pretrain_probe(spec)
    path, trained = tmp_path / "probe.safetensors", probe.Probe()
    assert load_average(trained, tmp_path / "probe.pt")["step"] == 6
    assert path.stat().st_size < 3_000_000
    loaded = probe.load_probe(tmp_path)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    for name, value in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float())
    before = path.read_bytes()
    probe.pretrain_probe(spec)  # finished: no step more
    assert path.read_bytes() == before


def test_labels_belong_to_their_scenes():
    labels = probe._labels(range(50, 60))
    for row, seed in zip(labels.tolist(), range(50, 60), strict=True):
        named = [words[i] for words, i in zip(probe.HEADS.values(), row, strict=True)]
        assert named == list(probe.facts(world.sample_scene(seed, "any")).values())


class Fixed(probe.Probe):
    """Always sees a red dog in the snow."""

    def forward(self, pixels):
        rows = {name: torch.zeros(len(pixels), len(words)) for name, words in probe.HEADS.items()}
        for name, word in (("class", "dog"), ("color", "red"), ("context", "snow")):
            rows[name][:, probe.HEADS[name].index(word)] = 1
        return rows


def test_accuracy_by_hand():
    def scene(noun: str, color: str, context: str) -> world.Scene:
        return world.Scene(
            world.Identity(noun, color, "white", "plain", 0), world.View(context=context)
        )

    shown = [
        scene("dog", "red", "snow"),
        scene("dog", "blue", "city"),
        scene("cat", "red", "city"),
        scene("cat", "red", "beach"),
    ]
    assert probe.accuracy(Fixed(), shown) == {"class": 0.5, "color": 0.75, "context": 0.25}
    found = probe.judge(Fixed(), np.zeros((70, 64, 64, 3), np.uint8))
    assert len(found) == 70 and found[-1] == {"class": "dog", "color": "red", "context": "snow"}


def test_a_small_probe_learns():
    images = np.stack([world.render(world.sample_scene(seed, "any")) for seed in range(24)])
    target = probe._labels(range(24))
    torch.manual_seed(0)
    network = probe.Probe([16, 16, 16, 16])
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    losses = []
    for _ in range(25):
        logits = network(to_pixels(images, "cpu"))
        terms = [F.cross_entropy(logits[k], target[:, i]) for i, k in enumerate(probe.HEADS)]
        loss = torch.stack(terms).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_softening_keeps_the_scene_and_follows_the_seed():
    pixels = to_pixels(world.render(world.sample_scene(0))[None].repeat(30, 0), "cpu")
    soft = [probe._soften(pixels, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(soft[0], soft[1]) and not torch.equal(soft[0], soft[2])
    assert (soft[0] - pixels).square().mean() < 0.02


def test_a_missing_or_foreign_probe_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="stages=.probe."):
        probe.load_probe(tmp_path)
    (tmp_path / "probe.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="stages=.probe."):
        probe.load_probe(tmp_path)

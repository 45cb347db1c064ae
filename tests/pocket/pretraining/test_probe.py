"""The independent judge of pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from dreambooth.cli.main import CONF
from dreambooth.errors import UserError
from dreambooth.pocket import world
from dreambooth.pocket.pretraining import probe, scenes

SETTINGS = {
    "batch_size": 8,
    "lr": 2e-3,
    "decay": 0.25,
    "ema_decay": 0.9,
    "weight_decay": 0.0,
    "workers": 1,
    "bf16": False,
    "save_seconds": 60,
    "seed": 0,
    "device": "cpu",
}


def test_facts_are_what_is_painted():
    who = world.Identity("cat", "red", "blue", "spots", 1)
    tinted = world.Scene(who, world.View(context="snow", tint="green"))
    assert probe.facts(tinted) == {"class": "cat", "color": "green", "context": "snow"}
    assert probe.facts(world.Scene(who, world.View()))["color"] == "red"


def test_it_sees_seeds_of_its_own():
    """That no other stage may reach them is held by tests/pocket/test_readiness.py."""
    shipped = OmegaConf.load(CONF / "pretrain.yaml")
    last = max(shipped[stage].scenes for stage in ("vae", "denoiser", "encoders"))
    first = probe.FIRST_SHARD * scenes.SHARD
    assert last < first < first + shipped.probe.scenes_count < 30_000_000  # the benchmarks' own


def test_logits_have_a_place_for_every_word():
    logits = probe.Probe().eval()(torch.zeros(2, 3, 64, 64))
    assert {k: v.shape for k, v in logits.items()} == {
        "class": (2, 15),
        "color": (2, 11),
        "context": (2, 17),
    }


@pytest.mark.slow
def test_training_saves_what_loading_gives(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "SHARD", 16)
    (tmp_path / "scenes").mkdir()
    for index in (2442, 2443):  # made here: a spawned process renders shards of the real size
        scenes.render_shard(index, tmp_path / "scenes", "any")
    trained = probe.train_probe(tmp_path, 48, scenes_count=32, **SETTINGS)
    path = tmp_path / "probe.safetensors"
    assert path.stat().st_size < 3_000_000
    loaded = probe.load_probe(tmp_path)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    for name, value in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float())
    again = probe.train_probe(tmp_path, 48, scenes_count=32, **SETTINGS)  # finished: no step more
    assert all(
        torch.equal(a, b)
        for a, b in zip(trained.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_labels_belong_to_their_scenes():
    labels = probe._labels(range(50, 60))
    for row, seed in zip(labels.tolist(), range(50, 60), strict=True):
        said = [words[i] for words, i in zip(probe.HEADS.values(), row, strict=True)]
        assert said == list(probe.facts(world.sample_scene(seed, "any")).values())


class Fixed(nn.Module):
    """Always sees a red dog in the snow."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

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
        logits = network(probe.to_pixels(images, "cpu"))
        loss = sum(
            nn.functional.cross_entropy(logits[k], target[:, i]) for i, k in enumerate(probe.HEADS)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_softening_keeps_the_scene_and_follows_the_seed():
    pixels = probe.to_pixels(world.render(world.sample_scene(0))[None].repeat(30, 0), "cpu")
    soft = [probe._soften(pixels, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(soft[0], soft[1]) and not torch.equal(soft[0], soft[2])
    assert (soft[0] - pixels).square().mean() < 0.02


def test_a_missing_or_foreign_probe_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="stages=.probe."):
        probe.load_probe(tmp_path)
    (tmp_path / "probe.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="stages=.probe."):
        probe.load_probe(tmp_path)

"""What runs will cost, from earlier ones or from the model's size."""

from __future__ import annotations

import json
from typing import Any

import pytest

from composed_configs import composed
from dreambooth.study.costs import guesses
from dreambooth.study.costs.estimates import Earlier, estimate
from dreambooth.study.costs.plan import Work
from dreambooth.study.costs.rates import Rates


def record(config: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    """Ten steps of 4 photos in 2 s, 8 samples x 20 steps in 1.6 s, and 16 scores in 4 s."""
    stages = {
        "training": {"seconds": 2.5},
        "export": {"seconds": 0.5},
        "samples": {"seconds": 1.6},
        "evaluation": {"seconds": 4.0},
    }
    costs = {"stages": stages, "seconds": 10.0, "peak_memory_gib": 1.5, "bytes_written": 100}
    costs["phase_0"] = {"seconds": 2.0, "steps": 10}
    return {"finished": True, "device": device, "config": config, "costs": costs}


def test_costs_are_those_of_earlier_runs(monkeypatch):
    config = composed("ppl=false", "batch_size=4", "max_steps=10")
    rates = Rates.of_record(record(config))
    assert rates.train == pytest.approx(2.0 / 40) and rates.draw == pytest.approx(0.01)
    assert rates.score == pytest.approx(4.0 / 16 - 20 * 0.01)
    assert rates.other == pytest.approx(10 - 8.6 + 0.5)
    earlier = Earlier([], "cpu")
    monkeypatch.setattr(Earlier, "records", [record(config)])
    again = estimate(Work.of([config]), earlier)
    assert again.seconds == pytest.approx(2.0 + 1.6 + 4.0 + 1.9)
    assert again.memory_gib == 1.5
    assert again.sources == ["1 earlier run on cpu"]
    longer = composed("ppl=false", "batch_size=8", "max_steps=30")
    assert estimate(Work.of([longer]), earlier).seconds == pytest.approx(12.0 + 1.6 + 4.0 + 1.9)


def test_records_are_not_sought_in_the_depths_of_a_home(tmp_path):
    names = ("run.json", "multirun/day/run/run.json", "a/b/c/d/run.json")
    for path in [tmp_path / name for name in names]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record(composed("ppl=false", "batch_size=4", "max_steps=10"))))
    assert len(Earlier([tmp_path], "cpu").records) == 2


@pytest.mark.thorough
def test_a_model_without_earlier_runs_is_estimated_by_its_architecture(monkeypatch):
    """A U-Net of 338.7 G multiply-adds (BK-SDM, Kim et al. 2023), and 63 G more of attention."""
    monkeypatch.setattr(guesses, "speed_of_matmul", lambda *_: 2e12)
    sd = ("model=sd15", "photos.root=x", "max_steps=3", "evaluation=none", "ppl=false")
    both = composed(*sd, "train_text_encoder=true", "batch_size=2")
    costs = estimate(Work.of([both]), Earlier([], "cpu"))
    unet, text = 2 * (0.3387 + 0.063), 0.0133  # TFLOP
    drawn = 8 * both["sampling"]["num_inference_steps"] * 2 * unet
    assert costs.seconds == pytest.approx(3 * 2 * 3 * (unet + text) + drawn, rel=0.01)
    assert costs.sources == ["the sizes of sd15's networks"]
    assert costs.guess.startswith(f"a guess from {costs.seconds:.3g} TFLOP at 1 TFLOP/s: half of")
    assert costs.memory_gib == pytest.approx(18, rel=0.2)
    lost = composed("model.name=mine", "model.path=org/mine")
    costs = estimate(Work.of([lost]), Earlier([], "cuda"))
    assert costs.memory_gib is None and costs.seconds is None and costs.guess == ""

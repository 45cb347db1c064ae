"""The curve's file and its best step across sittings; scores and weights are stand-ins."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dreambooth.cli.specs import curve_evaluation
from dreambooth.errors import UserError
from dreambooth.evaluation import curve
from dreambooth.evaluation.curve import Curve
from dreambooth.evaluation.plan import Item
from dreambooth.metrics.variants import clip_t_id, dino_id

DINO, CLIP = "dino.pocket.sq32_bicubic", "clip.pocket.sq32_bicubic"


@pytest.fixture
def sitting(tmp_path, monkeypatch):
    """`sitting({step: dino}, prompt)`: a Curve that has scored those steps, in one folder."""
    networks = SimpleNamespace(
        dino=SimpleNamespace(variant=DINO), clip=SimpleNamespace(variant=CLIP), ids={"dino": DINO}
    )
    weights = SimpleNamespace(value=torch.zeros(1), loaded=None)
    weights.state = lambda: {"weight": weights.value}
    weights.load = lambda state: setattr(weights, "loaded", state["weight"].item())

    def make(scores: dict[int, float], prompt: str = "a sks dog", **settings) -> Curve:
        items = [Item("subject", "0.png", prompt, "a dog", 0)]
        made = Curve(
            weights, lambda *_: [], items, [], networks, tmp_path, 0, {"steps": 2, **settings}
        )
        for step, dino in scores.items():
            summary = {dino_id(DINO): dino, clip_t_id(CLIP, "class_only"): 0.3}
            summary = {key: {"mean": value} for key, value in summary.items()}
            monkeypatch.setattr(curve, "score", lambda *_, s=summary: SimpleNamespace(summary=s))
            weights.value = torch.tensor([float(step)])
            made.score(step, [])
        return made

    return make


def steps(path: Path) -> list[float]:
    with open(path, newline="") as file:
        return [float(row["step"]) for row in csv.DictReader(file)]


def test_the_best_state_is_that_of_the_row_that_won(sitting):
    sitting({0: 0.9, 10: 0.6, 20: 0.5})
    again = sitting({30: 0.4})
    assert again.load_best() == 10 and again.weights.loaded == 10


def test_a_best_step_whose_state_was_overwritten_is_not_exported(sitting):
    """20 wins and overwrites 10; stopped, and gone on from before 20, which then loses."""
    sitting({0: 0.1, 10: 0.5, 20: 0.6})
    again = sitting({20: 0.4, 30: 0.3})
    assert again.best() == 10
    with pytest.raises(UserError, match="of step 20, but the best step is 10"):
        again.load_best()
    again.best_path.unlink()
    with pytest.raises(UserError, match="is missing"):
        again.load_best()


@pytest.mark.parametrize("change", [{"prompt": "a sks dog in snow"}, {"steps": 3}])
def test_what_measured_something_else_is_put_aside(sitting, tmp_path, caplog, change):
    sitting({0: 0.1, 10: 0.9})
    assert steps(tmp_path / "curve.csv") == [0, 10]
    again = sitting({20: 0.2, 30: 0.3}, **change)
    assert "measured something else" in caplog.text
    assert steps(tmp_path / "curve.csv") == [20, 30] and again.load_best() == 30
    (aside,) = tmp_path.glob("curve-before-*.csv")
    assert steps(aside) == [0, 10]
    assert steps(tmp_path / "curve.csv") == [row["step"] for row in sitting({}, **change).rows]


def test_a_curve_beside_an_average_is_refused(spine, tmp_path):
    cfg = spine.compose(tmp_path, "evaluation.every_n_steps=1", "ema_decay=0.9")
    with pytest.raises(UserError, match="ema_decay"):
        curve_evaluation(cfg)

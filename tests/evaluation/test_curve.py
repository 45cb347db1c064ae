"""The curve's file and its best step across sessions; scores and weights are stand-ins."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dreambooth.errors import UserError
from dreambooth.evaluation import curve
from dreambooth.evaluation.curve import Curve
from dreambooth.evaluation.networks import Encoders
from dreambooth.metrics.variants import clip_t_id, dino_id
from dreambooth.sampling.manifest import Item

pytestmark = pytest.mark.slow

DINO, CLIP = "dino.pocket.sq32_bicubic", "clip.pocket.sq32_bicubic"


@pytest.fixture
def session(tmp_path, monkeypatch):
    """`session({step: dino}, prompt)`: a Curve that has scored those steps, in `run`."""
    monkeypatch.setattr("dreambooth.evaluation.curve_plot.draw_curve", lambda *_: None)
    networks = Encoders(
        "pocket",
        *(SimpleNamespace(variant=v, model_id=v, weights_hash="a") for v in (DINO, CLIP)),
        distance=None,
    )
    weights = SimpleNamespace(value=torch.zeros(1), loaded=None, model=None)
    weights.state = lambda: {"weight": weights.value}
    weights.load = lambda state: setattr(weights, "loaded", state["weight"].item())

    def make(
        scores: dict[int, float],
        prompt: str = "a sks dog",
        best_after: int | None = 0,
        run: str = ".",
        **settings,
    ) -> Curve:
        evaluation = SimpleNamespace(
            items=[Item("subject", "0.png", prompt, "a dog", 0)],
            sampling=SimpleNamespace(facts={"steps": 2, **settings}),
            photos=[],
            encoders=networks,
            drawn=lambda *_: [],
        )
        made = Curve(evaluation, weights, tmp_path / run, best_after)
        for step, dino in scores.items():
            summary = {dino_id(DINO): dino, clip_t_id(CLIP, "class_only"): 0.3}
            summary = {key: {"mean": value} for key, value in summary.items()}
            monkeypatch.setattr(curve, "score", lambda *_, s=summary: SimpleNamespace(summary=s))
            weights.value = torch.tensor([float(step)])
            made.score(step)
        return made

    return make


def steps(path: Path) -> list[float]:
    with open(path, newline="") as file:
        return [float(row["step"]) for row in csv.DictReader(file)]


def test_the_best_state_is_that_of_the_row_that_won(session):
    session({0: 0.9, 10: 0.6, 20: 0.5})
    again = session({30: 0.4})
    assert again.load_best() == 10 and again.weights.loaded == 10


def test_a_best_step_whose_state_was_overwritten_is_not_exported(session):
    """20 wins and overwrites 10; stopped, and gone on from before 20, which then loses."""
    session({0: 0.1, 10: 0.5, 20: 0.6})
    again = session({20: 0.4, 30: 0.3})
    assert again.best() == 10
    with pytest.raises(UserError, match="of step 20, but the best step is 10"):
        again.load_best()
    again.best_path.unlink()
    with pytest.raises(UserError, match="is missing"):
        again.load_best()


@pytest.mark.parametrize(
    "damage", [lambda text: text.replace("0.9", "0.8"), lambda text: text[:-40]]
)
def test_a_curve_that_changed_is_refused(session, tmp_path, damage):
    session({0: 0.1, 10: 0.9})
    path = tmp_path / "curve.csv"
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match="curve.csv is damaged .*remove it to begin a new curve"):
        session({})


@pytest.mark.parametrize(
    "done, said", [(0, None), (20, "of the 20 steps"), (30, "of the 30 steps")]
)
def test_steps_that_have_no_scores_any_more_are_said(session, caplog, done, said):
    session({}).warn_of_gap(done, every=10)
    assert (said or "") in caplog.text and bool(said) == bool(caplog.text)
    caplog.clear()
    kept = session({0: 0.1, 10: 0.9})
    kept.warn_of_gap(20, every=10)  # the point at 20 comes after its checkpoint
    assert not caplog.text
    kept.warn_of_gap(30, every=10)
    assert "of the 20 steps that are trained already after step 10" in caplog.text


@pytest.mark.parametrize("change", [{"prompt": "a sks dog in snow"}, {"steps": 3}])
def test_what_measured_something_else_is_put_aside(session, tmp_path, caplog, change):
    session({0: 0.1, 10: 0.9})
    assert steps(tmp_path / "curve.csv") == [0, 10]
    again = session({20: 0.2, 30: 0.3}, **change)
    assert "measured something else" in caplog.text
    assert steps(tmp_path / "curve.csv") == [20, 30] and again.load_best() == 30
    (aside,) = tmp_path.glob("curve-before-*.csv")
    assert steps(aside) == [0, 10]
    assert steps(tmp_path / "curve.csv") == [row["step"] for row in session({}, **change).rows]


def test_no_step_before_the_last_phase_is_the_best(session):
    assert session({0: 0.9, 10: 0.8, 20: 0.5, 30: 0.4}, best_after=10).best() == 20
    none = session({40: 0.9}, best_after=None)
    assert none.best() is None and none.last_step == 40
    assert session({0: 0.9}, "another prompt").best() is None


def test_points_since_the_best_are_counted_within_the_phase(session):
    curve = session({0: 0.9, 10: 0.2, 20: 0.6, 30: 0.5, 40: 0.6, 50: 0.7})
    counts = [curve.points_since_best(0, last) for last in (0, 10, 20, 30, 40, 45, 50)]
    assert counts == [0, 0, 0, 1, 2, 2, 0]  # step 0 is before training; an equal point is no rise
    assert curve.points_since_best(20, 40) == 0 and curve.points_since_best(50, 60) == 0


def test_a_curve_may_stand_beside_an_average(spine, tmp_path):
    overrides = ("evaluation.every_n_steps=1", "ema_decay=0.9", "checkpoint.best=harmonic")
    spec = spine.spec(tmp_path, *overrides)
    assert spec.curve.every_n_steps == 1 and spec.optimizer.ema_decay == 0.9


def test_scores_of_another_run_come_with_the_state_of_the_best(session):
    theirs = session({0: 0.1, 10: 0.5, 20: 0.3, 30: 0.6}, run="other").folder
    ours = session({})
    assert not ours.adopt(theirs, [0, 10, 20], None)  # they have the state of step 30 alone
    assert not ours.adopt(theirs, [0, 5, 10], None)  # a step that they did not score
    assert ours.rows == [] and not ours.path.exists()
    assert ours.adopt(theirs, [0, 10, 20], 30)
    assert steps(ours.path) == [0, 10, 20, 30] and ours.last_step == 30
    assert ours.load_best() == 30 and ours.weights.loaded == 30
    again = session({40: 0.2})
    assert again.load_best() == 30 and steps(again.path)[-2:] == [30, 40]


def test_scores_of_another_run_that_measured_anything_else_stay_there(session, tmp_path):
    theirs = session({0: 0.1, 10: 0.5}, run="other").folder
    assert not session({}, guidance=2).adopt(theirs, [0, 10], None)
    assert not session({}, run="a").adopt(theirs.parent / "absent", [0], None)
    (tmp_path / "curve.csv").write_bytes(b"\xff\xfe damaged")
    assert not session({}, run="c").adopt(tmp_path, [0], None)
    session({0: 0.2, 10: 0.3, 20: 0.4}, run="b", best_after=None)
    later = session({}, run="b", best_after=None)
    assert later.adopt(theirs, [10], None) and steps(later.path) == [0, 10]
    assert [row["harmonic_mean"] for row in later.rows] == pytest.approx(
        [2 * a * 0.3 / (a + 0.3) for a in (0.2, 0.5)]
    )

"""The number that a run returns to a Hydra sweeper."""

from __future__ import annotations

import pytest

from dreambooth.cli.sweeps.objective import check_objective, objective_of
from dreambooth.errors import UserError

SUMMARY = {
    "dino.x": {"metric": "DINO", "mean": 0.6},
    "clip_t.x.class_only": {"metric": "CLIP-T class_only", "mean": 0.3},
    "clip_t.x.with_id": {"metric": "CLIP-T with_id", "mean": 0.9},
}


def test_values_worked_by_hand():
    assert objective_of("dino", SUMMARY) == 0.6
    assert objective_of("clip_t", SUMMARY) == 0.3
    assert objective_of("harmonic", SUMMARY) == pytest.approx(0.4)  # 2 x 0.18 / 0.9


def test_a_score_that_is_missing_is_one_sentence():
    with pytest.raises(UserError, match="objective=pres: this run has no score of PRES"):
        objective_of("pres", SUMMARY)
    with pytest.raises(UserError, match="DINO and CLIP-T class_only"):
        objective_of("harmonic", {})


@pytest.mark.parametrize("objective", [None, "dino", "clip_t", "harmonic"])
def test_what_the_evaluation_computes_is_let_through(objective):
    check_objective(objective, ["dino", "clip_t"])


@pytest.mark.parametrize(
    ("objective", "metrics", "expected"),
    [
        ("dno", ["dino"], "objective=dno does not exist: choose dino, "),
        (True, ["dino"], "objective=True does not exist"),
        ("dino", [], "objective=dino needs dino"),
        ("harmonic", ["dino"], "objective=harmonic needs clip_t, which"),
        ("harmonic", [], "needs dino and clip_t, which"),
    ],
)
def test_what_it_does_not_compute_is_refused(objective, metrics, expected):
    with pytest.raises(UserError, match=expected):
        check_objective(objective, metrics)

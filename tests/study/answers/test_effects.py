"""What each setting of a grid changes: differences over the runs that differ in nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dreambooth.study.answers.answer_files import markdown
from dreambooth.study.answers.answer_rows import build_answer
from dreambooth.study.answers.effects import Effect, effects
from dreambooth.study.answers.settings import in_order
from dreambooth.study.finished.scored_runs import read_runs
from run_records import DINO, write_run

SUBJECTS, PPL, RATES, SEEDS = ("cat", "dog"), (False, True), (1e-4, 2e-4, 4e-4), (0, 1)


@pytest.fixture
def grid(tmp_path) -> np.ndarray:
    """Scores `[subject,ppl,lr,seed]` of a grid of which one cell was not run."""
    scores = np.random.default_rng(0).uniform(0.2, 0.8, (2, 2, 3, 2))
    scores[1, 1, 2] = np.nan
    for s, p, r, seed in np.argwhere(~np.isnan(scores)):
        write_run(
            tmp_path,
            f"{s}{p}{r}{seed}",
            float(scores[s, p, r, seed]),
            SUBJECTS[s],
            ppl=PPL[p],
            lr=RATES[r],
            seed=int(SEEDS[seed]),
        )
    return scores


def test_an_effect_is_the_mean_over_matched_pairs(grid, tmp_path):
    runs = in_order(read_runs(tmp_path))
    found = effects(runs)
    assert effects([replace(run, scores={}) for run in runs]) == ()
    by_hand = grid.mean(axis=-1)
    expected = {
        ("ppl", False, True): by_hand[:, 1] - by_hand[:, 0],
        ("lr", 1e-4, 2e-4): by_hand[..., 1] - by_hand[..., 0],
        ("lr", 1e-4, 4e-4): by_hand[..., 2] - by_hand[..., 0],
    }
    assert {(e.key, e.base, e.value) for e in found} == set(expected)
    for effect in found:
        differences = expected[effect.key, effect.base, effect.value]
        differences = differences[~np.isnan(differences)]
        spread = effect.differences[DINO]
        assert effect.pairs == spread.n == len(differences) >= 3
        assert spread.mean == pytest.approx(differences.mean())
        assert spread.low == pytest.approx(differences.min())
        assert spread.high == pytest.approx(differences.max())
        assert spread.has_one_sign == (abs(np.sign(differences).sum()) == len(differences))


def test_they_stand_in_the_answer_of_a_grid_alone(grid, tmp_path):
    runs = read_runs(tmp_path)
    text = markdown(build_answer(runs))
    assert "all else equal" in text and "| lr | 0.0001, 0.0004 | 3 |" in text
    one_setting = [run for run in runs if run.settings["lr"] == RATES[0]]
    answer = build_answer(one_setting)
    assert answer.effects == () and "all else equal" not in markdown(answer)


def test_a_variant_that_few_runs_have_counts_those(tmp_path):
    for number, (ppl, lr) in enumerate((p, r) for r in RATES for p in PPL):
        variant = DINO if lr == RATES[0] else "dino.other"
        write_run(tmp_path, str(number), 0.5 + 0.1 * ppl, variant=variant, ppl=ppl, lr=lr)
    (effect,) = [e for e in effects(in_order(read_runs(tmp_path))) if e.key == "ppl"]
    assert isinstance(effect, Effect) and effect.pairs == 3
    counts = {variant: spread.n for variant, spread in effect.differences.items()}
    assert counts == {DINO: 1, "dino.other": 2}

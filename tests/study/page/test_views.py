"""What a page shows of a run and of a study."""

from __future__ import annotations

import pytest

from dreambooth.study.answers.answer_rows import build_answer
from dreambooth.study.finished.runs import Run
from dreambooth.study.finished.scored_runs import read_runs
from dreambooth.study.page.pictures import Pictures
from dreambooth.study.page.run_view import POINTS, losses, run_view
from dreambooth.study.page.study_view import number_settings, numbers, study_view
from page_records import CLIP_T, DINO, write_study
from run_records import write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"))


def test_a_run_has_its_steps_in_order_and_keys_that_other_subjects_share(folder):
    pictures = Pictures(folder / "beside")
    views = {run.name: run_view(run, pictures) for run in read_runs(folder)}
    dog, vase = views["dog-True"], views["vase-True"]
    assert [step["label"] for step in dog["samples"]] == ["20", "40", "final"]
    first = dog["samples"][0]["pictures"]
    assert [p["key"] for p in first] == [p["key"] for p in vase["samples"][0]["pictures"]]
    assert first[0]["prompt"] == "a sks dog" and first[0]["key"] == "a {subject}\n0"
    assert len({p["picture"] for p in first}) == 4 and len(dog["photos"]) == 3
    assert dog["curve"][1] == {"step": 20, DINO: 0.2}


def test_what_is_missing_is_empty(folder):
    (run,) = [run for run in read_runs(folder) if run.name == "cat-False"]
    view = run_view(run, Pictures(folder / "beside"), evaluation=True)
    empty = ("samples", "photos", "curve", "losses", "scores", "evaluation")
    assert not any(view[key] for key in empty) and view["bytes"] is None


def test_a_loss_that_is_always_zero_is_left_out_and_a_long_one_is_averaged(tmp_path):
    run = Run(tmp_path, {})
    lines = [f"{step},{step % 2},0.0" for step in range(4 * POINTS)]
    (tmp_path / "metrics.csv").write_text("\n".join(["step,loss/instance,loss/prior", *lines]))
    found = losses(run)
    assert list(found) == ["instance"] and len(found["instance"]) == POINTS
    assert found["instance"][:2] == [[1.5, 0.5], [5.5, 0.5]]
    damaged = ["step,loss/instance", "0,0.5", "x,0.5", "2,0..5", "3,0.25"]
    (tmp_path / "metrics.csv").write_text("\n".join(damaged))
    assert losses(run)["instance"] == [[0.0, 0.5], [3.0, 0.25]]


def test_a_study_has_rows_labels_and_the_two_scores_of_the_tradeoff(folder):
    runs = read_runs(folder)
    data = study_view(folder, runs, build_answer(runs), Pictures(folder / "beside"))
    labels = [run["label"] for run in data["runs"]]
    assert len(set(labels)) == 5 and "dog, with PPL" in labels
    assert data["tradeoff"] == {"subject": DINO, "prompt": CLIP_T}
    with_ppl = data["rows"][1]
    assert with_ppl["baseline"] == 0 and set(with_ppl["differences"][DINO]["subjects"]) == {
        "dog",
        "vase",
    }
    assert with_ppl["differences"][DINO]["value"] == pytest.approx(-0.2)


def test_a_map_is_over_two_settings_that_are_numbers(tmp_path):
    for lr in (1e-5, 1e-4):
        for steps in (100, 200):
            varied = {"lr": lr, "max_steps": steps, "ppl": steps > 100, "targets": [steps]}
            write_run(tmp_path, f"{lr}-{steps}", 0.5, **varied)
    assert number_settings(read_runs(tmp_path)) == ["max_steps", "lr"]
    assert numbers(read_runs(tmp_path), "lr") == [1e-5, 1e-4]
    assert not numbers(read_runs(tmp_path), "ppl") and not numbers(read_runs(tmp_path), "targets")

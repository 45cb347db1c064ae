"""What the figures draw: values, names and pictures in their places."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dreambooth.study.answers.answer_rows import build_answer
from dreambooth.study.answers.pareto import Front, FrontPoint
from dreambooth.study.figures.comparisons import (
    map_figure,
    paired_figure,
    pareto_figure,
    pareto_steps_figure,
)
from dreambooth.study.figures.curves import losses_figure, mean_line, scores_figure
from dreambooth.study.figures.sheets import (
    CELL,
    GAP,
    settings_sheet,
    sheet,
    steps_sheet,
    subjects_sheet,
)
from dreambooth.study.figures.write import _unused
from dreambooth.study.finished.scored_runs import read_runs
from page_records import CLIP_T, DINO, picture, write_study
from run_records import read_metrics, write_metrics, write_run


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    runs = read_runs(write_study(tmp_path_factory.mktemp("study")))
    return runs, build_answer(runs)


def test_losses_are_drawn_apart_with_the_mean_of_each_setting(study):
    figure = losses_figure(*study)
    assert figure is not None
    instance, prior = figure.axes
    assert (instance.get_title(loc="left"), prior.get_title(loc="left")) == (
        "instance loss",
        "prior loss",
    )
    assert len(instance.lines) == 4 + 2 and len(prior.lines) == 2 + 1  # runs and means
    assert list(prior.lines[-1].get_ydata()) == [0.5] * 4


def test_scores_while_training_have_a_panel_each(study):
    figure = scores_figure(*study)
    assert figure is not None and [a.get_title(loc="left") for a in figure.axes] == ["DINO ↑"]


def test_a_figure_of_a_taken_name_has_a_number():
    assert _unused("steps-dog", {"losses"}) == "steps-dog"
    assert _unused("steps-dog", {"steps-dog", "steps-dog-2"}) == "steps-dog-3"


def test_a_mean_line_has_the_steps_that_all_lines_have():
    assert mean_line([{1: 0.0, 2: 1.0}, {2: 2.0, 3: 9.0}]) == {2: 1.5} and mean_line([]) == {}


def test_pairs_join_each_subject_and_the_title_has_the_difference(study):
    runs, answer = study
    figure = paired_figure(answer, answer.rows[1])
    assert figure is not None
    dino = figure.axes[0]
    ends = sorted(tuple(np.round(line.get_ydata(), 6)) for line in dino.lines)
    assert ends == [(0.7, 0.5), (0.75, 0.55), (0.8, 0.6)]  # vase, the mean, dog
    assert "-0.200" in dino.get_title(loc="left")
    assert paired_figure(answer, answer.rows[0]) is None


def test_the_front_over_steps_is_named_and_joined(study):
    runs, answer = study
    names = [row.name for row in answer.rows]
    points = (
        FrontPoint(names[0], 100, 0.5, 0.6, True),
        FrontPoint(names[0], 200, 0.7, 0.5, True),
        FrontPoint(names[1], 100, 0.4, 0.4, False),
    )
    front = Front("steps", DINO, CLIP_T, points)
    figure = pareto_steps_figure(replace(answer, fronts=(front,)))
    assert figure is not None
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == ["100", "200"]
    drawn = [tuple(line.get_xdata()) for line in axis.lines]
    assert drawn == [(0.6, 0.5), (0.4,), (0.6, 0.6, 0.5)]  # two settings, and the staircase
    assert pareto_steps_figure(replace(answer, fronts=())) is None


def test_the_pareto_plot_has_a_mark_a_run_and_one_a_setting(study):
    figure = pareto_figure(*study)
    assert figure is not None
    marks = [collection.get_offsets() for collection in figure.axes[0].collections]
    assert [len(offsets) for offsets in marks] == [2, 1, 2, 1]
    assert np.allclose(marks[1], [[0.25, 0.75]])  # prompt and subject fidelity without PPL


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Twelve settings of three things, and their answer."""
    folder = tmp_path_factory.mktemp("grid")
    for ppl in (False, True):
        for lr in (1e-5, 1e-4):
            for steps in (100, 200, 300):
                run = write_run(folder, f"{ppl}-{lr}-{steps}", 0.5, ppl=ppl, lr=lr, max_steps=steps)
                metrics = read_metrics(run)
                scores = {DINO: steps / 1000 + ppl, CLIP_T: lr}
                entries = {v: {"metric": v[:4], "mean": mean} for v, mean in scores.items()}
                write_metrics(run, {**metrics, "scores": entries})
                (run / "metrics.csv").write_text(f"step,loss/instance\n1,{0.5 + ppl}\n2,0.5\n")
                manifest = run / "samples/final/manifest.csv"
                manifest.parent.mkdir(parents=True)
                picture(manifest.parent / "0.png", (0, 0, 0))
                manifest.write_text("file,prompt,seed\n0.png,a sks dog,0\n")
    runs = read_runs(folder)
    return runs, build_answer(runs)


def test_many_settings_are_told_apart_by_one_thing_that_varies(grid):
    figures = losses_figure(*grid), pareto_figure(*grid)
    keys = ["ppl=False", "ppl=True"], ["ppl=False", "ppl=True", "lr=1e-05", "lr=0.0001"]
    for figure, expected in zip(figures, keys, strict=True):
        assert figure is not None
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == expected
    losses = figures[0].axes[0]
    assert len(losses.lines) == 12 + 2
    assert [list(line.get_ydata()) for line in losses.lines[-2:]] == [[0.5, 0.5], [1.5, 0.5]]


def test_a_sheet_of_a_grid_shows_what_differs_and_says_what_is_held(grid):
    figure = settings_sheet(*grid, "dog")
    names = [text.get_text() for text in figure.axes[0].texts]
    assert names[1:5] == [f"ppl={p}\nlr={lr}" for p in (False, True) for lr in ("1e-05", "0.0001")]
    assert [text.get_text() for text in figure.texts] == ["max_steps=200"]
    assert names[5:] == ["a sks dog"]


def test_a_map_has_the_mean_score_of_each_pair_of_settings(tmp_path, study):
    for lr in (1e-5, 1e-4):
        for steps in (100, 200):
            for subject, more in (("dog", 0.0), ("cat", 0.1)):
                score = lr * 1000 + steps / 1000 + more
                write_run(
                    tmp_path, f"{lr}-{steps}-{subject}", score, subject, lr=lr, max_steps=steps
                )
    runs = read_runs(tmp_path)
    figure = map_figure(runs, build_answer(runs))
    assert figure is not None
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == ["0.160", "0.260", "0.250", "0.350"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("max_steps", "lr")
    assert map_figure(*study) is None


def test_a_sheet_has_every_picture_in_its_cell_and_grey_for_a_missing_one(tmp_path):
    red, blue = picture(tmp_path / "a.png", (255, 0, 0)), picture(tmp_path / "b.png", (0, 0, 255))
    figure = sheet(["x", "y"], ["first", "costs $1"], [[red, None], [tmp_path / "none.png", blue]])
    (axes,) = figure.axes
    canvas, at = np.asarray(axes.images[0].get_array()), CELL + GAP
    assert canvas[0, 0].tolist() == [255, 0, 0] and canvas[at, at].tolist() == [0, 0, 255]
    assert canvas[0, at].tolist() == canvas[at, 0].tolist() == [235, 235, 235]
    assert [text.get_text() for text in axes.texts] == ["x", "y", "first", r"costs \$1"]


def test_sheets_of_a_study_name_settings_subjects_prompts_and_steps(study):
    runs, answer = study

    def names(figure) -> list[str]:
        return [text.get_text().split("\n")[0] for text in figure.axes[0].texts]

    settings = names(settings_sheet(runs, answer, "dog"))
    assert settings[:3] == ["photos", "without PPL", "with PPL"] and settings[3] == "a sks dog"
    subjects = names(subjects_sheet(runs, answer.rows[1].runs))
    assert subjects[:2] == ["photo", "a …"] and subjects[-2:] == ["dog", "vase"]
    assert names(steps_sheet(next(run for run in runs if run.name == "dog-True")))[:3] == [
        "20",
        "40",
        "final",
    ]
    assert settings_sheet(runs, answer, "cat") is None

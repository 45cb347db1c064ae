"""Pareto fronts over settings and over the steps of their curves."""

from __future__ import annotations

from dreambooth.study.answers.answer_rows import build_answer
from dreambooth.study.finished.scored_runs import read_runs
from run_records import CLIP_T, DINO, write_images, write_run


def test_settings_and_steps_that_nothing_dominates_are_found(tmp_path):
    scores = {1e-4: (0.5, 0.3), 1e-3: (0.7, 0.2), 1e-2: (0.6, 0.1)}  # the last is dominated
    for lr, (dino, clip_t) in scores.items():
        for subject, more in (("dog", 0.1), ("cat", -0.1)):
            run = write_run(tmp_path, f"{lr}{subject}", 0, subject, lr=lr)
            write_images(run, {DINO: [dino + more] * 2, CLIP_T: [clip_t - more / 2] * 2})
            rows = [f"step,{DINO},{CLIP_T},harmonic_mean,measured", "0,0.0,0.9,0.0,abc"]
            steps = (10, 20, 30) if subject == "dog" else (10, 20)
            rows += [f"{s},{dino * s + more},{clip_t / s - more},0.1,abc" for s in steps]
            (run / "curve.csv").write_text("\n".join(rows))
    over_rows, over_steps = build_answer(read_runs(tmp_path)).fronts
    assert (over_rows.over, over_steps.over) == ("rows", "steps")
    assert [point.row for point in over_rows.best] == ["lr=0.0001", "lr=0.001"]
    # a mean over both subjects, at steps that both have, after step 0
    assert len(over_steps.points) == 6 and {p.step for p in over_steps.points} == {10, 20}
    assert [(p.row, p.step) for p in over_steps.best] == [
        ("lr=0.0001", 10),
        ("lr=0.0001", 20),
        ("lr=0.001", 10),
        ("lr=0.001", 20),
    ]
    point = over_steps.points[1]
    assert (point.row, point.step) == ("lr=0.0001", 20)
    assert abs(point.subject - 10.0) < 1e-9 and abs(point.prompt - 0.015) < 1e-9


def test_a_single_setting_has_no_front(tmp_path):
    write_images(write_run(tmp_path, "a", 0), {DINO: [0.5, 0.5], CLIP_T: [0.5, 0.5]})
    assert build_answer(read_runs(tmp_path)).fronts == ()

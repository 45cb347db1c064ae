"""The comparison of a sweep with its runs alone, from seconds and records made by hand."""

from __future__ import annotations

from pathlib import Path

import sweep


def record(seconds: float, images: float, steps: int) -> dict:
    stages = {"class_images": {"seconds": images}, "training": {"seconds": 1.0}}
    costs = {"seconds": seconds, "stages": stages, "phase_0": {"steps": steps}, "bytes_written": 1}
    return {"costs": costs}


def test_the_mean_of_a_sample_stands_for_all_runs():
    whole = [record(9, 4, 10), *[record(1, 0, 0)] * 3]
    sample = [(20.0, record(12, 4, 10)), (30.0, record(20, 4, 20))]
    header, _, *rows = sweep.compare(25.0, whole, sample).splitlines()
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert header.count("|") == len(cells[0]) + 1
    assert cells[0] == ["one sweep, shared", "25", "", "0.25", "10", "all, measured"]
    few = "2 of 4 runs, extrapolated"
    assert cells[1] == ["one sweep, reuse=off", "52", "36 to 68", "0.52", "60", few]
    assert cells[2] == ["each alone", "100", "80 to 120", "1.00", "60", few]


def test_the_sample_meets_every_value_of_the_settings_that_vary_fastest():
    runs = [Path(f"{steps}-{sampler}") for steps in range(24) for sampler in "abc"]
    chosen = [run.name.split("-") for run in sweep.spread(runs, 12)]
    assert {sampler for _, sampler in chosen} == set("abc")
    assert {int(steps) % 3 for steps, _ in chosen} == {0, 1, 2} and len(chosen) == 12
    for total, number in ((4, 4), (7, 3), (72, 24), (10, 1)):
        assert len(set(sweep.spread(runs[:total], number))) == number

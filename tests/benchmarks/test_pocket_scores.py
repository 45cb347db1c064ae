"""The ground truth of a run, and the runs that have one."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pocket_scores as scores
import pytest
from scipy.stats import spearmanr

from dreambooth.errors import UserError
from dreambooth.pocket import world
from dreambooth.pocket.embedded import rendered_photos
from dreambooth.sampling.manifest import Item
from dreambooth.study.finished.runs import Run
from run_records import write_metrics
from spine import ROOT


def test_variety_is_the_share_of_unlike_pairs():
    readings = [tuple(row) for row in np.random.default_rng(0).integers(3, size=(20, 2)).tolist()]
    pairs = list(combinations(readings, 2))
    assert scores.variety(readings) == pytest.approx(sum(a != b for a, b in pairs) / len(pairs))
    assert scores.variety([("red",)] * 4) == 0 and scores.variety([(1,), (2,)]) == 1


@pytest.mark.parametrize(
    ("prompt", "context"),
    [
        ("a sks dog in the jungle", "jungle"),
        ("a sks dog with the Eiffel Tower in the background", "eiffel"),
        ("a sks dog on top of a purple rug in a forest", "purple rug"),
        ("a sks dog", None),
        ("a wet sks dog", None),
    ],
)
def test_context_asked_for(prompt, context):
    assert scores.asked_context(prompt) == context


def test_truths_by_hand():
    who = world.Identity("dog", "red", "white", "plain", 0)
    asked = {"a sks dog in the snow": 2, "a blue sks dog": 1, "a wet sks dog": 1}
    prompts = [prompt for prompt, count in asked.items() for _ in range(count)]
    items = [Item("subject", "", prompt, "", i) for i, prompt in enumerate(prompts)]
    items += [Item("class", "", "a dog", "a dog", i) for i in range(4)]
    seen = [
        "dog red snow",
        "cat red snow",
        "dog blue city",
        "dog red city",
        "dog red snow",
        "dog blue snow",
        "cat red snow",
        "dog red city",
    ]
    names = ("class", "color", "context")
    readings: list[dict[str, str]] = [dict(zip(names, s.split(), strict=True)) for s in seen]
    assert scores.truths(items, readings, who) == {
        "subject": pytest.approx(2 / 3),  # snow, snow and wet: the cat is none; blue left out
        "prompt": 0.5,
        "drift": 0.75,
        "variety": pytest.approx(1 - 1 / 6),  # one like pair of six: red snow
    }


def test_scores_are_named_by_their_metric_and_clip_t_is_of_the_class(tmp_path):
    values = {
        "dino.pocket": 0.1,
        "clip_t.pocket.with_id.x": 0.2,
        "clip_t.pocket.class_only.x": 0.3,
        "clip_i.pocket": 0.4,
        "lpips.pocket": 0.5,
    }
    entries = {variant: {"mean": value} for variant, value in values.items()}
    write_metrics(tmp_path, {"evaluation": "paper", "scores": entries})
    run = Run(tmp_path, {"config": {"evaluation": {"name": "paper"}}})
    assert scores.scores(run) == {"dino": 0.1, "clip_t": 0.3, "clip_i": 0.4}


def rows_of(subject: str, count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    names = [*scores.TRUTH, *dict.fromkeys(scores.TRUTH.values())]
    alike = {"subject.name": subject, "evaluation": "paper", "ppl": True}
    return [
        alike | dict(zip(names, rng.random(len(names)).tolist(), strict=True)) for _ in range(count)
    ]


def test_correlations_are_spearman_s_within_each_subject():
    rng = np.random.default_rng(3)
    rows = {"dog": rows_of("dog", 9, rng), "cat": rows_of("cat", 7, rng)}
    few = rows_of("vase", scores.LEAST - 1, rng)
    found = scores.correlations([*rows["dog"], *few, *rows["cat"]])
    for name, values in found.items():
        assert set(values) == {"dog", "cat", "mean", "low_95", "high_95"}
        for subject, own in rows.items():
            truth = scores.TRUTH[name]
            result: Any = spearmanr([row[name] for row in own], [row[truth] for row in own])
            assert values[subject] == pytest.approx(result.statistic, abs=1e-5)
        assert values["mean"] == pytest.approx((values["dog"] + values["cat"]) / 2)


def test_runs_that_were_scored_otherwise_are_not_ranked_together():
    rows = rows_of("dog", 6, np.random.default_rng(4))
    alone = scores.correlations(rows)["dino"]["dog"]
    other = [{**row, "evaluation": "cornell", "dino": 1 - row["dino"]} for row in rows]
    assert scores.correlations([*rows, *other])["dino"]["dog"] == pytest.approx(0)
    assert alone != pytest.approx(0)


def test_the_truth_of_a_setting_is_its_mean_over_subjects():
    rng = np.random.default_rng(5)
    rows = [*rows_of("dog", 2, rng), *rows_of("cat", 1, rng)]
    (line,), differences = scores.truth_table(rows, ["ppl"])
    assert differences == []
    dog, cat = (rows[0]["drift"] + rows[1]["drift"]) / 2, rows[2]["drift"]
    assert line["ppl"] is True and line["subjects"] == 2
    assert line["drift"]["mean"] == pytest.approx((dog + cat) / 2)


def test_differences_are_over_the_subjects_that_both_settings_have():
    rng = np.random.default_rng(6)
    other = {name: rows_of(name, 1, rng)[0] for name in ("cat", "dog", "clock")}
    first = {name: {**rows_of(name, 1, rng)[0], "ppl": False} for name in ("dog", "cat", "vase")}
    table, (line,) = scores.truth_table([*other.values(), *first.values()], ["ppl"])
    by_hand = [other[name]["prompt"] - first[name]["prompt"] for name in ("dog", "cat")]
    assert [each["subjects"] for each in table] == [3, 3]
    assert (line["ppl"], line["subjects"]) == (True, 2)
    assert line["prompt"]["mean"] == pytest.approx(sum(by_hand) / 2)
    assert line["prompt"]["low_95"] == pytest.approx(min(by_hand))
    assert (
        scores.cell({"mean": 0.5, "low_95": -0.25, "high_95": 1}, "+") == "+0.50 (-0.25 to +1.00)"
    )


def test_settings_are_in_order_whatever_their_kind():
    settings = [("b", 2.0), ("a", 10), (None, 1), ("a", True), ("a", None)]
    expected = [(None, 1), ("a", None), ("a", True), ("a", 10), ("b", 2.0)]
    assert sorted(settings, key=scores.in_order) == expected


def test_the_pages_on_six_subjects_are_of_their_file():
    """docs/results: the correlations, and what more steps change, recomputed from the runs."""
    results = ROOT / "docs/results"
    found = json.loads((results / "scores_six.json").read_text())
    again = scores.correlations(found["runs"])
    page = (results / "scores.md").read_text()
    for name, values in again.items():
        assert values == pytest.approx(found["rho"][name])
        assert f"| {scores.cell(values, '+')} |" in page
    corners = [
        row
        for row in found["runs"]
        if not row["train_text_encoder"] and row["scheduler.name"] == "DDIMScheduler"
    ]
    page = (results / "learning_rate_grid.md").read_text()
    for ppl, lr in ((False, 8e-05), (False, 0.0002), (True, 8e-05), (True, 0.0002)):
        cells = []
        for key, digits in (("dino", 3), ("clip_t", 3), ("prompt", 2)):
            few, many = (
                {
                    row["subject.name"]: row[key]
                    for row in corners
                    if (row["ppl"], row["lr"], row["max_steps"]) == (ppl, lr, steps)
                }
                for steps in (100, 300)
            )
            change = scores.Mean.over({name: many[name] - few[name] for name in few})
            low, high = change.interval or (0.0, 0.0)
            cells.append(
                "{:+.{d}f} ({:+.{d}f} to {:+.{d}f})".format(change.value, low, high, d=digits)
            )
            assert change.subjects == 6
        assert f"| {ppl} | {lr} | {' | '.join(cells)} |" in page


def run_on(photos: Path, noun: str = "dog", name: str = "dog") -> Run:
    config = {"subject": {"class_noun": noun, "name": name}}
    paths = [str(path) for path in sorted(photos.iterdir()) if path.suffix != ".json"]
    return Run(Path("a-run"), {"photos": paths, "config": config})


def test_a_run_on_rendered_photos_is_taken(tmp_path):
    scores.check_rendered(run_on(rendered_photos("dog", "dog", 3, tmp_path)))


def test_a_run_on_other_photos_is_refused(tmp_path):
    own = tmp_path / "dog"
    own.mkdir()
    (own / "00.jpg").write_bytes(b"")
    for photos in (own, rendered_photos("dog", "another", 3, tmp_path)):
        with pytest.raises(UserError, match="a-run was not trained on .* photos.root=null"):
            scores.check_rendered(run_on(photos))

"""A study's answer: whose runs a row has, what is averaged and compared, and what never is."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from dreambooth.study.answers.answer import Answer, Row
from dreambooth.study.answers.answer_rows import build_answer
from dreambooth.study.answers.paired import Mean, paired_differences
from dreambooth.study.finished.scored_runs import read_runs
from run_records import CLIP_T, DINO, PRES, metrics_file, read_metrics, write_images, write_run

PUBLISHED = {
    "title": "PPL on and off",
    "question": "What does it cost?",
    "source": "a paper",
    "variants": {"DINO": "dino.vits16", "CLIP-T": "not stated"},
    "rows": [
        {"name": "off", "setting": {"ppl": False}, "scores": {"DINO": 0.712, "CLIP-T": 0.306}},
        {"name": "on", "setting": {"ppl": True}, "scores": {"DINO": 0.684, "CLIP-T": 0.308}},
        {"name": "photos", "real": True, "scores": {"DINO": 0.774}},
    ],
    "finding": "little",
}


def answer_of(root: Path) -> Answer:
    return build_answer(read_runs(root))


def row(answer: Answer, name: str) -> Row:
    return next(row for row in answer.rows if row.name == name)


def on_and_off(root: Path, **config) -> None:
    """Three subjects with and without PPL, and a fourth without."""
    for number, subject in enumerate(("dog", "cat", "vase", "can")):
        for ppl in (False, True)[: 1 if subject == "can" else 2]:
            score = 0.5 + 0.1 * number - 0.01 * number * ppl
            write_run(
                root, f"{subject}{ppl}", score, subject, ppl=ppl, published=PUBLISHED, **config
            )


def scores_of(run: Path) -> dict[str, list[float]]:
    """The scores of a run's images, read by hand from its scores.csv."""
    with open(run / "evaluation" / "quick" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    ids = [key for key in rows[0] if "." in key]
    return {key: [float(r[key]) for r in rows if r[key]] for key in ids}


def test_rows_and_differences_are_those_of_a_hand_computation_from_scores_csv(tmp_path):
    rng = np.random.default_rng(0)
    runs: dict[tuple[str, bool], list[Path]] = {}
    for subject, seeds in (("dog", 2), ("cat", 1), ("vase", 3)):
        for ppl in (False, True):
            for seed in range(seeds):
                name = f"{subject}-{ppl}-{seed}"
                run = write_run(tmp_path, name, 0, subject, ppl=ppl, seed=seed, published=PUBLISHED)
                made = {v: rng.uniform(0.2, 0.8, 4).tolist() for v in (DINO, CLIP_T, PRES)}
                write_images(run, made)
                runs.setdefault((subject, ppl), []).append(run)
    answer = answer_of(tmp_path)
    for variant in (DINO, CLIP_T, PRES):
        means = {
            key: np.mean([np.mean(scores_of(run)[variant]) for run in folders])
            for key, folders in runs.items()
        }
        off, on = (np.array([means[s, ppl] for s in ("dog", "cat", "vase")]) for ppl in (0, 1))
        assert row(answer, "off").scores[variant].value == pytest.approx(off.mean(), abs=1e-12)
        assert row(answer, "on").scores[variant].value == pytest.approx(on.mean(), abs=1e-12)
        difference = row(answer, "on").differences[variant]
        assert difference.value == pytest.approx((on - off).mean(), abs=1e-12)
        assert difference.per_subject["cat"] == pytest.approx(on[1] - off[1], abs=1e-12)
        ours = [row(answer, name).scores[variant].value for name in ("off", "on")]
        column = next(c for c in answer.columns if c.variant == variant)
        assert answer.best(column) == (min(ours) if variant == PRES else max(ours))
    on_row = row(answer, "on")
    assert (len(on_row.runs), on_row.subjects) == (6, ("cat", "dog", "vase"))
    assert on_row.published_differences == pytest.approx({"DINO": -0.028, "CLIP-T": 0.002})


def test_paired_intervals_are_those_of_an_independent_bootstrap():
    rng = np.random.default_rng(1)
    names = [f"s{i:02d}" for i in range(20)]
    base = rng.uniform(0.3, 0.9, 20)  # subjects differ far more than settings do
    other = base - 0.03 + rng.normal(0, 0.02, 20)
    first = {DINO: Mean.over(dict(zip(names, base.tolist(), strict=True)))}
    second = {DINO: Mean.over(dict(zip(reversed(names), other[::-1].tolist(), strict=True)))}
    found = paired_differences(second, first)[DINO]
    assert found.interval is not None and found.excludes_zero and found.subjects == 20
    draws = rng.integers(0, 20, (20_000, 20))
    expected = np.quantile((other - base)[draws].mean(axis=1), [0.025, 0.975])
    width = expected[1] - expected[0]
    assert np.allclose(found.interval, expected, rtol=0, atol=0.05 * width)
    own = second[DINO].interval
    assert own is not None and own[1] - own[0] > 4 * width  # pairing is what tells them apart


def test_only_subjects_that_both_rows_have_are_compared(tmp_path):
    on_and_off(tmp_path)
    answer = answer_of(tmp_path)
    assert row(answer, "off").subjects == ("can", "cat", "dog", "vase")
    difference = row(answer, "on").differences[DINO]
    assert set(difference.per_subject) == {"dog", "cat", "vase"}
    assert difference.value == pytest.approx(-0.01)
    assert not row(answer, "off").differences and row(answer, "off").baseline is None
    assert any("different subjects: compare them by their diff" in note for note in answer.notes)


def test_variants_of_one_metric_are_never_averaged_or_compared(tmp_path):
    other = DINO.replace("hub", "hf")
    write_run(tmp_path, "a", 0.2, "dog", ppl=False, published=PUBLISHED)
    write_run(tmp_path, "b", 0.4, "cat", variant=other, ppl=False, published=PUBLISHED)
    write_run(tmp_path, "c", 0.8, "dog", variant=other, ppl=True, published=PUBLISHED)
    answer = answer_of(tmp_path)
    off, on = row(answer, "off"), row(answer, "on")
    assert {v: mean.value for v, mean in off.scores.items()} == {DINO: 0.2, other: 0.4}
    assert off.scores[DINO].subjects == off.scores[other].subjects == 1
    assert on.scores.keys() == {other} and on.differences == {}  # no subject has both
    assert [column.header for column in answer.columns] == ["DINO 1", "DINO 2"]
    assert {column.source_name for column in answer.columns} == {"DINO"}
    assert not any(column.same_variant for column in answer.columns)


def test_a_row_without_runs_is_kept(tmp_path):
    write_run(tmp_path, "a", 0.5, "dog", ppl=False, published=PUBLISHED)
    missing = row(answer_of(tmp_path), "on")
    assert missing.runs == () and missing.scores == {} and missing.published["DINO"] == 0.684


def test_settings_that_vary_beside_a_row_are_rows_of_their_own(tmp_path):
    for ppl in (False, True):
        for lr, score in ((1e-4, 0.5), (1e-3, 0.7)):
            for subject, more in (("dog", 0.0), ("cat", 0.1)):
                name = f"{ppl}{lr}{subject}"
                total = score + more - 0.2 * ppl * (lr == 1e-3)
                write_run(tmp_path, name, total, subject, ppl=ppl, lr=lr, published=PUBLISHED)
    answer = answer_of(tmp_path)
    names = [r.name for r in answer.rows if r.kind == "published"]
    assert names == ["off, lr=0.0001", "off, lr=0.001", "on, lr=0.0001", "on, lr=0.001"]
    high = row(answer, "on, lr=0.001")
    assert high.baseline == "off, lr=0.001"
    assert high.differences[DINO].value == pytest.approx(-0.2)
    assert row(answer, "on, lr=0.0001").differences[DINO].value == pytest.approx(0)


def test_runs_in_no_published_row_are_rows_too(tmp_path):
    block = {**PUBLISHED, "rows": PUBLISHED["rows"][:1]}
    for subject in ("dog", "cat"):
        write_run(tmp_path, f"{subject}0", 0.5, subject, ppl=False, published=block)
        write_run(tmp_path, f"{subject}1", 0.4, subject, ppl=True, published=block)
    own = row(answer_of(tmp_path), "ppl=True")
    assert own.kind == "setting" and own.baseline == "off" and own.published == {}
    assert own.differences[DINO].value == pytest.approx(-0.1)


def test_without_published_rows_one_setting_is_compared_with_its_first_value(tmp_path):
    for subject in ("dog", "cat"):
        for lr in (1e-3, 1e-4):
            write_run(tmp_path, f"{subject}{lr}", lr * 100, subject, lr=lr)
    answer = answer_of(tmp_path)
    assert answer.published is None and answer.adds_to_runs
    assert [r.name for r in answer.rows] == ["lr=0.0001", "lr=0.001"]
    assert answer.rows[1].baseline == "lr=0.0001"
    assert answer.rows[1].differences[DINO].value == pytest.approx(0.09)


@pytest.mark.parametrize(
    "runs",
    [
        [("dog", 1e-3, True), ("dog", 1e-4, True)],  # one subject
        [("dog", 1e-3, True), ("cat", 1e-4, False), ("dog", 1e-4, True)],  # two settings
        [("dog", 1e-3, True), ("cat", 1e-3, True)],  # no setting
    ],
)
def test_otherwise_nothing_is_compared(tmp_path, runs):
    for number, (subject, lr, ppl) in enumerate(runs):
        write_run(tmp_path, str(number), 0.5, subject, lr=lr, ppl=ppl)
    answer = answer_of(tmp_path)
    assert not any(r.baseline or r.differences for r in answer.rows)


def test_the_newest_runs_source_counts_and_a_line_says_so(tmp_path):
    newer = {**PUBLISHED, "rows": [{**PUBLISHED["rows"][0], "scores": {"DINO": 0.9}}]}
    old = write_run(tmp_path, "a", 0.5, "dog", ppl=False, published=PUBLISHED)
    write_run(tmp_path, "b", 0.6, "cat", ppl=False, published=newer)
    os.utime(old / "run.json", (1, 1))
    answer = answer_of(tmp_path)
    assert row(answer, "off").published == {"DINO": 0.9} and len(row(answer, "off").runs) == 2
    assert any("newest run, b" in note for note in answer.notes)


def test_a_setting_that_refers_to_another_key_is_that_of_each_run(tmp_path):
    block = {**PUBLISHED, "rows": [{"name": "as advised", "setting": {"lr": "${advised}"}}]}
    for name, advised, lr in (("a", 1e-4, 1e-4), ("b", 1e-3, 1e-3), ("c", 1e-3, 1e-4)):
        write_run(tmp_path, name, 0.5, lr=lr, advised=advised, published=block)
    rows = [r for r in answer_of(tmp_path).rows if r.kind == "published"]
    assert sorted(run for r in rows for run in r.runs) == ["a", "b"]
    assert not any("newest" in note for note in answer_of(tmp_path).notes)


def test_what_a_reader_must_know_is_noted(tmp_path):
    rows = [*PUBLISHED["rows"][:2], {"name": "lost", "setting": {"absent.key": 1}}]
    block = {**PUBLISHED, "rows": rows}
    for subject in ("dog", "cat"):
        write_run(tmp_path, f"{subject}0", 0.5, subject, ppl=False, published=block)
        run = write_run(
            tmp_path, f"{subject}1", 0.5, subject, ppl=True, published=block, evaluation="paper"
        )
    metrics_file(run, "paper").unlink()
    notes = " ".join(answer_of(tmp_path).notes)
    assert "lost: no run has the setting absent.key." in notes
    assert "Not scored: cat1." in notes
    assert "on was scored otherwise than off: they differ in evaluation" in notes


def test_real_images_have_one_row_unless_runs_were_compared_with_other_photos(tmp_path):
    on_and_off(tmp_path)
    for run in tmp_path.iterdir():
        metrics = read_metrics(run)
        for end, score in (("exclude_self", 0.7), ("include_self", 0.9)):
            real = {"metric": "DINO, real images", "mean": score}
            metrics["scores"][f"real_ref.{DINO}.{end}"] = real
        (run / "evaluation" / "quick" / "metrics.json").write_text(json.dumps(metrics))
    real = row(answer_of(tmp_path), "photos")
    assert real.kind == "real" and real.scores[DINO].value == pytest.approx(0.7)
    assert real.scores[DINO].subjects == 4 and real.published == {"DINO": 0.774}
    assert not any(v.startswith("real_ref.") for r in answer_of(tmp_path).rows for v in r.scores)
    run = tmp_path / "dogTrue"
    metrics = read_metrics(run)
    metrics["references"]["what"] = "some training photos"
    metrics["scores"][f"real_ref.{DINO}.exclude_self"]["mean"] = 0.1
    (run / "evaluation" / "quick" / "metrics.json").write_text(json.dumps(metrics))
    names = [r.name for r in answer_of(tmp_path).rows if r.kind == "real"]
    assert sorted(names) == [
        "photos, references=some training photos",
        "photos, references=training photos",
    ]

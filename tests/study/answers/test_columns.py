"""Columns of scores: one a variant, and where a source's numbers stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth.study.answers.columns import Column, columns_of, columns_of_metrics
from dreambooth.study.answers.published import Published, PublishedRow
from dreambooth.study.finished.scored_runs import read_runs
from run_records import CLIP_T, DINO, PRES, read_metrics, write_metrics, write_run

WITH_ID = CLIP_T.replace("class_only", "with_id")
OTHER = PRES.replace("class_prompt", "other_subjects")
NAMES = {
    DINO: "DINO",
    CLIP_T: "CLIP-T class_only",
    WITH_ID: "CLIP-T with_id",
    PRES: "PRES",
    OTHER: "PRES other subjects",
    f"real_ref.{DINO}.exclude_self": "DINO, real images",
}


def columns(root: Path, variants: dict[str, str], scores: dict[str, float]) -> dict[str, Column]:
    run = write_run(root, "a", 0)
    made = {variant: {"metric": name, "mean": 0.5} for variant, name in NAMES.items()}
    write_metrics(run, {**read_metrics(run), "scores": made})
    published = Published(variants=variants, rows=[PublishedRow("row", {}, scores)])
    return {column.header: column for column in columns_of(read_runs(root), published)}


@pytest.mark.parametrize(
    ("metric", "stated", "header"),
    [
        ("CLIP-T", "not stated", "CLIP-T"),  # of the same name
        ("CLIP-T", "clip_t.b32", "CLIP-T"),  # two ids begin so, and one has the name
        ("CLIP-T", WITH_ID, "CLIP-T id"),  # the very id
        ("PRES", "pres.other_subjects", "PRES other"),
        ("PRES other subjects", "in words", "PRES other"),
        ("PRES", "in words", "PRES"),
        ("FID", "of no run", None),
    ],
)
def test_a_published_number_stands_in_one_column(tmp_path, metric, stated, header):
    found = columns(tmp_path, {metric: stated}, {metric: 0.5})
    assert [c.header for c in found.values() if c.source_name] == ([header] if header else [])
    if header:
        assert found[header].source_name == metric and found[header].source_variant == stated
        assert found[header].same_variant == (stated == found[header].variant)


def test_the_sources_metrics_come_first_in_its_order_and_arrows_say_what_is_better(tmp_path):
    found = columns(tmp_path, {}, {"PRES": 0.5, "CLIP-T": 0.5})
    assert list(found) == ["PRES", "CLIP-T", "DINO", "CLIP-T id", "PRES other"]
    assert {header: column.arrow for header, column in found.items()} == {
        "PRES": "↓",
        "PRES other": "↓",
        "DINO": "↑",
        "CLIP-T": "↑",
        "CLIP-T id": "↑",
    }


def test_the_metrics_that_readers_look_for_come_first():
    names = {"kernel": "KD", WITH_ID: "CLIP-T with_id", "div": "DIV", **NAMES}
    first = ["DINO", "CLIP-T", "PRES", "DIV"]
    assert [c.header for c in columns_of_metrics(names)][:4] == first
    source = Published(rows=[PublishedRow("row", {}, {"PRES": 0.5, "DIV": 0.5})])
    found = [c.header for c in columns_of_metrics(names, source)]
    assert found[:4] == ["PRES", "DIV", "DINO", "CLIP-T"]  # the source's own before all others

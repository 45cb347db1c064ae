"""Pages as they are written, without a browser."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest

from dreambooth.records import amend_record
from dreambooth.study.answers import paired
from dreambooth.study.answers.answer_rows import build_answer
from dreambooth.study.finished.scored_runs import read_runs
from dreambooth.study.finished.sweeps import Unfinished
from dreambooth.study.page.write import duration, write_run_page, write_study_page
from page_records import write_study
from run_records import write_run


def test_a_study_without_a_finished_run_lists_the_others_with_their_reasons(tmp_path):
    others = [Unfinished("a<b>", "failed", "The disk is full."), Unfinished("c", "missing")]
    page = write_study_page(tmp_path, [], build_answer([], others)).read_text()
    assert "2 runs without results" in page and "<code>a&lt;b&gt;</code>: failed" in page
    assert "The disk is full." in page and tmp_path.name in page


def test_data_in_the_page_is_json_that_closes_no_element(tmp_path):
    runs = read_runs(write_study(tmp_path, ("dog",)))
    page = write_study_page(tmp_path, runs, build_answer(runs)).read_text()
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    data = json.loads(text)
    prompts = {p["prompt"] for p in data["runs"][1]["samples"][0]["pictures"]}
    assert len(data["runs"]) == 3 and any("<script>" in prompt for prompt in prompts)
    assert "Prior preservation </script> on and off" in unescape(page)
    assert page.count("<script") == 2 and "http-equiv" in page


def test_a_runs_page_says_what_came_of_its_exports(tmp_path):
    run = write_run(tmp_path, "dog", 0.5)
    assert "Verified exports" not in write_run_page(run).read_text()
    entry = {"mean": 0.25, "most": 3, "tensors": 4, "loaded": 3, "error": "it has <b>lost</b> one"}
    amend_record(run / "run.json", verified={"kohya": entry})
    page = write_run_page(run).read_text()
    for words in ("kohya", "it has &lt;b&gt;lost", "0.250", "3 of 4"):
        assert words in page


@pytest.mark.parametrize(
    ("enough", "verdict"), [(6, "too few subjects to tell"), (2, "published −0.100: agrees")]
)
def test_a_difference_over_few_subjects_gets_no_verdict(tmp_path, monkeypatch, enough, verdict):
    monkeypatch.setattr(paired, "ENOUGH", enough)
    runs = read_runs(write_study(tmp_path))
    page = write_study_page(tmp_path, runs, build_answer(runs)).read_text()
    assert verdict in page and ("agrees" in page) == (enough == 2)


@pytest.mark.parametrize(
    "value, words", [(64.6, "65 s"), (4000, "1 h 7 min"), (600, "10 min"), (100000, "27 h 47 min")]
)
def test_durations_for_a_reader(value, words):
    assert duration(value) == words

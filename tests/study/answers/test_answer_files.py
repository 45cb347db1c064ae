"""The files of an answer: the same numbers in each, and nothing that their formats would read."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from dreambooth.study.answers.answer import Answer
from dreambooth.study.answers.answer_files import latex, markdown, write_answer
from dreambooth.study.answers.answer_lines import lines_of
from dreambooth.study.answers.answer_rows import build_answer
from dreambooth.study.finished.scored_runs import read_runs
from dreambooth.study.finished.sweeps import Unfinished
from run_records import CLIP_T, DINO, metrics_file, write_images, write_run

NASTY = r"50% of a|b & c_d $x$ #1 {e} ~f^g \h <script> *i* `j` [k](l)"
UNFINISHED = (Unfinished(NASTY, "failed", NASTY),)


@pytest.fixture
def answer(tmp_path) -> Answer:
    rows = [
        {"name": NASTY, "setting": {"ppl": False}, "scores": {"DINO": 0.712}},
        {"name": "on", "setting": {"ppl": True}, "scores": {"DINO": 0.684}},
        {"name": "never", "setting": {"ppl": "never"}, "scores": {"DINO": 0.5}},
    ]
    published = {"title": NASTY, "question": NASTY, "source": NASTY, "rows": rows}
    for subject, more in (("dog", 0.0), ("cat", 0.2)):
        for ppl in (False, True):
            score = 0.5 + more - 0.1 * ppl
            name = f"{subject}{ppl}"
            write_run(tmp_path / "r", name, score, subject, ppl=ppl, published=published)
    return build_answer(read_runs(tmp_path / "r"), UNFINISHED)


def cells_of(text: str) -> list[list[str]]:
    """The cells of Markdown's first table, as an independent parser reads their text."""
    rows: list[list[str]] = []
    for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(text):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and token.level == 4:
            parts = [child.content for child in token.children or ()]
            assert not any(child.type == "html_inline" for child in token.children or ())
            rows[-1].append("".join(parts).replace("\N{NO-BREAK SPACE}", ""))
    return rows


def test_markdown_reads_as_the_texts_that_were_written(answer):
    text = markdown(answer)
    header, *rows = cells_of(text)
    assert header == ["", "n", "DINO ↑"]
    assert rows == [
        [NASTY, "2", "0.600 (0.500 to 0.700)"],
        ["published", "", "0.712"],
        ["on", "2", "0.500 (0.400 to 0.600)"],
        ["published", "", "0.684"],
        ["difference", "2", "-0.100† (-0.100 to -0.100)"],
        ["published diff.", "", "-0.028"],
        ["never", "", "not run"],
        ["published", "", "0.500"],
    ]
    assert "**0.600**" in text and "<script>" not in text


def test_latex_escapes_what_is_a_command(answer):
    text = latex(answer)
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 2 for line in body) and len(body) == 9
    assert body[0] == r" & n & DINO $\uparrow$ \\"
    assert body[1].startswith(r"50\% of a\textbar{}b \& c\_d \$x\$ \#1 \{e\} \textasciitilde{}f")
    assert r"\textbackslash{}h \textless{}script\textgreater{}" in body[1]
    assert body[1].endswith(r"& 2 & \textbf{0.600} (0.500 to 0.700) \\")
    assert body[5].endswith(r"$-$0.100$^\dagger$ ($-$0.100 to $-$0.100) \\")
    rest = re.sub(r"\\[&%$#_{}]|\\[a-zA-Z]+|\$[\\^a-z-]+\$|\\\\", "", text)
    assert not re.search(r"[#$_^~]", rest) and rest.isascii()
    assert rest.count("{") == rest.count("}") and rest.count("%") == 1  # the first line's comment
    for command in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(command) == 1


def test_csv_has_the_numbers_in_full_and_published_ones_apart(answer, tmp_path):
    write_answer(tmp_path, answer)
    with open(tmp_path / "answer.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["kind"]) for row in rows] == [
        (NASTY, "scores"),
        ("on", "scores"),
        ("on", "difference"),
        ("never", "scores"),
    ]
    difference = rows[2]
    assert float(difference[DINO]) == pytest.approx(-0.1) and difference["baseline"] == NASTY
    assert float(difference[f"{DINO}.low_95"]) == pytest.approx(-0.1)
    assert float(difference["published.DINO"]) == pytest.approx(-0.028)
    assert rows[0]["subjects"] == "2" and rows[0][f"{DINO}.subjects"] == "2"
    assert rows[3][DINO] == "" and rows[3]["runs"] == "0" and rows[3]["published.DINO"] == "0.5"
    assert {path.name for path in tmp_path.glob("answer.*")} == {
        "answer.md",
        "answer.csv",
        "answer.tex",
    }
    assert (tmp_path / "answer.md").read_text("utf-8") == markdown(answer)


@pytest.mark.parametrize(("subjects", "expected"), [(5, True), (6, False)])
def test_too_few_subjects_to_decide_are_said(tmp_path, subjects, expected):
    for number in range(subjects):
        for ppl in (False, True):
            write_run(tmp_path, f"{number}{ppl}", 0.5 - 0.1 * ppl, f"s{number}", ppl=ppl)
    text = markdown(build_answer(read_runs(tmp_path)))
    assert ("fewer than 6 subjects decides nothing" in text) is expected
    assert "-0.100†" in text


def test_n_counts_the_subjects_with_scores_and_a_score_of_fewer_says_so(tmp_path):
    for subject, seed, scores in (
        ("dog", 0, {DINO: [0.5, 0.5], CLIP_T: [0.2, 0.2]}),
        ("dog", 1, {DINO: [0.7, 0.7]}),
        ("cat", 0, {DINO: [0.4, 0.4]}),
        ("vase", 0, {}),
    ):
        run = write_run(tmp_path, f"{subject}{seed}", 0, subject, seed=seed)
        write_images(run, scores)
    metrics_file(tmp_path / "vase0").unlink()
    answer = build_answer(read_runs(tmp_path))
    (line,) = lines_of(answer)
    cells = {c.header: cell for c, cell in zip(answer.columns, line.cells, strict=True)}
    assert line.n == "2 (4)"
    assert (cells["DINO"].value, cells["DINO"].interval) == ("0.500", "0.400 to 0.600")
    assert (cells["CLIP-T"].value, cells["CLIP-T"].interval) == ("0.200", "n=1")
    assert answer.notes == ("Not scored: vase0.",)


def test_what_was_not_finished_is_in_the_markdown(answer, tmp_path: Path):
    assert f"{UNFINISHED[0].state}: " in markdown(answer)

"""Which versions made the runs of a study, in one line of its answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dreambooth.study.answers.answer_files import markdown
from dreambooth.study.answers.answer_rows import build_answer
from dreambooth.study.finished.scored_runs import read_runs
from run_records import write_run

OLD, NEW = "64af78a05b73e44f9087", "84770aa2f016f0b0dd6c"


def last_line(root: Path, *programs: dict[str, str] | None) -> str:
    for number, program in enumerate(programs):
        run = write_run(root, f"run-{number}", 0.5, subject=f"dog{number}")
        record = json.loads((run / "run.json").read_text())
        record |= {} if program is None else {"program": program}
        (run / "run.json").write_text(json.dumps(record))
    return markdown(build_answer(read_runs(root))).splitlines()[-1]


@pytest.mark.parametrize(
    ("programs", "line"),
    [
        ([{"commit": OLD}, {"commit": OLD}], "Runs of commit 64af78a05b73."),
        ([{"dreambooth": "0.1.0"}], "Runs of dreambooth 0.1.0."),
        (
            [{"commit": f"{NEW}, changed"}, {"commit": OLD}, {"commit": OLD}, None],
            "Runs of several versions: commit 64af78a05b73 (2); a version that was not recorded "
            "(1); commit 84770aa2f016 with changes (1).",
        ),
    ],
)
def test_a_study_ends_with_the_commits_of_its_runs(tmp_path, programs, line):
    assert last_line(tmp_path, *programs) == f"- {line}"


def test_runs_without_a_record_of_it_name_none(tmp_path):
    assert "Runs of" not in last_line(tmp_path, None, None)

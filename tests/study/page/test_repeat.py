"""The command that made a folder, as Hydra noted it."""

from __future__ import annotations

import shlex

import pytest

from dreambooth.study.page.repeat import command_of, versions_of


def test_a_runs_command_is_quoted_for_the_shell(tmp_path):
    (tmp_path / ".hydra").mkdir()
    text = "- subject=dog\n- samples.prompts=['a $dog']\n- hydra.run.dir=out\n"
    (tmp_path / ".hydra/overrides.yaml").write_text(text)
    command = command_of(tmp_path)
    expected = ["python", "train.py", "subject=dog", "samples.prompts=['a $dog']"]
    assert command is not None and shlex.split(command) == expected


@pytest.mark.parametrize(
    "task, command",
    [
        ("[experiment=paper_table3, lr=1e-4]", "python train.py experiment=paper_table3 lr=1e-4"),
        ("['ppl=true,false']", "python train.py -m ppl=true,false"),
        ("['ppl=true,false', hydra.mode=MULTIRUN]", "python train.py -m ppl=true,false"),
        ("[experiment=mine, hydra.mode=MULTIRUN]", "python train.py -m experiment=mine"),
    ],
)
def test_a_sweeps_command(tmp_path, task, command):
    hydra = f"hydra:\n  overrides:\n    task: {task}\n    hydra: [hydra.sweep.dir=/somewhere]\n"
    (tmp_path / "multirun.yaml").write_text(hydra)
    assert command_of(tmp_path) == command


@pytest.mark.parametrize("text", [None, "hydra: {}", "{", "hydra: 3"])
def test_no_notes_have_no_command(tmp_path, text):
    if text is not None:
        (tmp_path / "multirun.yaml").write_text(text)
    assert command_of(tmp_path) is None


def test_versions_of_records_old_and_new():
    assert versions_of({}) == {}
    assert versions_of({"program": {"torch": "2.11", "commit": None}}) == {"torch": "2.11"}

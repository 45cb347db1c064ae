"""A printed override comes back whole through a shell and Hydra's own parser."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from dreambooth.data.prompts import SubjectWords
from dreambooth.quoting import printable, quote_paths, quoted, typed
from dreambooth.study.finished.runs import Run
from dreambooth.training.logs.summary import Finished, print_summary

TEXTS = (
    "outputs/a-1/b.c",
    "/",
    "1/2",
    "../null",
    "lr=1e-3,ppl=true",
    "it's",
    "a\\b",
    "a\\",
    "a\\'b",
    '$HOME `x` "y" !',
    "[1]{2}(3) <dog>",
)


def parsed(words: list[str]) -> dict:
    """Each override's key and value, as Hydra reads them."""
    overrides = OverridesParser.create().parse_overrides(words)
    return {o.key_or_group: getattr(o.value(), "text", o.value()) for o in overrides}


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back_whole(text):
    command = f"printf '%s\\n' {typed(f'run={quoted(text)}')}"
    printed = subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout
    assert parsed(printed.splitlines()) == {"run": text}


def test_the_closing_command_is_read_as_the_runs_folder_and_prompt(tmp_path, capsys):
    folder = tmp_path / "lr=1e-3,ppl=true"
    folder.mkdir()
    costs = {"seconds": 1.0, "peak_memory_gib": 1.0, "bytes_written": 1}
    snippet = f'load("{"a long path/" * 20}")\n'
    words = SubjectWords("<it's> dog", "dog", "a dog", live=True)
    print_summary(Finished(folder, words, snippet, costs, None))
    printed = capsys.readouterr().out
    assert snippet in printed  # whole, however narrow the terminal
    line = next(line for line in printed.splitlines() if line.startswith("python generate.py"))
    read = parsed(shlex.split(line)[2:])
    assert read["run"] == str(folder)
    assert read["prompts"] == ["a <it's> dog on the beach"]


def test_a_text_of_a_stranger_steers_no_terminal():
    assert (
        printable("a \x1b]0;title\x07 dog \x9b2J\udcff")
        == "a \\x1b]0;title\\x07 dog \\x9b2J\\udcff"
    )
    assert printable("für\teinen Hund\n") == "für\teinen Hund\n"


def test_the_command_for_an_unfinished_run_names_its_folder(tmp_path):
    folder = Path(tmp_path / "lr=1,seed=0")
    folder.mkdir()
    with pytest.raises(Exception, match="is not a finished run") as caught:
        Run.read(folder)
    command = str(caught.value).split("`")[1]
    assert parsed(shlex.split(command)[2:]) == {"hydra.run.dir": str(folder)}


def test_a_folder_of_a_sweep_may_be_typed_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("study/ppl=True,subject=dog")
    folder.mkdir(parents=True)
    overrides = [f"run={folder}", "subject=dog,cat", f"runs=[{folder}]", f"run='{folder}'"]
    run, *others = quote_paths([*overrides, "run=study/ppl=True", "-m", "lr=" + "1," * 9999])
    assert parsed([run]) == {"run": str(folder)}
    assert others == [*overrides[1:], "run=study/ppl=True", "-m", "lr=" + "1," * 9999]

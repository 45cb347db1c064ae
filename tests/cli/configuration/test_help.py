"""`--help`: every key with its value and its comment, in 80 columns, at once."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dreambooth.cli.configuration.configs import COMMANDS, CONF, groups_of
from dreambooth.cli.configuration.help import read_comments
from spine import ROOT, environment

YAML = """\
# What the file is,
#   with an example
# @package _global_
defaults:
  - _self_
  - dish: soup   # what to eat

plain: 1
# First section
first: 2         # a note
silent: [1, 2]

# Second section
# above the key,
# on two lines
block:
  inner: "a b"   # begins here
                 # and goes on
  # of the list
  items:
    - one
    - two: 3
"""


def shown(command: str, *arguments: str) -> str:
    code = f"from dreambooth.cli.main import entry; entry({command!r}, None)"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, "--help", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not {line.split("|")[-1].strip() for line in done.stderr.splitlines()} & {"torch", "PIL"}
    return done.stdout


def test_comments_are_read(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text(YAML)
    comments = read_comments(path)
    assert comments.description == ["What the file is,", "  with an example"]
    assert comments.titles == {"block": "Second section"}
    assert comments.notes == {
        "defaults": "",
        "defaults.dish": "what to eat",
        "plain": "",
        "first": "a note",
        "silent": "",
        "block": "above the key, on two lines",
        "block.inner": "begins here and goes on",
        "block.items": "of the list",
        "block.items.two": "",
    }


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_is_shown_with_its_comment(command):
    text = shown(command)
    lines, words = text.splitlines(), " ".join(text.split())
    assert max(len(line) for line in lines) <= 80
    comments = read_comments(CONF / f"{command}.yaml")
    blocks = {key.rpartition(".")[0] for key in comments.notes}
    for key, note in comments.notes.items():
        if not key.startswith(("hydra", "defaults")) and (note or key not in blocks):
            assert f"  {key}=" in text or f"  {key} " in text or f"  {key}\n" in text, key
        if not key.startswith("hydra"):
            assert " ".join(note.split()) in words, key
    for title in comments.titles.values():
        assert title in lines or command == "evaluate", title
    for group in groups_of(command):
        assert f"  {group}=" in text
    assert "--hydra-help" in text and "${" not in text.replace("${hydra:runtime.output_dir}", "")


def test_values_are_those_of_the_command_line():
    text = shown("train", "method=lora", "model=sd15", "seed=7", "identifier=a$b")
    for line in (
        "  seed=7 ",
        "  lr=0.0001 ",
        "  identifier=a$b ",
        "  method.adapter.r=4 ",
        "  model.path=stable-diffusion-v1-5/stable-diffusion-v1-5",
        "  subject_phrase=a$b dog ",
        "method=lora: Low-rank adapters",
    ):
        assert f"\n{line}" in text, line
    # of the file that sd15 is based on
    assert "hub id or local diffusers folder" in text


def test_a_users_choices_are_listed(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\nlr: 5")
    text = shown("train", f"--config-dir={tmp_path}", "experiment=mine")
    assert "  experiment=mine " in text and "mine, paper_table1" in " ".join(text.split())
    assert "\n  lr=5 " in text


def test_what_has_to_be_given_is_shown_as_such():
    assert re.search(r"  subject.photos=\?\?\? +required: ", shown("train", "subject=folder"))


def test_help_is_quick(tmp_path: Path):
    command = [sys.executable, str(ROOT / "train.py"), "--help"]
    start = time.monotonic()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    seconds = time.monotonic() - start
    assert done.returncode == 0 and "max_steps" in done.stdout and list(tmp_path.iterdir()) == []
    assert seconds < 6  # 0.7 s alone; this leaves room for a machine at work

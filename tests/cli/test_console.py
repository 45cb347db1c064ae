"""`dreambooth COMMAND`: which command runs, with which arguments, and what is refused."""

from __future__ import annotations

import sys

import pytest

from dreambooth import __version__
from dreambooth.cli import commands, console
from dreambooth.cli.configuration.configs import CONF


@pytest.fixture
def start(monkeypatch, capsys):
    """Run the console command without the command's body: (what was entered, its output)."""
    entered = []
    monkeypatch.setattr(
        console, "entry", lambda name, body: entered.append((name, body, sys.argv[1:]))
    )

    def call(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["dreambooth", *arguments])
        console.main()
        return entered, capsys.readouterr().out

    return call


@pytest.mark.parametrize("name", console.COMMANDS)
def test_a_command_runs_its_body_on_the_other_arguments(start, name):
    entered, _ = start(name, "-m", "seed=0,1")
    assert entered == [(name, getattr(commands, name), ["-m", "seed=0,1"])]
    assert (CONF / f"{name}.yaml").exists()


@pytest.mark.parametrize("argument", [(), ("--help",), ("-h",), ("help",)])
def test_help_names_every_command(start, argument):
    entered, shown = start(*argument)
    assert not entered and all(f"\n  {name} " in shown for name in console.COMMANDS)


def test_the_version_is_shown(start):
    assert start("--version") == ([], f"dreambooth {__version__}\n")


ALL = "choose one of train, generate, evaluate, report, extract, merge, tokens, pretrain, show."


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trian", "did you mean train?"),
        ("evalute", "did you mean evaluate?"),
        ("xyz", ALL),
        ("subject=dog", ALL),
    ],
)
def test_an_unknown_command_is_one_sentence(start, capsys, name, hint):
    with pytest.raises(SystemExit) as stop:
        start(name)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: There is no command {name}: {hint}\n"


def test_a_process_that_lightning_starts_trains(start, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    entered, _ = start("subject=dog", "trainer=ddp")
    assert entered == [("train", commands.train, ["subject=dog", "trainer=ddp"])]

"""The versions that a run records."""

from __future__ import annotations

import platform
from importlib.metadata import version

from dreambooth import __version__, versions


def test_versions_name_the_program_python_and_the_libraries():
    found = versions.versions()
    assert found["dreambooth"] == __version__ and found["python"] == platform.python_version()
    assert found["torch"] == version("torch")


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert versions._commit() is None

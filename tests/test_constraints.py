"""constraints.txt holds one version of every requirement, by name and version alone."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from spine import ROOT

LINE = re.compile(r"([a-z0-9][a-z0-9.-]*)==([0-9][a-z0-9.]*)( ; [a-z_]+ [<>=!]+ .+| ; \(.+)?")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
DECLARED = [
    Requirement(text)
    for group in (
        PROJECT["build-system"]["requires"],
        PROJECT["project"]["dependencies"],
        *EXTRAS.values(),
    )
    for text in group
]


def pins() -> dict[str, list[str]]:
    """The pinned versions by name; a line that is anything else is refused."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        found.setdefault(canonicalize_name(match[1]), []).append(match[2])
    return found


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_every_requirement_has_a_version_that_it_allows(requirement):
    versions = pins()[canonicalize_name(requirement.name)]
    assert all(requirement.specifier.contains(version) for version in versions)


def test_the_constraints_are_made_with_every_extra():
    script = (ROOT / ".ci/constraints").read_text()
    assert f".[{','.join(sorted(EXTRAS))}]" in script


def indirect(names: set[str]) -> set[str]:
    """Everything that installed packages require on this machine, directly or not."""
    todo, seen = list(names), set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        try:
            needed = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:  # an extra that is not installed here
            continue
        seen.add(name)
        here = (r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""}))
        todo += [canonicalize_name(r.name) for r in here]
    return seen


def test_indirect_requirements_are_pinned_too():
    found = indirect({canonicalize_name(r.name) for r in DECLARED})
    assert {"huggingface-hub", "antlr4-python3-runtime", "pluggy"} <= found
    assert found <= set(pins())


def test_the_pair_that_clashes_is_excluded():
    """transformers 5.24 loads a LoRA only with PEFT 0.22, which is not released."""
    ranges = {requirement.name: requirement.specifier for requirement in DECLARED}
    assert not ranges["transformers"].contains("5.24.0")
    assert all(ranges["transformers"].contains(v) for v in ("5.17.0", "5.23.0"))
    assert ranges["torch"].contains("2.11.0") and ranges["peft"].contains("0.21.2")

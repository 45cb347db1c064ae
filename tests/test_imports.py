"""Imports run downward through the rooms, and docs/architecture.md names every module."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from spine import ROOT, environment

SOURCE = ROOT / "src" / "dreambooth"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
    if path.name != "__init__.py" or path.read_text().strip()
}
LAYERS = (  # from the top; a module may import its own layer and those below
    ("cli", "__main__", "tokens"),
    ("study", "pocket.pretraining"),
    ("training",),
    ("evaluation",),
    ("sampling",),
    ("data", "model", "metrics"),
    ("diffusion", "pocket.embedded", "pocket.world"),
    ("tensors", "locks", "records"),
    ("files", "heap", "random", "quoting", "packages", "png_text", "versions", "weights_files"),
    ("errors", "scratch", "__init__"),
)
ENTRIES = ("train", "generate", "evaluate", "report")
LIGHT = ("cli.commands", "cli.console", "cli.sweeps.dry_run", "data.prompts", "errors")
LIGHT += ("study.costs.estimates", "training.resuming.finished")
HEAVY = {"torch", "diffusers", "transformers", "numpy", "PIL", "wandb", "pandas", "scipy"}


def within(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def layer_of(module: str) -> int:
    found = [number for number, rooms in enumerate(LAYERS) if within(module, rooms)]
    assert len(found) == 1, f"{module} is in {len(found)} layers"
    return found[0]


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from nodes(node)


def imported(path: Path) -> set[str]:
    """Absolute names of all that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(path: Path) -> set[str]:
    """Modules of this package that a file imports."""
    found = set()
    for name in imported(path):
        parts = name.split(".")[1:] if name.startswith("dreambooth.") else []
        known = [".".join(parts[:i]) for i in range(len(parts), 0, -1)]
        found |= {next((n for n in known if n in MODULES), "")} - {""}
    return found


def test_the_package_is_seen():
    assert len(MODULES) > 90 and "files" in ours(MODULES["training.resuming.checkpoints"])
    assert layer_of("training.job") < layer_of("model.peft_layers") < layer_of("diffusion.loss")


@pytest.mark.parametrize("module", MODULES)
def test_no_import_points_upwards(module):
    above = {name for name in ours(MODULES[module]) if layer_of(name) < layer_of(module)}
    assert not above, f"{module} imports {sorted(above)}, which are above it"


def test_nothing_imports_in_a_circle():
    graph = {module: ours(path) - {module} for module, path in MODULES.items()}
    assert tuple(TopologicalSorter(graph).static_order())


def test_no_module_imports_another_ones_private_names():
    for module, path in MODULES.items():
        for name in imported(path):
            leaf = name.rpartition(".")[2]
            private = leaf.startswith("_") and not leaf.startswith("__")
            assert not (name.startswith("dreambooth.") and private), f"{module} imports {name}"


def test_diffusion_is_pure_and_metrics_stand_alone():
    allowed = (
        "files",
        "data.colors",
        "data.photos",
        "errors",
        "metrics",
        "png_text",
        "pocket.embedded",
        "random",
    )
    allowed += ("scratch", "tensors")
    for module, path in MODULES.items():
        if within(module, ("diffusion",)):
            assert all(within(n, ("diffusion", "random", "errors")) for n in ours(path)), module
        if within(module, ("metrics",)):
            assert all(within(name, allowed) for name in ours(path)), module


def test_only_the_command_line_sees_a_config_object():
    for module, path in MODULES.items():
        if not within(module, ("cli",)):
            roots = {name.split(".")[0] for name in imported(path)}
            assert not roots & {"hydra", "omegaconf"}, module


def test_other_rooms_take_of_the_embedded_model_only_its_front():
    for module, path in MODULES.items():
        if not within(module, ("pocket", "cli")):
            taken = {name for name in ours(path) if within(name, ("pocket",))}
            assert taken <= {"pocket.embedded"}, module


def test_nobody_imports_an_entry_script():
    for path in [*MODULES.values(), *ROOT.glob("*.py")]:
        assert not set(ENTRIES) & {name for name in imported(path) if "." not in name}


def test_entry_scripts_are_short():
    for name in ENTRIES:
        assert len((ROOT / f"{name}.py").read_text().splitlines()) <= 20, name


def test_what_must_be_light_is_light():
    names = ", ".join(f"dreambooth.{name}" for name in LIGHT)
    code = f"import sys, {names}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "omegaconf" in loaded, done.stderr
    assert not loaded & HEAVY


def test_the_architecture_page_names_every_module():
    """Its rooms are headings, `### model/`, and every module is in a table of its room."""
    named, room = set(), ""
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        if match := re.match(r"### `([\w/]*)`", line):
            room = match[1].replace("/", ".")
        elif match := re.match(r"\| `(\w+)` \|", line):
            named.add(f"{room}{match[1]}")
    expected = {name for name, path in MODULES.items() if path.name != "__init__.py"}
    assert named == expected

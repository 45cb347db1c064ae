"""Imports run one way: entry scripts, stages, steps, parts, pure functions."""

from __future__ import annotations

import ast
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
}
PURE = (
    "errors",
    "diffusion",
    "data.prompts",
    "metrics.aggregate",
    "metrics.fidelity",
    "metrics.preservation",
    "metrics.texts",
    "metrics.variants",
)
PARTS = ("model", "metrics", "pocket", "data.photos", "data.subjects", "cache")
STEPS = (
    "data.class_images",
    "data.datamodule",
    "module",
    "callbacks",
    "checkpoints",
    "generate",
    "loggers",
)
LAYERS = (PURE, PARTS, STEPS)  # from below; every other module is a stage, above them
ENTRIES = ("pocket.pretrain",)  # run by `python -m`, so that it may compose as train.py does


def within(module: str, layer: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in layer)


def layer_of(module: str) -> int:
    if module in ENTRIES:
        return len(LAYERS)
    return next((i for i, layer in enumerate(LAYERS) if within(module, layer)), len(LAYERS))


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from runtime_nodes(node)


def imported(path: Path) -> set[str]:
    """Absolute names of all that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in runtime_nodes(ast.parse(path.read_text())):
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
        found |= {next((n for n in known if n in MODULES and n), "")} - {""}
    return found


def test_the_package_is_seen():
    assert len(MODULES) > 30 and "cache" in ours(MODULES["checkpoints"])
    assert layer_of("run") == 3 and layer_of("model.lora") == 1 and layer_of("diffusion.loss") == 0


@pytest.mark.parametrize("module", MODULES)
def test_no_import_points_upwards(module):
    above = {n for n in ours(MODULES[module]) if layer_of(n) > layer_of(module)}
    assert not above, f"{module} imports {sorted(above)}, which are above it"


def test_nothing_imports_in_a_circle():
    graph = {module: ours(path) - {module} for module, path in MODULES.items()}
    assert tuple(TopologicalSorter(graph).static_order())


def test_pure_modules_import_nothing_of_ours_but_errors_and_each_other():
    for module, path in MODULES.items():
        if within(module, ("diffusion",)):
            assert not ours(path), module
        elif within(module, PURE):
            assert all(within(n, ("errors", "metrics")) for n in ours(path)), module
        elif within(module, ("metrics",)):
            allowed = ("cache", "data.photos", "errors", "metrics")
            assert all(within(n, allowed) for n in ours(path)), module


def test_nobody_imports_an_entry_script():
    entries = {path.stem for path in ROOT.glob("*.py")}
    assert not any(set(ENTRIES) & ours(path) for path in MODULES.values())
    assert entries >= {"train", "generate"}
    for path in [*MODULES.values(), *ROOT.glob("*.py")]:
        assert not entries & {n for name in imported(path) for n in (name, name.split(".")[0])}


def test_entry_scripts_are_short_and_import_no_library_at_the_top():
    for path in ROOT.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 45, path.name
        top = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ImportFrom)]
        light = {"__future__", "dreambooth.cli.interrupt"}
        assert {n.module for n in top} <= light, path.name


def test_no_config_object_reaches_the_steps():
    for module, path in MODULES.items():
        if layer_of(module) < len(LAYERS) and not within(module, ("pocket",)):
            roots = {name.split(".")[0] for name in imported(path)}
            assert not roots & {"hydra", "omegaconf"}, module


def test_what_must_be_light_is_light():
    light = "dreambooth.cli.checks, dreambooth.cli.main, dreambooth.errors, dreambooth.data.prompts"
    code = f"import sys, {light}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "omegaconf" in loaded, done.stderr
    assert not loaded & {"torch", "diffusers", "transformers", "numpy", "PIL", "wandb", "pandas"}

"""The wheel, built from the sources and installed beside nothing else, works from any folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spine import ROOT, environment

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
SOURCES = ("src", "conf", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
TINY = (
    "subject=dog",
    "max_steps=2",
    "batch_size=1",
    "photos.root=null",
    "photos.rendered=2",
    "prior.num_class_images=2",
    "prior.num_inference_steps=2",
    "sampling.num_inference_steps=2",
    "samples.every_n_steps=0",
    "samples.seeds=[0]",
    "trainer=cpu",
    "logger=csv",
    "evaluation=none",
    "cache_dir=cache",
    "hydra.run.dir=run",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that holds the installed wheel; the build reads a copy of the sources."""
    root = tmp_path_factory.mktemp("wheel")
    sources, folder = root / "sources", root / "installed"
    sources.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, sources / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    pip += ["--no-build-isolation", "--target", str(folder), str(sources)]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def call(installed: Path, folder: Path, *command: str) -> subprocess.CompletedProcess:
    """Run a command in `folder` with the installed wheel before everything else."""
    env = {**environment(), "PYTHONPATH": str(installed)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def console(installed: Path) -> str:
    name = "dreambooth.exe" if os.name == "nt" else "dreambooth"
    return str(installed / "bin" / name)


def test_the_wheel_holds_the_package_and_its_configuration(installed, tmp_path):
    code = "import dreambooth; from dreambooth.cli.main import CONF; print(CONF)"
    conf = Path(call(installed, tmp_path, sys.executable, "-c", code).stdout.strip())
    assert conf == installed / "dreambooth/conf"
    names = {str(path.relative_to(ROOT / "conf")) for path in (ROOT / "conf").rglob("*.yaml")}
    assert names == {str(path.relative_to(conf)) for path in conf.rglob("*.yaml")}
    sources = ROOT / "src"
    for kind in ("*.py", "*.json", "*.safetensors", "py.typed", "*.html", "*.css", "*.js"):
        files = {str(path.relative_to(sources)) for path in sources.rglob(kind)}
        packages = [path.relative_to(installed) for path in installed.rglob(kind)]
        assert files and files == {str(p) for p in packages if "dist-info" not in p.parts[0]}


def test_help_lists_the_commands_and_a_commands_options(installed, tmp_path):
    shown = call(installed, tmp_path, console(installed))
    assert shown.returncode == 0 and "usage: dreambooth COMMAND" in shown.stdout
    for name in ("train", "generate", "evaluate", "report", "tokens", "pretrain"):
        shown = call(installed, tmp_path, console(installed), name, "--help")
        assert shown.returncode == 0 and "--hydra-help" in shown.stdout, shown.stderr
    assert not list(tmp_path.iterdir())


def test_two_steps_train_and_the_run_draws_from_another_folder(installed, tmp_path):
    done = call(installed, tmp_path, console(installed), "train", *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["costs"]["phase_0"]["steps"] == 2
    assert (tmp_path / "run/samples/final.png").exists()
    assert "run.html" in done.stdout and "a sks dog" in (tmp_path / "run/run.html").read_text()
    assert record["program"]["dreambooth"]
    module = (sys.executable, "-m", "dreambooth", "generate")
    drawn = call(
        installed, tmp_path, *module, "run=run", "seeds=[0]", "num_inference_steps=2", "device=cpu"
    )
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    assert len(list((tmp_path / "run/generated").rglob("manifest.csv"))) == 1

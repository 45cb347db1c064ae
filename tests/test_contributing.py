"""The worked examples of CONTRIBUTING.md, followed as a reader would, with fewer steps."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import FunctionType, SimpleNamespace

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from dreambooth.cli.configuration.configs import CONF
from dreambooth.evaluation import score
from dreambooth.metrics import fidelity, variants
from dreambooth.study.finished.runs import Run
from spine import ROOT, checkpoint, environment

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
FILES = {code.splitlines()[0].removeprefix("# "): code for kind, code in BLOCKS if kind == "yaml"}
PYTHON = [code for kind, code in BLOCKS if kind == "python"]
COMMANDS = [line for kind, code in BLOCKS if not kind for line in code.splitlines()]
EXAMPLES = (
    "subject/mug",
    "model/my_sd15",
    "method/both_then_unet",
    "method/hra",
    "experiment/low_prior_weight",
)
TINY = ("max_steps=2", "lr=1e-3", "batch_size=1", "prior.num_class_images=2")


def command_of(example: str) -> list[str]:
    """The arguments of the `python train.py` line that uses an example."""
    choice = example.replace("/", "=")
    (line,) = [c for c in COMMANDS if c.startswith("python train.py") and choice in c.split()]
    return shlex.split(line)[2:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A reader's folder that holds `my_conf/` as the page shows it."""
    root = tmp_path_factory.mktemp("reader")
    assert set(FILES) == {f"my_conf/{example}.yaml" for example in EXAMPLES}
    for name, code in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        code = code.replace("max_steps: 50\n", "max_steps: 3\n")
        (root / name).write_text(code.partition("\n")[2])  # the first line is its path
    return root


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_trains(spine, folder, tmp_path, example):
    config_dir, *overrides = command_of(example)
    assert config_dir == "--config-dir=my_conf"
    search = f"hydra.searchpath=['file://{folder / 'my_conf'}']"
    noun = ("subject.class_noun=mug",) if example == "subject/mug" else ()  # the spine says dog
    out = spine.run(tmp_path, search, *overrides, *TINY, *noun)
    config = Run.read(out).config
    file = yaml.safe_load((folder / f"my_conf/{example}.yaml").read_text())
    group, name = example.split("/")
    phase = 0
    if group == "experiment":
        assert config["prior"]["weight"] == file["prior"]["weight"] == 0.3
        assert config["method"]["name"] == "lora"
        assert config["scheduler"]["name"] == "DPMSolverMultistepScheduler"
    else:
        assert config[group]["name"] == file["name"] == name
    if group == "subject":
        assert config["class_prompt"] == "a mug" and config["instance_prompt"] == "a sks mug"
    if name == "both_then_unet":
        phase = 1
        assert checkpoint(out, 0)["global_step"] == 3
        first, last = (checkpoint(out, number)["state_dict"] for number in (0, 1))
        changed = {k.partition(".")[0] for k in first if not torch.equal(first[k], last[k])}
        assert changed == {"unet"} and any(k.startswith("text_encoder.") for k in first)
    assert checkpoint(out, phase)["global_step"] == 2


def test_the_printed_command_line_takes_the_readers_own_folder(folder):
    """Hydra's `--config-dir`, as it is typed, in a reader's folder; another test trains with it."""
    arguments = command_of("experiment/low_prior_weight")
    command = [sys.executable, str(ROOT / "train.py"), *arguments, "--cfg", "job"]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    config = yaml.safe_load(done.stdout)
    assert config["prior"]["weight"] == 0.3 and config["method"]["name"] == "lora"


def metric_example() -> dict[str, FunctionType]:
    """The example's functions, each defined inside a copy of the module that it names."""
    functions: dict[str, FunctionType] = {}
    for code, module in zip(PYTHON, (fidelity, variants, score), strict=True):
        path = Path(str(module.__file__)).relative_to(ROOT).as_posix()
        assert code.splitlines()[0] == f"# {path}"
        namespace = {**vars(module), "torch": torch}
        if module is score:
            namespace["fidelity"] = namespace["variants"] = SimpleNamespace(**functions)
        known = set(namespace)
        exec(code, namespace)
        (name,) = set(namespace) - known - {"__builtins__"}
        functions[name] = namespace[name]
    return functions


def test_the_metrics_doctests_hold():
    functions = metric_example()
    for name in ("nearest_scores", "nearest_id"):
        runner = doctest.DocTestRunner()
        where = functions[name].__globals__
        for test in doctest.DocTestFinder().find(functions[name], name, globs=where):
            runner.run(test)
        assert runner.tries and not runner.failures, name


def features(count: int, seed: int) -> Tensor:
    draw = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return F.normalize(draw.double(), dim=1)


def test_the_metric_scores_a_runs_images_as_a_plain_loop_does():
    made, photos = features(4, 0), features(3, 1)
    rows = [{"file": f"{i}.png", "prompt": f"prompt {i % 2}"} for i in range(4)]
    result = score.Scores(rows)
    encoder = SimpleNamespace(images=torch.stack, variant="dino.vits16.hub.r256c224")
    parts = score.Part(rows, list(made)), score.Part([], list(photos))
    metric_example()["_nearest"](result, encoder, *parts)
    expected = [max(float((g * r).sum()) for r in photos) for g in made]
    variant = "nearest.vits16.hub.r256c224"
    assert [row[variant] for row in rows] == pytest.approx(expected, abs=1e-12)
    assert result.summary[variant]["mean"] == pytest.approx(sum(expected) / 4, abs=1e-12)
    assert result.summary[variant]["references"] == 3


def test_every_file_and_command_that_the_page_names_exists():
    names = re.findall(r"`((?:src|tests|conf|docs)/[\w/.]+)`|\]\((docs/[\w.]+)\)", TEXT)
    named = {a or b for a, b in names}
    assert len(named) > 8
    assert not {name for name in named if not (ROOT / name).exists()}
    tests = [word for c in COMMANDS for word in c.split() if word.startswith("tests/")]
    assert tests and all((ROOT / name).exists() for name in tests)
    makefile = (ROOT / "Makefile").read_text()
    targets = [c.split()[1] for c in COMMANDS if c.startswith("make ")]
    assert set(targets) >= {"test", "test-fast", "constraints"}
    assert all(f"\n{target}:" in makefile for target in targets)


def test_continuous_integration_runs_the_readmes_two_commands():
    readme = (ROOT / "README.md").read_text()
    block = readme.partition("## Two commands\n\n```\n")[2].partition("```")[0]
    commands = [line.partition("#")[0].strip() for line in block.splitlines()]
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    steps = workflow["jobs"]["commands"]["steps"]
    browser = ".venv/bin/python -m playwright install --with-deps chromium"  # for tests of pages
    runs = [step["run"] for step in steps if "run" in step]
    thorough = ".venv/bin/python -m pytest --numprocesses auto -m thorough"
    assert runs == ["make demo", browser, "make test", thorough]
    assert commands == ["make demo", "make test"]
    assert CONF == ROOT / "conf"  # the tests read the repository, not an installed wheel

"""Bad input at the command line: exit code 2 and one sentence; Ctrl-C: 130 and nothing lost."""

from __future__ import annotations

import errno
import logging
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from PIL import Image

from dreambooth.files import file_hash
from dreambooth.study.runs import Run, read_rows
from dreambooth.study.settings import flat
from spine import ROOT, Spine, checkpoint, environment, same


@pytest.fixture
def command_line(spine: Spine, tmp_path, monkeypatch, capfd):
    """`train.py` as a script in this process: (exit code, what it said on stderr)."""
    root, hydra = logging.getLogger(), HydraConfig.instance()
    handlers, level, composed = root.handlers[:], root.level, hydra.cfg
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def start(*arguments: str, folder: Path = tmp_path / "out") -> tuple[int, str]:
        quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none")
        run = f"hydra.run.dir='{folder}'"
        monkeypatch.setattr(sys, "argv", spine.command(*quiet, run, *arguments)[1:])
        capfd.readouterr()
        try:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, capfd.readouterr().err

    yield start
    root.handlers[:], hydra.cfg = handlers, composed
    root.setLevel(level)


def sentence(said: str) -> str:
    """The one line that a user is told."""
    lines = [line for line in said.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), said
    assert "Traceback" not in said
    return lines[0]


VALUES = {
    "subject=dgo": r"subject=dgo does not exist: did you mean subject=dog\?.*subject=folder",
    "scheduler=dimm": r"did you mean scheduler=ddim\?",
    "lr=-1": r"lr=-1 is not usable: lr must be greater than 0\.",
    "lr=nan": "lr=nan is not usable: lr must be a finite number",
    "lr=high": "lr=high is not usable: lr must be a finite number",
    "ppl=maybe": r"ppl=maybe is not usable: ppl must be true or false\.",
    "max_steps=0": "max_steps must be greater than 0",
    "batch_size=1.5": "batch_size must be a whole number",
    "seed=-1": "seed must be 0 or greater",
    "resolution=20": "resolution must be a multiple of 8",
    "ema_decay=1": "ema_decay must be null or between 0 and 1",
    "loss.min_snr_gamma=0": "min_snr_gamma must be null or greater than 0",
    "lr_schedule=cosin": "lr_schedule must be one of constant",
    "pairing=random": "pairing must be one of independent, diffusers",
    "lerning_rate=1": r"There is no key lerning_rate: did you mean lr\?",
    "max_step=1": r"There is no key max_step: did you mean max_steps\?",
    "prior.wieght=2": r"There is no key prior.wieght: did you mean prior.weight\?",
    "num_class_images=9": r"did you mean prior.num_class_images\?",
    "evalution=paper": r"There is no key evalution: did you mean evaluation\?",
    "trainer.devces=2": r"did you mean trainer.devices\?",
    "lr==": "The command line cannot be read",
    "scheduler.name=DDIMSchedular": "no sampler DDIMSchedular: did you mean DDIMScheduler",
    "+max_step=1": r"There is no key max_step: did you mean max_steps\?",
    "+prior.wieght=2": r"did you mean prior.weight\?",
    "+scheduler.options.typo=1": "DDIMScheduler has no option typo",
    "trainer.devices=two": "trainer cannot be set up: .*devices",
    "subject.photos=???": "subject.photos",
}


@pytest.mark.parametrize("argument", VALUES)
def test_a_bad_value_is_one_sentence(command_line, argument):
    code, said = command_line(argument)
    assert code == 2 and re.search(VALUES[argument], sentence(said)), said


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_a_gpu_that_is_not_there_is_named_before_any_work(command_line, tmp_path):
    cache = tmp_path / "cache"
    code, said = command_line("trainer.accelerator=gpu", f"cache_dir='{cache}'")
    assert code == 2 and "trainer.accelerator=gpu needs a GPU" in sentence(said)
    assert not cache.exists()


def test_a_disk_that_fills_under_a_library_is_one_sentence(command_line, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dreambooth.training.loggers.CSVLogger.__init__", fail)
    code, said = command_line()
    assert code == 2 and "The disk is full" in sentence(said)


def bad_photos(kind: str, folder: Path, spine: Spine) -> None:
    """A photo folder with one thing wrong."""
    if kind == "missing":
        return
    folder.mkdir()
    if kind != "empty":
        shutil.copy(spine.photos / "0.png", folder / "a.png")
    if kind == "text":
        (folder / "b.jpg").write_text("no image at all")
    elif kind == "truncated":
        Image.effect_noise((64, 64), 50).convert("RGB").save(folder / "b.jpg")
        (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:900])
    elif kind == "tiny":
        Image.new("RGB", (1, 1)).save(folder / "b.jpg")
    elif kind == "huge":
        Image.new("1", (30_000, 30_000)).save(folder / "b.png")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("missing", "photo folder .*photos does not exist"),
        ("empty", "photos holds no photos"),
        ("text", r"b\.jpg is not an image"),
        ("truncated", r"b\.jpg cannot be read .*truncated"),
        ("tiny", r"b\.jpg is 1x1 pixels"),
        ("huge", r"b\.png is larger than 64 megapixels"),
    ],
)
def test_bad_photos_are_one_sentence(command_line, spine, tmp_path, kind, expected):
    bad_photos(kind, tmp_path / "photos", spine)
    code, said = command_line(f"subject.photos='{tmp_path / 'photos'}'")
    assert code == 2 and re.search(expected, sentence(said)), said


@pytest.mark.parametrize(
    "part",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "model_index.json",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_model_that_lacks_a_part_is_one_sentence(command_line, spine, tmp_path, part):
    shutil.copytree(spine.model, tmp_path / "model")
    (tmp_path / "model" / part).unlink()
    code, said = command_line(f"model.path='{tmp_path / 'model'}'")
    assert code == 2 and re.search(f"model lacks {part}", sentence(said)), said


def test_other_wrong_paths_are_one_sentence(command_line, spine, tmp_path):
    for argument, expected in (
        ("model.path=/absent/model", "/absent/model does not exist"),
        ("resume=/absent.ckpt", "/absent.ckpt does not exist"),
        (f"prior.images_dir='{spine.photos}' prior.num_class_images=9", "fewer than"),
        ("method=lora method.lora.rank=0", "rank must be at least 1"),
        (f"cache_dir='{spine.photos / '0.png'}'", "0.png.* cannot be used .*another place"),
    ):
        code, said = command_line(*argument.split())
        assert code == 2 and re.search(expected, sentence(said)), said


def tree(folder: Path) -> dict[str, str]:
    """Every artifact's content; Hydra's own notes are the last command's, and nobody reads them."""
    files = (p for p in folder.rglob("*") if p.is_file() and ".hydra" not in p.parts)
    return {str(p.relative_to(folder)): file_hash(p) for p in sorted(files)}


def test_a_refused_command_leaves_an_earlier_run_whole(command_line, spine, tmp_path):
    out = spine.run(tmp_path / "earlier", "max_steps=1")
    before, config = tree(out), Run.read(out).config
    bad_photos("text", tmp_path / "photos", spine)
    for arguments in (
        ("lr=-1",),
        ("lr=2e-3",),
        ("lerning_rate=1",),
        ("model.path=/absent/model",),
        (f"subject.photos='{tmp_path / 'photos'}'",),
    ):
        code, said = command_line("max_steps=1", *arguments, folder=out)
        assert code == 2 and sentence(said)
        after = tree(out)
        assert {name: after.get(name) for name in before} == before, arguments
        assert Run.read(out).config == config, arguments
        assert read_rows(out)[0]["settings"] == flat(config), arguments


def test_a_sweep_outlives_a_bad_run_and_says_so(command_line, tmp_path):
    sweep = (f"hydra.sweep.dir='{tmp_path / 'sweep'}'", "hydra.sweep.subdir=${hydra.job.num}")
    code, said = command_line("hydra.mode=MULTIRUN", "max_steps=1", "lr=1e-3,-1,1e-4", *sweep)
    assert code == 2 and said.count("error: lr=-1 is not usable") == 1
    done = {p.parent.name for p in (tmp_path / "sweep").glob("*/run.json")}
    assert done == {"0", "2"}


def test_help_is_quick_and_a_typo_is_refused_before_torch_is_loaded(tmp_path):
    start = time.monotonic()
    help_command = [sys.executable, str(ROOT / "train.py"), "--help"]
    shown = subprocess.run(help_command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    seconds = time.monotonic() - start
    assert shown.returncode == 0 and "max_steps" in shown.stdout
    assert seconds < 6  # 0.7 s alone; this leaves room for a machine at work
    command = [sys.executable, "-X", "importtime", str(ROOT / "train.py"), "lr=-1"]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2 and "error: lr=-1" in refused.stderr
    imported = {line.split("|")[-1].strip() for line in refused.stderr.splitlines()}
    assert "hydra" in imported
    assert not {"torch", "diffusers", "transformers", "PIL", "wandb"} & imported


def test_ctrl_c_ends_at_a_step_and_the_same_command_goes_on(spine, tmp_path):
    command = spine.command(
        f"hydra.run.dir='{tmp_path / 'run'}'",
        "max_steps=500",
        "accumulate=2",
        "checkpoint.every_n_steps=1000",
    )
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    logged = tmp_path / "run/logs/version_0"
    deadline = time.monotonic() + 120
    while not logged.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 130 and "Traceback" not in said, said
    assert "Stopped" in said
    step = checkpoint(tmp_path / "run")["global_step"]
    assert 0 < step < 500
    stop = step + 2
    whole = spine.run(tmp_path / "whole", f"max_steps={stop}", "accumulate=2")
    spine.run(tmp_path / "run", f"max_steps={stop}", "accumulate=2")
    a, b = checkpoint(whole), checkpoint(tmp_path / "run")
    assert a["global_step"] == b["global_step"] == stop
    assert same(a["state_dict"], b["state_dict"])

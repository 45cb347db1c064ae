"""Bad input on the command line: exit code 2 and one sentence. Ctrl-C: 130, and nothing is lost."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from PIL import Image

from dreambooth.cli.interrupt import importing
from dreambooth.cli.main import (
    SPIN_COUNT,
    flags_first,
    parse,
    prepare_environment,
    run_job,
    without_traces,
)
from dreambooth.files import file_hash, read_csv
from dreambooth.study.finished.runs import Run
from dreambooth.study.finished.scored_runs import read_runs
from dreambooth.training.module import DreamBooth
from dreambooth.training.resuming.fingerprint import flat
from spine import ROOT, Spine, checkpoint, environment

pytestmark = pytest.mark.slow


@pytest.fixture
def command_line(spine: Spine, tmp_path, monkeypatch, capfd):
    """Run `train.py` as a script in this process => its exit code and what it printed on stderr."""
    root, hydra = logging.getLogger(), HydraConfig.instance()
    handlers, level, composed = root.handlers[:], root.level, hydra.cfg
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def start(
        *arguments: str, folder: Path = tmp_path / "out", only: bool = False
    ) -> tuple[int, str]:
        quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none")
        run = f"hydra.run.dir='{folder}'"
        command = spine.command(*quiet, run, *arguments)[1:]
        command = [command[0], *quiet, run, *arguments] if only else command
        monkeypatch.setattr(sys, "argv", command)
        capfd.readouterr()
        try:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        start.stdout, printed = capfd.readouterr()
        return code, printed

    yield start
    root.handlers[:], hydra.cfg = handlers, composed
    root.setLevel(level)


def sentence(printed: str) -> str:
    """Return the only line that was printed."""
    lines = [line for line in printed.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), printed
    assert "Traceback" not in printed
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
    "seed=-1": "seed must be a whole number from 0 to 4294967295",
    "resolution=20": "resolution must be a multiple of 8",
    "hydra/launcher=joblib": "hydra/launcher launches sweeps: add -m",
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
    "cache_dir=/b\udce9d": "the path in cache_dir=/b\ufffdd is not UTF-8: rename it",
    "lr==": "The command line cannot be read at lr==: write key=value",
    "seed=0,1": r"seed=0,1 holds several values: add -m .* or write 'seed=\[0,1\]'",
    "subject=dog,cat": r"subject=dog,cat holds several values: add -m to run once with each\.",
    "~lrr": r"There is no key lrr: did you mean lr\?",
    "learning_rate=1": r"There is no key learning_rate: did you mean lr\?",
    "run=outputs": "train has no key run: it belongs to generate, evaluate, extract and merge",
    "hydra/launcher=joblb": r"hydra/launcher=joblb does not exist: (choose|did you mean)",
    "--nope": "The command line cannot be read: unrecognized arguments: --nope",
    "--config-dir=/absent": "/absent' not found",
    "objective=dno": "objective=dno does not exist: choose dino, .* or null",
    "objective=dino": "objective=dino needs dino, which the evaluation does not compute",
    "scheduler.name=DDIMSchedular": "no sampler DDIMSchedular: did you mean DDIMScheduler",
    "+max_step=1": r"There is no key max_step: did you mean max_steps\?",
    "+prior.wieght=2": r"did you mean prior.weight\?",
    "+scheduler.options.typo=1": "DDIMScheduler has no option typo",
    "trainer.devices=two": "trainer cannot be set up: .*devices",
    "subject.photos=???": "subject.photos is missing: give subject.photos=VALUE",
    "subject.class_noun=??? subject.photos=???": "subject.class_noun and .* are missing: give",
}


@pytest.mark.parametrize("argument", VALUES)
def test_a_bad_value_is_one_sentence(command_line, argument):
    code, printed = command_line(*argument.split())
    assert code == 2 and re.search(VALUES[argument], sentence(printed)), printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_a_gpu_that_is_not_there_is_named_before_any_work(command_line, tmp_path):
    cache = tmp_path / "cache"
    code, printed = command_line("trainer.accelerator=gpu", f"cache_dir='{cache}'")
    assert code == 2 and "trainer.accelerator=gpu needs a GPU" in sentence(printed)
    assert not cache.exists()


def test_a_disk_that_fills_under_a_library_is_one_sentence(command_line, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dreambooth.training.logs.run_log.RunLog.add", fail)
    code, printed = command_line()
    assert code == 2 and "The disk is full" in sentence(printed)


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
        Image.new("1", (9_000, 9_000)).save(folder / "b.png")


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
    code, printed = command_line(f"subject.photos='{tmp_path / 'photos'}'")
    assert code == 2 and re.search(expected, sentence(printed)), printed
    assert "GiB" not in printed  # what the run needs is not said first


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
    code, printed = command_line(f"model.path='{tmp_path / 'model'}'")
    assert code == 2 and re.search(f"model lacks {part}", sentence(printed)), printed


@pytest.mark.thorough
def test_other_wrong_paths_are_one_sentence(command_line, spine, tmp_path):
    for argument, expected in (
        ("model.path=/absent/model", "/absent/model does not exist"),
        ("resume=/absent.ckpt", "/absent.ckpt does not exist"),
        (f"prior.images_dir='{spine.photos}' prior.num_class_images=9", "fewer than"),
        (
            "method=lora method.adapter.r=0",
            r"method.adapter.r=0 must be a whole number, 1 or greater",
        ),
        (f"cache_dir='{spine.photos / '0.png'}'", "0.png.* cannot be used .*another path"),
    ):
        code, printed = command_line(*argument.split())
        assert code == 2 and re.search(expected, sentence(printed)), printed


def tree(folder: Path) -> dict[str, str]:
    """Every artifact's content; Hydra's own notes are the last command's, and nobody reads them."""
    files = (p for p in folder.rglob("*") if p.is_file() and ".hydra" not in p.parts)
    return {str(p.relative_to(folder)): file_hash(p) for p in sorted(files)}


def test_a_refused_command_leaves_an_earlier_run_whole(command_line, spine, one_step, tmp_path):
    out = shutil.copytree(one_step, tmp_path / "earlier")
    before, config = tree(out), Run.read(out).config
    bad_photos("text", tmp_path / "photos", spine)
    for arguments in (
        ("lr=-1",),
        ("lr=2e-3",),
        ("lerning_rate=1",),
        ("model.path=/absent/model",),
        (f"subject.photos='{tmp_path / 'photos'}'",),
    ):
        code, printed = command_line("max_steps=1", "ppl=false", *arguments, folder=out)
        assert code == 2 and sentence(printed)
        after = tree(out)
        assert {name: after.get(name) for name in before} == before, arguments
        assert Run.read(out).config == config, arguments
        assert read_runs(out)[0].settings == flat(config), arguments


def test_a_sweep_outlives_a_bad_run_and_lists_it(command_line, tmp_path):
    sweep = (f"hydra.sweep.dir='{tmp_path / 'sweep'}'", "hydra.sweep.subdir=${hydra.job.num}")
    code, printed = command_line("hydra.mode=MULTIRUN", "max_steps=1", "lr=1e-3,-1,1e-4", *sweep)
    assert code == 2 and printed.count("error: lr=-1 is not usable") == 1
    assert "1 of 3 runs of this sweep failed" in printed.splitlines()[-3]
    assert printed.splitlines()[-2].startswith("  lr=-1: lr=-1 is not usable")
    done = {p.parent.name for p in (tmp_path / "sweep").glob("*/run.json")}
    assert done == {"0", "2"}
    rows = {row["run"]: row for row in read_csv(tmp_path / "sweep/runs.csv")}
    assert rows["1"]["state"] == "failed" and "lr=-1 is not usable" in rows["1"]["reason"]
    assert rows["0"]["state"] == "finished" and set(rows) == {"0", "1", "2"}


def test_a_typo_is_refused_before_torch_is_loaded(tmp_path):
    command = [sys.executable, "-X", "importtime", str(ROOT / "train.py"), "lr=-1"]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2 and "error: lr=-1" in refused.stderr
    imported = {line.split("|")[-1].strip() for line in refused.stderr.splitlines()}
    assert "hydra" in imported
    assert not {"torch", "diffusers", "transformers", "PIL", "wandb"} & imported
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        (["a=b", "-m", "c=d"], ["--multirun", "a=b", "c=d"]),
        (["a=b", "--config-dir", "x=y", "c=d"], ["--config-dir=x=y", "a=b", "c=d"]),
        (["a=b", "-cd", "DIR", "-cn=mine", "c=d"], ["--config-name=mine", "--config-dir=DIR"]),
        (["a=b", "--info", "plugins", "c=d"], ["--info=plugins", "a=b", "c=d"]),
        (["a=b", "--cfg", "job", "-h", "~c"], ["--help", "--cfg=job", "a=b", "~c"]),
        (["+a={b: 1}", "-m"], ["--multirun", "+a={b: 1}"]),
    ],
)
def test_flags_may_stand_anywhere(typed, first):
    arguments = flags_first(parse(typed))
    assert arguments[: len(first)] == first and len(arguments) == len(set(arguments))
    assert parse(arguments) == parse(typed) == get_args_parser().parse_args(arguments)


def test_a_command_with_dry_run_false_keeps_its_records():
    for typed, quiet in ((["dry_run=true"], 2), (["dry_run=true", "dry_run=False"], 0), ([], 0)):
        assert len(without_traces(parse(typed)).overrides) - len(typed) == quiet


def test_a_sweep_flag_after_an_override_makes_a_sweep(command_line, tmp_path):
    sweep = (f"hydra.sweep.dir='{tmp_path / 'sweep'}'", "lr=-1,-2")
    code, printed = command_line("seed=0", "-m", *sweep)
    assert code == 2 and "2 of 2 runs of this sweep failed" in printed
    assert not (tmp_path / "sweep").exists()


def test_a_users_own_folder_is_read_like_ours(command_line, tmp_path):
    """`--config-dir=DIR`, Hydra's way for a user's files, and a misspelt name of theirs."""
    own = tmp_path / "own"
    for group, name, text in (
        ("experiment", "mine", "# @package _global_\nlr: -5"),
        ("subject", "rex", "{name: rex, class_noun: dog, live: true, photos: null, age: 7}"),
        ("presets", "fast", "# @package _global_\nlr: -6"),
    ):
        (own / group).mkdir(parents=True)
        (own / group / f"{name}.yaml").write_text(text)
    folder, path = f"--config-dir={own}", f"hydra.searchpath=[file://{own}]"
    for arguments, expected in (
        ((folder, "experiment=mine", "subject=rex"), "lr=-5 is not usable"),
        (("experiment=mine", "--config-dir", str(own)), "lr=-5 is not usable"),
        (("experiment=mine", path), "lr=-5 is not usable"),
        (("+presets=fast", path), "lr=-6 is not usable"),
        (("+presets=fast", folder), "lr=-6 is not usable"),
        (("experiment=mne", folder), r"did you mean experiment=mine\?"),
        (("subject=rx", path), r"did you mean subject=rex\?"),
        (("subject=rex", "subject.ag=1", folder), r"did you mean subject.age\?"),
        (("+presets=fast",), "There is no key presets"),
    ):
        # SMALL gives lr and the subject, and what comes last counts
        code, printed = command_line(*arguments, only=True)
        assert code == 2 and re.search(expected, sentence(printed)), (arguments, printed)


def test_a_refused_command_leaves_no_folder(command_line, spine, tmp_path):
    out = tmp_path / "new" / "out"
    for arguments in (("lr=-1",), ("model.path=/absent/model",)):
        code, printed = command_line(*arguments, folder=out)
        assert code == 2 and sentence(printed) and not (tmp_path / "new").exists()
    out.mkdir(parents=True)  # the user's own
    code, printed = command_line("lr=-1", folder=out)
    assert code == 2 and out.exists()


def test_a_bug_keeps_its_traceback_and_leaves_no_folder(command_line, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("dreambooth.training.job.run", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        command_line()
    assert not (tmp_path / "out").exists()


def test_an_exit_code_and_an_objective_are_told_apart():
    cfg = OmegaConf.create()
    assert run_job(lambda _: 0.25, cfg) == 0.25 and run_job(lambda _: 0.0, cfg) == 0.0
    assert run_job(lambda _: 0, cfg) is None and run_job(lambda _: None, cfg) is None
    with pytest.raises(SystemExit) as stopped:
        run_job(lambda _: 143, cfg)
    assert stopped.value.code == 143


def test_an_objective_is_the_runs_score(spine, encoders_dir, tmp_path):
    train = runpy.run_path(str(ROOT / "train.py"))["train"]
    evaluation = ("evaluation=quick", f"evaluation.encoders_dir='{encoders_dir}'")
    cfg = spine.compose(tmp_path, *evaluation, "max_steps=1", "objective=clip_t")
    value = train(cfg)
    scores = json.loads((tmp_path / "evaluation/quick/metrics.json").read_text())["scores"]
    (mean,) = (s["mean"] for s in scores.values() if s["metric"] == "CLIP-T class_only")
    assert isinstance(value, float) and value == mean


THREADS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": SPIN_COUNT}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"OMP_NUM_THREADS": "3"}, {"OMP_NUM_THREADS": "3", "GOMP_SPINCOUNT": SPIN_COUNT}),
    ],
)
def test_a_users_own_thread_settings_stay(monkeypatch, own, expected):
    monkeypatch.setattr(os, "environ", dict(own))
    prepare_environment()
    assert {name: os.environ[name] for name in THREADS if name in os.environ} == expected


def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path):
    """As soon as the first module of ours is being imported, and later as hydra is."""
    for module in ("dreambooth.errors", "hydra", "omegaconf"):
        code = (
            "import builtins, os, runpy, signal, sys\n"
            "real = builtins.__import__\n"
            "def stop(name, *rest):\n"
            f"    if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
            "    return real(name, *rest)\n"
            "builtins.__import__ = stop\n"
            f"sys.argv = ['train.py']\n"
            f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 130, done.stderr
        assert re.fullmatch(r"\s*Stopped\. The same command continues .*\s*", done.stderr)


@pytest.mark.parametrize("block", ["importing", "interruptible"])
def test_ctrl_c_ends_a_block(block):
    """An import ends at once, before a library could catch the exception."""
    code = (
        "import signal\n"
        f"from dreambooth.cli.interrupt import {block}\n"
        f"with {block}():\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    except KeyboardInterrupt as error:\n"
        f"        raise {'ImportError' if block == 'importing' else 'error'}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 130 and done.stderr.strip().count("\n") == 0, done.stderr


def test_importing_leaves_another_handler_alone():
    before = signal.getsignal(signal.SIGINT)
    for handler in (signal.SIG_IGN, signal.default_int_handler):
        signal.signal(signal.SIGINT, handler)
        try:
            with importing():
                own = signal.getsignal(signal.SIGINT)
            assert (own is handler) == (handler == signal.SIG_IGN)
            assert signal.getsignal(signal.SIGINT) is handler
        finally:
            signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_at_a_step(command_line, tmp_path, monkeypatch):
    """It arrives in the first micro-batch of the third step, and that step is finished.

    tests/training/test_safety.py holds that the same command goes on bit for bit.
    """
    step = DreamBooth.training_step

    def interrupted(self, batch, batch_idx):
        if batch_idx == 4:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    more = ("max_steps=500", "accumulate=2", "checkpoint.every_n_steps=1000")
    with monkeypatch.context() as patch:
        patch.setattr(DreamBooth, "training_step", interrupted)
        code, printed = command_line(*more, folder=tmp_path / "run")
    assert code == 130 and "Traceback" not in printed and "Stopped" in command_line.stdout
    assert checkpoint(tmp_path / "run")["global_step"] == 3

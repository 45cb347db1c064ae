"""Every file under conf/ composes, and every choice trains a step."""

from __future__ import annotations

import json
import os
from collections import Counter
from importlib import resources
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dreambooth.cli.configuration.configs import COMMANDS, CONF, files_of, groups_of, is_global
from dreambooth.cli.configuration.help import read_comments
from dreambooth.cli.drawing.axes import parse_axes
from dreambooth.cli.refusals import checks, command_checks, kinds
from dreambooth.cli.refusals.suggest import DIFFUSERS
from dreambooth.data.photos import list_photos
from dreambooth.data.prompts import fill
from dreambooth.pocket.embedded import rendered_photos
from dreambooth.training.resuming.fingerprint import flat
from spine import checkpoint

FILES = sorted(str(path.relative_to(CONF)) for path in CONF.rglob("*.yaml"))
COUNTS = {
    ".": 10,
    "evaluation": 5,
    "experiment": 18,
    "hydra/launcher": 2,
    "hydra/sweeper": 2,
    "logger": 3,
    "method": 12,
    "model": 8,
    "optimizer": 5,
    "preset": 8,
    "reuse": 2,
    "scheduler": 13,
    "subject": 33,
    "trainer": 7,
}
ALL = [file.removesuffix(".yaml").split("/") for file in FILES if file.count("/") == 1]
# presets belong to generate.py, and _files are parts of others
CHOICES = [(group, name) for group, name in ALL if group != "preset" and name[0] != "_"]
GROUPS = sorted({group for group, _ in CHOICES})
ON_THIS_CPU = ("trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32-true")


def choices(*groups: str) -> list[tuple[str, str]]:
    return [(group, name) for group, name in CHOICES if group in groups]


def composed(name: str, *overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(overrides))


def test_no_file_is_forgotten():
    counts = Counter(file.rpartition("/")[0] or "." for file in FILES)
    assert counts == COUNTS  # a new file is counted here, and then tested below


@pytest.mark.parametrize("name", COMMANDS)
def test_every_entry_composes(name):
    assert composed(name)


def test_every_file_at_the_top_is_a_command_or_shared_by_them():
    at_the_top = {f.removesuffix(".yaml") for f in FILES if "/" not in f}
    assert at_the_top == {*COMMANDS, "_command", "wandb_sweep"}  # the last is read by W&B


def test_every_key_is_explained():
    """A choice's key is explained in its own file, or in that of another choice of its group."""
    for command in COMMANDS:
        notes = read_comments(CONF / f"{command}.yaml").notes
        blocks = {key.rpartition(".")[0] for key in notes}
        skipped = blocks | {"defaults"}
        keys = [key for key in notes if key not in skipped and not key.startswith("hydra.")]
        assert len(keys) > 4 and [key for key in keys if not notes[key]] == []
    for group in set(groups_of("train")) - {"experiment"}:
        files = {path: read_comments(path) for path in files_of(group, [CONF])}
        explained = {k for each in files.values() for k, note in each.notes.items() if note}
        for path, comments in files.items():
            assert comments.description, path
            keys = {key.partition(".")[0] for key in comments.notes} - {"defaults"}
            blocks = {key.partition(".")[0] for key in explained}
            assert is_global(path) or keys <= blocks, path


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_composes_and_passes_the_checks(group, name, tmp_path):
    own = ["subject.photos=p", "subject.class_noun=dog"] if name == "folder" else []
    cfg = composed("train", f"{group}={name}", f"output_dir='{tmp_path}'", *own)
    checks.check(cfg)
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize("name", [name for group, name in ALL if group == "preset"])
def test_every_preset_draws_a_grid_or_a_film(name):
    description = read_comments(CONF / f"preset/{name}.yaml").description
    cfg = composed("generate", f"preset={name}", "run=r", "output_dir=out")
    command_checks.check_generate(cfg)
    axes = parse_axes(cfg.grid)
    names = {axis.name for axis in axes.values()}
    assert description and (cfg.morph.keyframes is not None) == (not axes)
    assert "prompt" in names or len(cfg.prompts) == 1
    assert all(fill(prompt.replace("{class_noun}", "dog"), "sks", "dog") for prompt in cfg.prompts)
    if "Pixels2GenAI" in description[0]:
        assert cfg.num_inference_steps == 30 and cfg.scheduler.name == "DPMSolverMultistepScheduler"


def test_the_subjects_are_the_datasets():
    manifest = resources.files("dreambooth.data") / "dataset_manifest.json"
    paths = [entry["path"].split("/") for entry in json.loads(manifest.read_text())["files"]]
    dataset = {parts[1] for parts in paths if len(parts) == 3}
    assert len(dataset) == 30
    files = {name: OmegaConf.load(CONF / f"subject/{name}.yaml") for _, name in choices("subject")}
    assert set(files) == dataset | {"fabric", "world", "folder"}
    assert all(cfg.name == name for name, cfg in files.items())
    for name, cfg in files.items():
        assert isinstance(cfg.live, bool)
        assert set(cfg) == {"name", "class_noun", "live", "photos"} | (
            {"identity"} if name == "world" else set()
        )


def own(group: str, name: str) -> tuple[str, ...]:
    """What a choice needs on the tiny model, on this machine, in a second."""
    if group == "trainer":
        several = name in ("ddp", "fsdp")
        return (*ON_THIS_CPU, "trainer.strategy=auto") if several else ON_THIS_CPU
    if group == "experiment":  # SMALL comes before presets, so what is large is set again
        return "batch_size=2", "prior.num_class_images=3", "prior.num_inference_steps=2"
    if group == "evaluation":
        return "evaluation.images_per_prompt=2", "evaluation.class_images=2"
    if group == "subject" and name != "folder":  # the embedded world's photos, under its own words
        noun = OmegaConf.load(CONF / f"subject/{name}.yaml").class_noun
        photos = "subject.photos=null", "photos.root=null", "photos.rendered=2"
        photos = photos if name != "fabric" else ()  # which the world does not hold
        return f"subject.class_noun='{noun}'", "ppl=false", *photos
    if name in TWO_PHASES:
        return ("method.token_max_steps=1",)
    return ()


TWO_PHASES = ("ti_then_full", "pivotal_tuning")
# every kind of subject; the others differ from `dog` in words alone, which the next test holds
TRAINED_SUBJECTS = ("dog", "bear_plushie", "fabric", "folder", "world")
TRAINED = [c for c in choices(*GROUPS) if c[0] != "subject" or c[1] in TRAINED_SUBJECTS]
FLOW = (
    "pocket_flow",
    "sd35_medium",
    "parity_diffusers_sd3",
    "flow_euler",
    "flow_heun",
    "flow_dpmpp_2m",
    "flow_unipc",
)


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(("group", "name"), TRAINED)
def test_every_choice_trains_a_step(request, encoders_dir, tmp_path, monkeypatch, group, name):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    kind = "sd3_spine" if name in FLOW else "flux2_spine" if "flux2" in name else "spine"
    spine = request.getfixturevalue(kind)
    more = own(group, name)
    if group == "evaluation":
        more += (f"evaluation.encoders_dir='{encoders_dir}'",)
    out = spine.run(tmp_path, f"{group}={name}", "max_steps=1", *more)
    assert checkpoint(out, phase=int(name in TWO_PHASES))["global_step"] == 1
    assert (out / "samples/final.png").exists()
    assert any((out / "model").iterdir())
    scored = {path.parent.name for path in (out / "evaluation").glob("*/scores.csv")}
    assert scored == ({name} if group == "evaluation" and name != "none" else set())


WORDS = {
    "subject.name",
    "subject.class_noun",
    "subject.live",
    "method.subject_phrase",
    "subject_phrase",
    "instance_prompt",
    "class_prompt",
    "samples.prompts",
}
UNTRAINED = [name for _, name in choices("subject") if name not in TRAINED_SUBJECTS]


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("name", UNTRAINED)
def test_every_other_subject_is_the_dog_in_other_words_and_is_rendered(name, tmp_path):
    cfg, dog = (composed("train", f"subject={n}", "output_dir=out") for n in (name, "dog"))
    a, b = (flat(OmegaConf.to_container(c, resolve=True)) for c in (cfg, dog))
    assert a.keys() == b.keys()
    assert {key for key in a if a[key] != b[key]} <= WORDS
    assert name == cfg.subject.name and cfg.subject.class_noun in cfg.instance_prompt
    folder = rendered_photos(cfg.subject.class_noun, name, 2, tmp_path)
    assert len(list_photos(folder)) == 2


@pytest.mark.slow
@pytest.mark.thorough
def test_every_identity_of_the_world_is_another_subject(spine, tmp_path):
    """Also where a copy of the dataset lies ready, in which there is no such subject."""
    (tmp_path / "dataset/dog").mkdir(parents=True)
    photos = {}
    for identity in (0, 7):
        more = f"subject.identity={identity}", f"photos.root='{tmp_path / 'dataset'}'"
        out = tmp_path / str(identity)
        spine.run(out, "subject=world", "max_steps=1", *own("subject", "world"), *more)
        record = json.loads((out / "run.json").read_text())
        (folder,) = (spine.cache / "rendered").glob(f"{record['subject']['name']}-????????????????")
        photos[record["subject"]["name"]] = (folder / "00.png").read_bytes()
    assert set(photos) == {"world", "world-7"} and photos["world"] != photos["world-7"]


@pytest.mark.parametrize(("group", "name"), choices("trainer"))
def test_trainers_are_real_trainers(group, name, tmp_path):
    cfg = composed("train", f"{group}={name}", *ON_THIS_CPU, f"output_dir='{tmp_path}'")
    more = {"strategy": "auto"} if name in ("ddp", "fsdp") else {}
    trainer = instantiate(cfg.trainer, logger=False, enable_checkpointing=False, **more)
    assert trainer.log_every_n_steps == 10


def test_the_checks_name_keys_that_exist(tmp_path):
    cfg = composed("train", f"output_dir='{tmp_path}'")
    tables = (
        kinds.POSITIVE,
        kinds.NOT_NEGATIVE,
        kinds.WHOLE,
        kinds.SWITCHES,
        kinds.CHOICES,
        kinds.OPTIONAL,
        kinds.LISTS,
        kinds.TEXTS,
        DIFFUSERS.values(),
    )
    keys = {key for table in tables for key in table}
    assert len(keys) > 30
    for key in keys:
        parent, _, last = key.rpartition(".")
        assert last in (OmegaConf.select(cfg, parent) if parent else cfg), key


@pytest.mark.thorough
def test_the_agent_of_a_wandb_sweep_starts_runs_that_compose(tmp_path, monkeypatch):
    """W&B's own agent writes the command line; the process is not started."""
    from wandb import wandb_agent

    started: list[list[str]] = []

    def started_with(env, command, **_) -> SimpleNamespace:
        started.append(command)
        return SimpleNamespace()

    monkeypatch.setattr(wandb_agent, "AgentProcess", started_with)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_RUN_ID", "")
    sweep: Any = OmegaConf.to_container(OmegaConf.load(CONF / "wandb_sweep.yaml"), resolve=False)
    agent = wandb_agent.Agent.__new__(wandb_agent.Agent)
    agent._sweep_command, agent._in_jupyter, agent._function = sweep["command"], False, None
    agent._forward_signals, agent._run_processes = False, {}
    chosen = {"lr": 1.5e-05, "max_steps": 200, "ppl": False}
    assert set(chosen) == set(sweep["parameters"])
    args = {key: {"value": value} for key, value in chosen.items()}
    with mock.patch.dict(os.environ):  # the agent leaves its parameters there
        agent._command_run({"run_id": "abc", "program": sweep["program"], "args": args})
        (command,) = started
        assert command[:3] == ["/usr/bin/env", "python", "train.py"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", [*command[3:], "output_dir=out"], return_hydra_config=True)
        assert cfg.hydra.run.dir == "outputs/sweep/abc" and cfg.logger.wandb
    assert {key: cfg[key] for key in chosen} == chosen
    checks.check(cfg)
    # the metric of the sweep is one that such a run logs
    assert sweep["metric"]["name"] == "curve/harmonic_mean" and cfg.evaluation.every_n_steps


ELSEWHERE = {"constant", "linear", "cosine"}  # in tests of resuming


@pytest.mark.slow
@pytest.mark.parametrize("schedule", sorted(set(kinds.CHOICES["lr_schedule"]) - ELSEWHERE))
def test_every_schedule_trains(spine, tmp_path, schedule):
    out = spine.run(tmp_path, f"lr_schedule={schedule}", "lr_warmup_steps=1", "ppl=false")
    assert checkpoint(out)["global_step"] == 2

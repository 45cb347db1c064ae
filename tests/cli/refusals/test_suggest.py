"""What is suggested for a key or a choice that does not exist."""

from __future__ import annotations

import pytest

from dreambooth.cli.configuration.configs import COMMANDS, CONF, groups_of, keys_of, search_folders
from dreambooth.cli.refusals.checks import check_added
from dreambooth.cli.refusals.suggest import no_choice, no_key
from dreambooth.errors import UserError


@pytest.mark.parametrize(
    ("command", "key", "expected"),
    [
        ("train", "lerning_rate", "There is no key lerning_rate: did you mean lr?"),
        ("train", "num_class_images", "did you mean prior.num_class_images?"),
        ("train", "zzz", "There is no key zzz: --help lists every key."),
        ("train", "run", "run: it belongs to generate, evaluate, extract and merge."),
        (
            "generate",
            "model.path",
            "needs a choice of model: give model=NAME too; --help lists them.",
        ),
        ("generate", "method", "generate has no key method: it belongs to train."),
        ("generate", "learning_rate", "generate has no key learning_rate: lr belongs to train."),
        ("generate", "gidance_scale", "did you mean guidance_scale?"),
        ("generate", "scheduler.nme", "did you mean scheduler.name?"),
        ("report", "images", "report has no key images: it belongs to evaluate and tokens."),
        ("evaluate", "trainer", "evaluate has no key trainer: it belongs to train."),
        ("pretrain", "vae.chanels", "did you mean vae.channels?"),
        ("train", "steps", "did you mean max_steps?"),
        ("generate", "steps", "did you mean num_inference_steps?"),
        ("train", "rank", "did you mean method.adapter.r?"),
        ("train", "device", "did you mean trainer?"),
        ("tokens", "class", "did you mean class_noun?"),
        ("train", "method.lora.rank", "did you mean method.adapter.r?"),
    ],
)
def test_a_key(command, key, expected):
    assert no_key(command, key, [CONF]).endswith(expected)


@pytest.mark.slow
def test_only_keys_that_the_command_has_are_suggested():
    for command in COMMANDS:
        own = keys_of(command, [CONF])
        for key in ("model.pth", "lora.rnk", "sed", "encoder", "prior", "vae", "max_step"):
            text = no_key(command, key, [CONF])
            if "did you mean" in text:
                assert text.partition("did you mean ")[2].removesuffix("?") in own


def test_a_choice():
    names = ["ddim", "pndm", "_base"]
    assert no_choice("scheduler", "dimm", names) == (
        "scheduler=dimm does not exist: did you mean scheduler=ddim?"
    )
    assert no_choice("scheduler", "zzz", names).endswith("choose ddim, pndm.")
    assert no_choice("scheduler", "_bas", names).endswith("choose ddim, pndm.")
    assert "subject=folder subject.photos=DIR" in no_choice("subject", "dgo", ["dog"])


@pytest.mark.parametrize(
    ("command", "override", "expected"),
    [
        ("train", "+max_step=1", "did you mean max_steps"),
        ("train", "++prior.wieght=2", "did you mean prior.weight"),
        ("train", "+method.lora.use_dora=true", "did you mean method.adapter.use_dora"),
        ("train", "+method.lora.rank=16", "did you mean method.adapter.r[?]"),
        ("train", "+method.rank=16", "did you mean method.adapter.r[?]"),
        ("generate", "+method=lora", "it belongs to train"),
        ("generate", "+method.name=DIR", "it belongs to train"),
        ("generate", "+lr=1", "it belongs to train"),
        ("evaluate", "+method@photos=lora", "There is no key"),
        ("report", "+scheduler=ddim", "it belongs to train, generate, evaluate and tokens"),
    ],
)
def test_an_added_key_that_nothing_reads_is_refused(command, override, expected):
    with pytest.raises(UserError, match=expected):
        check_added(command, [override], [CONF])


@pytest.mark.parametrize(
    ("command", "override"),
    [
        ("train", "+scheduler.options.beta_start=0.01"),
        ("train", "+trainer.profiler=simple"),
        ("train", "+method.adapter.use_rslora=true"),
        ("train", "+experiment=parity_diffusers"),
        ("train", "+hydra.job.env_set.A=1"),
        ("train", "++lr=1"),
        ("train", "zzz=1"),  # Hydra refuses it
        ("generate", "+scheduler=ddim"),
        ("evaluate", "+evaluation.note=x"),
    ],
)
def test_options_of_a_commands_groups_are_open(command, override):
    check_added(command, [override], [CONF])


def test_a_users_folders_are_searched(tmp_path):
    own, listed = tmp_path / "own", f"hydra.searchpath=[pkg://json,{tmp_path},file://{tmp_path}]"
    folders = search_folders(str(own), ["lr=1", listed])
    assert folders[:2] == [own, CONF] and folders[3:] == [tmp_path, tmp_path]
    assert (folders[2] / "decoder.py").exists()
    assert search_folders(None, ["hydra.searchpath=[pkg://no_such_package]"]) == [CONF]
    assert search_folders(None, ["hydra.searchpath=null"]) == [CONF]


def test_the_groups_of_a_command():
    assert groups_of("evaluate") == ["evaluation", "model", "subject", "scheduler"]
    assert groups_of("pretrain") == []
    assert "experiment" in groups_of("train")
    keys = keys_of("train", [CONF])
    assert {"lr", "subject", "method.adapter.r", "hydra.run.dir", "subject.identity"} <= keys
    # a preset sets keys of the whole configuration
    assert not any(key.startswith(("experiment.", "trainer.frozen_dtype")) for key in keys)
    assert not any("defaults" in key for key in keys)

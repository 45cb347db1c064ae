"""What weights depend on: every key lies on one side, and moving it does what its side says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dreambooth.cli.configuration.configs import CONF
from dreambooth.training.resuming.fingerprint import (
    CONTENT,
    NEITHER,
    RESULTS,
    WEIGHTS,
    code_of,
    facts_of,
    facts_of_phases,
    is_under,
    rounding_facts,
)

TABLES = {"weights": WEIGHTS, "content": CONTENT, "results": RESULTS, "neither": NEITHER}
NAMES = [name for table in TABLES.values() for name in table]
FEW = {"subject": ("dog", "folder", "world")}  # the others have the same keys


def leaves(value: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of a configuration's values; an empty block is a value."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix(".")


def every_choice() -> Iterator[str]:
    """`group=choice` for the choices of every group that train.yaml reads."""
    defaults = OmegaConf.load(CONF / "train.yaml").defaults
    for group in [key for entry in defaults if isinstance(entry, Mapping) for key in entry]:
        names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        for name in FEW.get(group, names):
            yield f"{group}={name}"


@pytest.fixture(scope="module")
def keys() -> set[str]:
    """Every key that a run's configuration can have."""
    found: set[str] = set()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for choice in (choices := list(every_choice())):
            cfg = compose("train", [choice, "output_dir=out", "subject.class_noun=dog"])
            found.update(leaves(OmegaConf.to_container(cfg, resolve=False)))
    assert len(choices) > 20
    return found


@pytest.mark.slow
@pytest.mark.thorough
def test_every_key_lies_on_exactly_one_side(keys):
    """By the longest name that it is under; no name is in two tables."""
    assert len(NAMES) == len(set(NAMES))
    sides = {}
    for key in keys:
        names = [name for name in NAMES if is_under(key, [name])]
        longest = max(names, key=len, default=None)
        sides[key] = [side for side, table in TABLES.items() if longest in table]
    assert {key: side for key, side in sides.items() if len(side) != 1} == {}
    assert {s for (s,) in sides.values()} == set(TABLES)
    for key, side in (
        ("lr", "weights"),
        ("optimizer.betas", "weights"),
        ("trainer.precision", "weights"),
        ("trainer.accelerator", "results"),
        ("method.adapter.r", "content"),
        ("sampling.dtype", "content"),
        ("scheduler.options", "results"),
        ("checkpoint.best", "results"),
        ("checkpoint.patience", "content"),
        ("checkpoint.keep", "neither"),
        ("samples.seeds", "neither"),
    ):
        assert sides[key] == [side], key


@pytest.mark.slow
@pytest.mark.thorough
def test_no_name_is_without_a_key(keys):
    assert [name for name in NAMES if not any(is_under(key, [name]) for key in keys)] == []


def test_a_name_is_a_whole_word():
    assert is_under("prior.weight", ["prior"]) and is_under("prior", ["prior"])
    assert not is_under("priority", ["prior"]) and not is_under("prior", ["prior.weight"])


def facts(spine, out: Path, *overrides: str, prior: str | None = None) -> list[dict]:
    """The facts of every phase of a run with these overrides, all networks and photos alike."""
    spec = spine.spec(out, *overrides)
    model = SimpleNamespace(weights_hash=lambda: "the base")
    batches = SimpleNamespace(
        prior=SimpleNamespace(key=prior), instance=SimpleNamespace(prompts=("a sks dog",))
    )
    return facts_of_phases(spec, facts_of(spec, model, sorted(spine.photos.iterdir()), batches))


CHANGES_WEIGHTS = {
    "seed": ("seed=1",),
    "ppl": ("ppl=false",),
    "lr": ("lr=2e-3",),
    "train_text_encoder": ("train_text_encoder=true",),
    "text_encoder_lr": ("text_encoder_lr=1e-6",),
    "text_encoder_stop_step": ("text_encoder_stop_step=1",),
    "loraplus_lr_ratio": ("method=lora", "loraplus_lr_ratio=2"),
    "instance_prompt": ("instance_prompt='my dog'",),
    "class_prompt": ("class_prompt='my dog'",),
    "resolution": ("resolution=24",),
    "augment": ("augment.flip=true",),
    "batch_size": ("batch_size=2",),
    "accumulate": ("accumulate=2",),
    "pairing": ("pairing=diffusers",),
    "prior": ("prior.weight=0.5",),
    "loss": ("loss.min_snr_gamma=5",),
    "lr_schedule": ("lr_schedule=cosine",),
    "lr_warmup_steps": ("lr_schedule=constant_with_warmup", "lr_warmup_steps=1"),
    "max_grad_norm": ("max_grad_norm=2",),
    "ema_decay": ("ema_decay=0.5",),
    "optimizer": ("optimizer.eps=1e-6",),
    "frozen_dtype": ("frozen_dtype=bfloat16",),
    "model.quantize": ("method=lora", "model.quantize=8bit"),
    "trainer.precision": ("trainer.precision=bf16-mixed",),
    "trainer.devices": ("trainer.devices=2",),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHTS)
def test_what_weights_depend_on_is_a_fact(spine, tmp_path, name, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)  # for two devices
    (before,) = facts(spine, tmp_path)
    (after,) = facts(spine, tmp_path, *CHANGES_WEIGHTS[name])
    assert before[name] != after[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "fact"),
    [
        ("method=lora", "phase"),
        ("method=lora", "method"),
        ("method=textual_inversion", "phase"),
        ("method=custom_diffusion", "phase"),
        ("lr_schedule=linear", "max_steps"),
        ("prior.weight_schedule=linear", "max_steps"),
    ],
)
def test_what_weights_depend_on_by_content_is_a_fact(spine, tmp_path, override, fact):
    (before,), (after,) = facts(spine, tmp_path), facts(spine, tmp_path, override)
    assert before.get(fact) != after[fact]


def test_class_images_count_by_their_content(spine, tmp_path):
    (a,), (b,) = facts(spine, tmp_path, prior="a"), facts(spine, tmp_path, prior="b")
    assert {key for key in a if a[key] != b[key]} == {"class_images"}


CHANGES_NO_WEIGHT = {
    "identifier": ("identifier=wug",),
    "subject_phrase": ("subject_phrase='my dog'",),
    "scheduler": ("scheduler=pndm",),
    "sampling": ("sampling.guidance_scale=2",),
    "checkpoint.best": ("checkpoint.best=harmonic", "evaluation.every_n_steps=1"),
    "checkpoint.patience": ("checkpoint.patience=2", "evaluation.every_n_steps=1"),
    "gradient_checkpointing": ("gradient_checkpointing=true",),
    "offload": ("offload=true",),
    "compile": ("compile=true",),
    "trainer": ("+trainer.benchmark=true",),
    "output_dir": ("output_dir=elsewhere",),
    "cache_dir": ("cache_dir=elsewhere",),
    "logger": ("logger=wandb",),
    "resume": ("resume=null",),
    "reuse": ("reuse=on",),
    "published": ("published={title: a study}",),
    "dry_run": ("dry_run=true",),
    "resume_sweep": ("resume_sweep=earlier",),
    "evaluation": ("evaluation=paper",),
    "samples": ("samples.seeds=[3,4]",),
    "checkpoint.every_n_steps": ("checkpoint.every_n_steps=7",),
    "checkpoint.keep": ("checkpoint.keep=9",),
    "checkpoint.keep_when_finished": ("checkpoint.keep_when_finished=0",),
    "export": ("export.dtype=float16",),
    "export.layouts": ("export.layouts=[diffusers,single_file]", "method=full"),
    "export.verify": ("export.verify=true",),
    "export.push_to_hub": ("export.push_to_hub=me/dog",),
    "trainer.log_every_n_steps": ("trainer.log_every_n_steps=3",),
    "max_steps": ("max_steps=9",),  # more steps continue a constant rate
    "subject": ("subject.live=false",),
    "model": ("model.name=other",),
    "method": ("method.name=full", "method.uses_prior=true"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES_NO_WEIGHT)
def test_nothing_else_is_a_fact(spine, tmp_path, name, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a token")  # without it the hub is refused
    prompt = "instance_prompt='a sks dog'"  # which names the subject by default
    plain = facts(spine, tmp_path, prompt)
    assert facts(spine, tmp_path, prompt, *CHANGES_NO_WEIGHT[name]) == plain


def test_every_other_name_is_moved_by_a_test():
    """`objective` is read by the command line alone, when the run has ended."""
    assert set(CHANGES_NO_WEIGHT) >= {*RESULTS, *NEITHER} - {"objective"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("used", "unused"),
    [
        (("ppl=false",), ("prior.num_inference_steps=7", "prior.weight=2", "class_prompt=pet")),
        (("method=textual_inversion",), ("ppl=false", "prior.seed=3")),
        (("prior.kind=prediction",), ("prior.num_inference_steps=7", "prior.seed=3")),
        (("prior.images_dir=DIR",), ("prior.images_dir=OTHER", "prior.weight_end=0.5")),
    ],
)
def test_of_the_prior_what_is_not_used_is_no_fact(spine, tmp_path, used, unused):
    """The user's own images count by their content, `class_images`."""
    plain = facts(spine, tmp_path, *used, prior="a")
    assert facts(spine, tmp_path, *used, *unused, prior="a") == plain


def test_a_later_phase_depends_on_the_earlier_ones(spine, tmp_path):
    steps = "model.recommended.textual_inversion.max_steps"
    two = [facts(spine, tmp_path, "method=ti_then_full", f"{steps}={n}") for n in (2, 3)]
    assert two[0][0] == two[1][0]  # more steps continue the first phase
    differing = {key for key in two[0][1] if two[0][1][key] != two[1][1][key]}
    assert differing == {"phase_0"}


@pytest.mark.slow
def test_what_is_taken_over_agrees_in_the_last_bits_too(spine, tmp_path, monkeypatch):
    def rounding(
        *overrides: str, captions: tuple[str, ...] = ("a dog", "a cat"), content: str = "x"
    ) -> dict:
        examples = SimpleNamespace(key="latents", content=content, prompts=captions)
        batches = SimpleNamespace(instance=examples, prior=None)
        return rounding_facts(spine.spec(tmp_path, *overrides), batches)

    def differing(other: dict) -> set[str]:
        return {key for key in before if before[key] != other[key]}

    before = rounding()
    for overrides, differs in (
        (("gradient_checkpointing=true",), {"gradient_checkpointing"}),
        (("compile=true",), {"compile"}),
        (("+trainer.benchmark=true",), {"trainer"}),
        (("trainer.log_every_n_steps=3", "scheduler=pndm", "max_steps=9"), set()),
    ):
        assert differing(rounding(*overrides)) == differs
    assert differing(rounding(captions=("a cat", "a dog"))) == {"examples"}
    assert differing(rounding(content="drawn again")) == {"examples"}
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    assert differing(rounding()) == {"threads"}
    assert None not in before["versions"].values() and len(before["code"]) == 16
    assert before["optimizer"] == before["versions"]["torch"]


def test_a_users_own_optimizer_counts_by_its_code(tmp_path, monkeypatch):
    """Weights that an earlier version of it has trained are not taken over."""
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for text in ("lr = 1", "lr = 2", "lr = 2"):
        (tmp_path / "my_optimizer.py").write_text(text)
        found.append(code_of("my_optimizer.Adam"))
    assert found[0] != found[1] == found[2]

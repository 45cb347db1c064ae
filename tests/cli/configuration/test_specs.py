"""A configuration becomes typed values, or is refused by key before any work."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from dreambooth.cli.configuration.factories import (
    check_schedule,
    optimizer_factory,
    trainer_factory,
)
from dreambooth.cli.configuration.hardware import STARTED_BY
from dreambooth.cli.configuration.specs import report_spec
from dreambooth.cli.main import CONF
from dreambooth.cli.refusals.kinds import CHOICES
from dreambooth.errors import UserError
from dreambooth.evaluation.curve import METRICS
from dreambooth.model.phases import Phase

ONE_PHASE = "method.phases=[{unet: %s, text_encoder: frozen, lr: 1e-3, max_steps: 2}]"
# overrides, separated by bars: what the one sentence says
REFUSED = {
    "method=lora | method.adapter.r=0": r"method\.adapter\.r=0 must be a whole number",
    "method=lora | method.adapter.r=1.5": r"method\.adapter\.r=1.5 must be a whole number",
    "method=lora | method.adapter.r=abc": r"method\.adapter\.r=abc must be a whole number",
    "method=lora | method.adapter.lora_dropout=2": r"method\.adapter\.lora_dropout=2",
    "method=lora | method.adapter.target_modules=[]": r"method\.adapter\.target_modules",
    "method=lora | +method.adapter.use_dra=true": r"no field use_dra: did you mean.*use_dora",
    "method=loha | method.adapter._target_=peft.LoHConfig": r"did you mean peft\.LoHaConfig",
    "method=lora | +method.adapter.use_dora=7": r"method\.adapter\.use_dora=7.*bool",
    "method=full | loraplus_lr_ratio=16": r"loraplus_lr_ratio=16.*method=lora",
    "method=lokr | loraplus_lr_ratio=16": r"loraplus_lr_ratio=16.*method=lora",
    "method=textual_inversion | +method.token.template=style": r"did you mean.*token\.templates",
    "method=textual_inversion | method.token.num_vectors=0": r"method\.token.*vectors",
    "method=textual_inversion | method.token.token='a b'": r"method\.token.*one word",
    "method.phases=[]": r"method\.phases is empty",
    "method.phases=[{unet: full}]": r"method\.phases\[0\] must hold .*max_steps",
    ONE_PHASE % "half": r"method\.phases\[0\].*unet=half.*frozen, full, adapter",
    ONE_PHASE % "frozen": r"method\.phases\[0\].*trains nothing",
    ONE_PHASE % "adapter": r"method\.phases\[0\] trains adapter.*method\.adapter",
    "method=ti_then_full | model.recommended.textual_inversion.max_steps=0": (
        r"method\.phases\[0\]\.max_steps=0"
    ),
    "method=ti_then_full | model.recommended.textual_inversion.lr=-1": (
        r"method\.phases\[0\]\.lr=-1"
    ),
    "optimizer.betas=[2,3]": r"^optimizer\.betas=\[2, 3\] .*two numbers",
    "optimizer.betas=null": r"^optimizer\.betas=None .*two numbers",
    "optimizer.eps=-1": r"^optimizer\.eps=-1 .*0 or greater",
    "optimizer=adafactor | optimizer.eps=[0,-1]": r"^optimizer\.eps=\[0, -1\] .*0 or greater",
    "optimizer=lion | optimizer.weight_decay=nan": r"^optimizer\.weight_decay=nan .*finite",
    "+optimizer.beta=1": r"^AdamW has no option optimizer\.beta: did you mean optimizer\.betas\?",
    "optimizer=prodigy | text_encoder_lr=0.5": "^text_encoder_lr=0.5 .*prodigy.*null",
    "optimizer._target_=torch.optim.Adum": r"optimizer\._target_=torch\.optim\.Adum.*optimizer=",
    "optimizer._target_=nowhere.Adam": r"optimizer\._target_=nowhere\.Adam cannot be imported",
    "lr_schedule=cosin": "lr_schedule must be one of constant, .*cosine",
    "scheduler.name=DDIMSchedular": r"scheduler\.name.*did you mean DDIMScheduler\?",
    "+scheduler.options.typo=1": "scheduler.*DDIMScheduler has no option typo",
    "sampling.num_inference_steps=2000": "scheduler.*num_inference_steps=2000",
    "prior.sampler={name: Euler, options: {}}": r"prior\.sampler\.name.*no sampler Euler",
    "prior.sampler={name: Euler, options: {}} | ppl=false": r"prior\.sampler\.name.*Euler",
    "evaluation=quick | evaluation.encoders=[pocket,dinov9]": r"evaluation\.encoders: dinov9",
    "evaluation=quick | evaluation.metrics=[fid]": r"evaluation\.metrics: fid",
    "evaluation=quick | evaluation.prompts=few": "evaluation.*few.*paper, cornell, recontext",
    "evaluation=quick | +evaluation.imges=3": "evaluation.*imges",
    "evaluation.every_n_steps=1 | evaluation.encoders=dinov9": r"evaluation\.encoders: dinov9",
    "evaluation.every_n_steps=1 | evaluation.curve.prompts=few": r"evaluation\.curve.*few",
    "evaluation.every_n_steps=1.5": r"evaluation\.every_n_steps=1\.5",
    "checkpoint.best=max": r"checkpoint\.best=max",
    "checkpoint.patience=2": r"checkpoint\.patience needs .*evaluation\.every_n_steps",
    "checkpoint.best=harmonic": r"checkpoint\.best needs .*evaluation\.every_n_steps",
    "trainer.devices=two": r"^trainer cannot be set up: .*devices.*trainer\.\*",
    "trainer._target_=builtins.dict": "^trainer cannot be set up: builtins.dict makes no Trainer",
    "+trainer.strategy=two": "^trainer cannot be set up: .*strategy",
    "samples.prompts=['a {subjet}']": r"samples\.prompts.*\{subject\}",
    "resume=absent.ckpt": r"absent\.ckpt does not exist: give resume",
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", REFUSED)
def test_what_no_run_could_use_is_refused_before_any_work(spine, tmp_path, arguments):
    cache, out = tmp_path / "cache", tmp_path / "out"
    with pytest.raises(UserError) as caught:
        spine.run(out, f"cache_dir='{cache}'", *arguments.split(" | "))
    text = str(caught.value)
    assert re.search(REFUSED[arguments], text), text
    assert "\n" not in text and text.endswith((".", "?"))
    assert not cache.exists() and not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_a_gpu_that_is_not_there_is_named(spine, tmp_path):
    with pytest.raises(UserError, match=r"trainer\.accelerator=gpu needs a GPU.*trainer=cpu"):
        spine.spec(tmp_path, "trainer.accelerator=gpu")


def test_an_optimizer_whose_package_is_missing_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    block = {"_target_": "bitsandbytes.optim.AdamW8bit", "_partial_": True}
    with pytest.raises(UserError, match="AdamW8bit cannot be imported: install its package, or"):
        optimizer_factory(block, 1e-3, "32-true")


@pytest.mark.parametrize("name", CHOICES["lr_schedule"])
def test_every_schedule_of_the_checks_can_be_made(name):
    check_schedule(name, warmup_steps=1, max_steps=4)


def test_a_schedule_that_the_checks_do_not_know_is_refused():
    with pytest.raises(UserError, match="lr_schedule=bent cannot be set up: .*use one of constant"):
        check_schedule("bent", warmup_steps=0, max_steps=4)


def test_trying_a_trainer_makes_one_without_files_or_loggers(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    block = {"_target_": "pytorch_lightning.Trainer", "accelerator": "cpu", "devices": 1}
    trainer = trainer_factory(block)(max_steps=3, logger=False, enable_checkpointing=False)
    assert trainer.max_steps == 3 and not list(tmp_path.iterdir())
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


DTYPES = {"32-true": "float32", "bf16-mixed": "bfloat16", "16-mixed": "float16"}


@pytest.mark.parametrize("precision", DTYPES)
def test_everything_is_drawn_in_the_precision_of_training(spine, tmp_path, precision):
    spec = spine.spec(tmp_path, f"trainer.precision={precision}")
    drawn = (spec.sampling, spec.prior.sampling, spec.samples.set.sampling)
    assert [sampling.dtype for sampling in drawn] == [DTYPES[precision]] * 3
    assert spec.sampling.facts["dtype"] == DTYPES[precision]
    own = spine.spec(tmp_path, f"trainer.precision={precision}", "sampling.dtype=float32")
    assert own.sampling.dtype == own.prior.sampling.dtype == "float32"


def test_the_16_gb_preset_draws_class_images_samples_and_scores_in_float16(spine, tmp_path):
    preset = ("trainer=t4_16gb", "trainer.accelerator=cpu", "evaluation=quick")
    assert spine.compose(tmp_path, *preset).frozen_dtype == "float16"
    with pytest.raises(UserError, match="frozen_dtype=float16 cannot be used .* on a CPU"):
        spine.spec(tmp_path, *preset)
    spec = spine.spec(tmp_path, *preset, "frozen_dtype=bfloat16")
    assert spec.hardware.frozen_dtype == "bfloat16" and spec.hardware.gradient_checkpointing
    assert spec.prior.sampling.dtype == spec.samples.set.sampling.dtype == "float16"
    assert spec.sampling.dtype == "float16" and spec.evaluation is not None
    assert spec.config["optimizer"]["_target_"].startswith("bitsandbytes.")


def test_a_fused_optimizer_is_not_used_with_loss_scaling(spine, tmp_path):
    for precision, fused in (("32-true", True), ("bf16-mixed", True), ("16-mixed", False)):
        spec = spine.spec(tmp_path, f"trainer.precision={precision}")
        optimizer = spec.optimizer.factory([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        assert optimizer.defaults["fused"] is fused and optimizer.defaults["lr"] == 0.5
        assert spec.config["optimizer"]["fused"] is True  # as the user wrote it


def test_phases_are_typed(spine, tmp_path):
    steps = "model.recommended.textual_inversion.max_steps=7"
    overrides = ("method=ti_then_full", steps, "lr=0.5", "max_steps=3", "train_text_encoder=true")
    method = spine.spec(tmp_path, *overrides).method
    assert [p.parts for p in method.phases] == [Phase("frozen", "token"), Phase("full", "full")]
    assert [p.max_steps for p in method.phases] == [7, 3] and method.phases[1].lr == 0.5
    assert [method.steps_before(i) for i in range(3)] == [0, 7, 10]
    assert method.export == "full" and method.token.token == "<photos>" and method.adapter is None


@pytest.mark.parametrize(
    ("overrides", "export", "has_prior"),
    [
        ((), "full", True),
        (("ppl=false",), "full", False),
        (("method=lora",), "lora", True),
        (("method=textual_inversion",), "token", False),
    ],
)
def test_a_method_says_what_it_exports_and_whether_class_images_serve(
    spine, tmp_path, overrides, export, has_prior
):
    spec = spine.spec(tmp_path, *overrides)
    assert spec.method.export == export and (spec.prior is not None) == has_prior


def test_samplers_of_class_images_and_of_samples_are_apart(spine, tmp_path):
    own = ("scheduler=euler", "prior.num_inference_steps=5", "prior.guidance_scale=2")
    spec = spine.spec(tmp_path, *own, "sampling.guidance_scale=4")
    assert (spec.sampling.scheduler, spec.prior.sampling.scheduler) == (
        "EulerDiscreteScheduler",
        "DDIMScheduler",
    )
    assert (spec.sampling.num_inference_steps, spec.prior.sampling.num_inference_steps) == (2, 5)
    assert (spec.sampling.guidance_scale, spec.prior.sampling.guidance_scale) == (4, 2)
    assert spec.sampling.batch_size == spec.prior.sampling.batch_size


@pytest.mark.parametrize(
    ("subject", "root", "rendered"),
    [("dog", "/photos", 5), ("world", None, 5)],
)
def test_no_dataset_holds_a_subject_of_the_embedded_world(spine, tmp_path, subject, root, rendered):
    overrides = (f"subject={subject}", "subject.photos=null", "photos.root=/photos")
    spec = spine.spec(tmp_path, *overrides).subject
    assert (spec.root, spec.rendered) == (root, rendered)


def test_a_run_names_itself_to_its_loggers(spine, tmp_path):
    spec = spine.spec(tmp_path, "logger=wandb", "logger.tags=[mine]").logger
    assert spec.wandb and not spec.tensorboard and spec.wait == 5
    assert (spec.group, spec.name) == ("photos", "photos-ppl-lr1e-3-2")
    assert list(spec.tags) == ["photos", "pocket", "full", "mine"]
    own = spine.spec(tmp_path, "logger.group=own", "logger.name=mine").logger
    assert (own.group, own.name) == ("own", "mine")


def test_a_curve_has_its_own_prompts_and_every_metric(spine, tmp_path):
    own = ("evaluation.every_n_steps=4", "evaluation.curve.images_per_prompt=3")
    curve = spine.spec(tmp_path, *own).curve
    assert curve.every_n_steps == 4 and curve.evaluation.metrics == METRICS
    assert (curve.evaluation.name, curve.evaluation.images_per_prompt) == ("curve", 3)
    assert spine.spec(tmp_path).curve is None and spine.spec(tmp_path).evaluation is None


def test_a_curve_goes_with_an_average(spine, tmp_path):
    overrides = ("evaluation.every_n_steps=1", "checkpoint.best=harmonic", "ema_decay=0.9")
    spec = spine.spec(tmp_path, *overrides)
    assert spec.curve is not None and spec.optimizer.ema_decay == 0.9


def test_the_configuration_is_kept_resolved_and_as_it_was_written(spine, tmp_path):
    spec = spine.spec(tmp_path, "lr=0.5")
    assert spec.config["method"]["phases"][0]["lr"] == 0.5
    assert spec.written["method"]["phases"][0]["lr"] == "${lr}"
    assert type(spec.config) is dict and type(spec.config["samples"]["seeds"]) is list


def test_a_report_is_typed(tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("report", [f"runs='{tmp_path}'", "other_subjects=true"])
    spec = report_spec(cfg)
    assert spec.runs == Path(tmp_path) and spec.other_subjects is True


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=999"),
            "devices=999 is more than",
        ),
        (
            ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices='999'"),
            "more than the .* cores",
        ),
        (("+trainer.num_nodes=50",), "num_nodes=50 waits for ever .* srun or torchrun"),
        (("prior.seed=4294967295",), "prior.seed=4294967295 is not usable: 2 class images need"),
    ],
)
def test_what_could_only_fail_later_is_refused(spine, tmp_path, monkeypatch, overrides, said):
    for name in STARTED_BY:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=said):
        spine.spec(tmp_path, *overrides)


def test_networks_wait_in_one_process_with_a_gpu(spine, tmp_path, monkeypatch):
    assert spine.spec(tmp_path, "offload=true").hardware.offload is False  # one memory
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(UserError, match="offload=true works in one process.*devices=2"):
        spine.spec(tmp_path, "offload=true", "trainer=ddp", "trainer.accelerator=gpu")
    monkeypatch.setattr("dreambooth.cli.configuration.hardware.trainer_factory", lambda _: None)
    hardware = spine.spec(tmp_path, "offload=true", "trainer.accelerator=gpu").hardware
    assert hardware.offload and hardware.device == "cuda"


def test_a_value_of_another_kind_is_one_sentence(spine, tmp_path):
    with pytest.raises(UserError, match="^method cannot be read .*what you set of method"):
        spine.spec(tmp_path, "method.phases=5")

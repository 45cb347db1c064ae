"""Losses are read before anything is saved, and a signal waits for a whole step."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from dreambooth.errors import UserError
from dreambooth.sampling.samples import SampleSet
from dreambooth.training.job import run
from dreambooth.training.module import DreamBooth
from dreambooth.training.safety import StopAtStepBoundary, StopOnNonFinite, StopWithoutFolder
from fake_trainer import FakeModule, FakeTrainer, micro_steps
from spine import CONSTANT, checkpoint, same

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_step_and_files(value):
    trainer, callback = FakeTrainer(), StopOnNonFinite(lambda: [torch.ones(1)], 4)
    for step, loss in enumerate([1.0, 2.0, value], start=1):
        trainer.global_step = step
        batch = {"names": [f"{step}b.jpg", f"{step}a.jpg", f"{step}b.jpg"]}
        callback.on_train_batch_end(trainer, None, {"loss": torch.tensor(loss)}, batch, 0)
    with pytest.raises(
        UserError, match=f"became {value} at step 3 on 3a.jpg, 3b.jpg: lower lr.*32-true.$"
    ):
        callback.on_save_checkpoint(trainer, FakeModule(), {})


def test_losses_are_looked_at_every_n_micro_steps_where_looking_waits_for_the_device():
    trainer, callback, module = FakeTrainer(), StopOnNonFinite(list, 2), FakeModule()
    module.device = torch.device("cuda")
    callback.on_train_start(trainer, module)
    batch, bad = {"names": ["a.jpg"]}, {"loss": torch.tensor(torch.nan)}
    callback.on_train_batch_end(trainer, None, bad, batch, 0)
    with pytest.raises(UserError, match=r"a\.jpg"):
        callback.on_train_batch_end(trainer, None, {"loss": torch.tensor(1.0)}, batch, 1)
    assert callback.pending == []
    callback.on_train_start(trainer, FakeModule())
    with pytest.raises(UserError, match=r"a\.jpg"):
        callback.on_train_batch_end(trainer, None, bad, batch, 0)


def test_weights_that_are_not_finite_are_not_saved():
    trainer, module = FakeTrainer(), FakeModule()
    callback = StopOnNonFinite(lambda: list(module.model.parameters()), 2)
    callback.on_save_checkpoint(trainer, module, {})
    with torch.no_grad():
        module.model.bias.fill_(torch.inf)
    with pytest.raises(UserError, match="weights are not finite after step 0"):
        callback.on_save_checkpoint(trainer, module, {})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_waits_for_a_whole_step_and_is_given_back(number):
    before = signal.getsignal(number)
    trainer, callback = FakeTrainer(), StopAtStepBoundary()
    callback.on_train_start(trainer, FakeModule())
    try:
        micro_steps(trainer, callback, steps=1, accumulate=2)
        assert not trainer.should_stop
        os.kill(os.getpid(), number)
        callback.on_train_batch_end(trainer, FakeModule(), None, None, 0)
        assert callback.received == number and not trainer.should_stop  # in mid-accumulation
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, FakeModule(), None, None, 1)
        assert trainer.should_stop
    finally:
        callback.give_back()
    assert signal.getsignal(number) is before


def test_a_step_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    spine, tmp_path, monkeypatch
):
    errors = DreamBooth.errors

    def poisoned(self, batch):
        error = errors(self, batch)
        return error * torch.nan if self.global_step == 2 else error

    monkeypatch.setattr(DreamBooth, "errors", poisoned)
    fails = r"loss became nan at step 3 on .*\d\.png.*precision 32-true; .*step-000002.ckpt is kept"
    with pytest.raises(UserError, match=fails):
        spine.run(tmp_path, "max_steps=4", "checkpoint.every_n_steps=1")
    assert checkpoint(tmp_path)["global_step"] == 2


def test_a_gradient_that_is_not_finite_reaches_no_checkpoint(spine, tmp_path, monkeypatch):
    clip = DreamBooth.configure_gradient_clipping

    def poisoned(self, optimizer, *args, **kwargs):
        if self.global_step == 1:
            optimizer.param_groups[0]["params"][0].grad[0] = torch.inf
        clip(self, optimizer, *args, **kwargs)

    monkeypatch.setattr(DreamBooth, "configure_gradient_clipping", poisoned)
    with pytest.raises(UserError, match="not finite after step 2"):
        spine.run(tmp_path, "max_steps=4", "checkpoint.every_n_steps=1")
    assert checkpoint(tmp_path)["global_step"] == 1


def test_stopping_ends_at_a_whole_step_and_the_same_command_goes_on(
    spine, four_steps, tmp_path, monkeypatch
):
    start = StopAtStepBoundary.on_train_start

    def interrupted(self, *args):
        start(self, *args)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(StopAtStepBoundary, "on_train_start", interrupted)
        assert run(spine.spec(tmp_path, *CONSTANT)).code == 130
    assert checkpoint(tmp_path)["global_step"] == 1
    assert not (tmp_path / "model").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    spine.run(tmp_path, *CONSTANT)
    assert same(checkpoint(tmp_path)["state_dict"], checkpoint(four_steps)["state_dict"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_samples_before_the_first_step_waits_for_it(
    spine, tmp_path, monkeypatch, number
):
    monkeypatch.setattr(SampleSet, "draw", lambda *_: signal.raise_signal(number) or [])
    before = signal.getsignal(number)
    spec = spine.spec(tmp_path, *CONSTANT, "samples.every_n_steps=4")
    assert run(spec).code == 128 + number
    assert checkpoint(tmp_path)["global_step"] == 1 and signal.getsignal(number) is before


def test_in_a_job_of_submitit_sigterm_saves_a_step_and_training_goes_on(
    spine, four_steps, tmp_path, monkeypatch
):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    start = StopAtStepBoundary.on_train_start

    def terminated(self, *args):
        start(self, *args)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(StopAtStepBoundary, "on_train_start", terminated)
    spine.run(tmp_path, *CONSTANT)
    saved = {path.name for path in tmp_path.glob("checkpoints/phase-0/*.ckpt")}
    assert saved == {"step-000001.ckpt", "step-000004.ckpt"}
    assert same(checkpoint(tmp_path)["state_dict"], checkpoint(four_steps)["state_dict"])


def test_ctrl_c_while_lightning_sets_up_is_a_ctrl_c(spine, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "pytorch_lightning.Trainer._run", lambda *_, **__: signal.raise_signal(signal.SIGINT)
    )
    with pytest.raises(KeyboardInterrupt):
        spine.run(tmp_path, *CONSTANT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_folder_that_was_removed_ends_training_at_once(tmp_path):
    trainer, callback = FakeTrainer(), StopWithoutFolder(tmp_path / "run")
    callback.folder.mkdir()
    callback.on_train_start(trainer, FakeModule())
    micro_steps(trainer, callback, steps=1, accumulate=1)
    callback.folder.rename(tmp_path / "moved")
    callback.folder.mkdir()  # by a logger
    with pytest.raises(UserError, match="run's folder .* was removed at step 2"):
        micro_steps(trainer, callback, steps=1, accumulate=1)

"""Averages by hand, actions once a step, losses looked at before anything is saved."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from pytorch_lightning.callbacks import RichProgressBar
from torch import nn

from dreambooth.errors import UserError
from dreambooth.training.callbacks import EveryNSteps, Progress, StopAtStepBoundary, StopOnNonFinite
from spine import Spine, checkpoint


class FakeTrainer:
    """The state that callbacks read."""

    is_global_zero, world_size, should_stop = True, 1, False

    def __init__(self) -> None:
        self.global_step, self.strategy = 0, self

    def barrier(self) -> None:
        """One process waits for none."""


def micro_steps(trainer: FakeTrainer, callback, steps: int, accumulate: int) -> None:
    for _ in range(steps):
        for i in range(accumulate):
            trainer.global_step += i == accumulate - 1
            callback.on_train_batch_end(trainer, None, None, None, i)


def test_the_average_is_the_one_computed_by_hand(spine: Spine, tmp_path):
    decay = 0.75
    out = spine.run(
        tmp_path,
        "max_steps=3",
        "accumulate=2",
        f"ema_decay={decay}",
        "checkpoint.every_n_steps=1",
        "checkpoint.keep=10",
    )
    average = UNet2DConditionModel.from_pretrained(spine.model / "unet").state_dict()
    for step in (1, 2, 3):
        path = out / f"checkpoints/phase-0/step-{step:06d}.ckpt"
        weights = torch.load(path, weights_only=True)["state_dict"]
        average = {k: decay * v + (1 - decay) * weights[f"unet.{k}"] for k, v in average.items()}
    saved = checkpoint(out)["callbacks"]["ExponentialAverage"]["average"]
    exported = UNet2DConditionModel.from_pretrained(out / "model/unet").state_dict()
    moved = 0.0
    for name, expected in average.items():
        torch.testing.assert_close(saved[f"unet.{name}"], expected, rtol=1e-5, atol=1e-7)
        assert torch.equal(exported[name], saved[f"unet.{name}"])
        moved += float((expected - weights[f"unet.{name}"]).abs().sum())
    assert moved > 0.1


def test_actions_come_before_the_first_step_and_once_every_n():
    at, trainer = [], FakeTrainer()
    callback = EveryNSteps(2, lambda trainer, _: at.append(trainer.global_step))
    callback.on_train_start(trainer, None)
    micro_steps(trainer, callback, steps=5, accumulate=3)
    assert at == [0, 2, 4]


def test_a_resumed_run_does_not_repeat_the_action_of_its_step():
    at, trainer = [], FakeTrainer()
    callback = EveryNSteps(2, lambda trainer, _: at.append(trainer.global_step))
    trainer.global_step = 4
    callback.on_train_start(trainer, None)
    micro_steps(trainer, callback, steps=2, accumulate=1)
    assert at == [6]


def test_actions_are_of_the_first_rank_alone():
    at, trainer = [], FakeTrainer()
    trainer.is_global_zero = False
    callback = EveryNSteps(1, lambda trainer, _: at.append(trainer.global_step))
    callback.on_train_start(trainer, None)
    micro_steps(trainer, callback, steps=2, accumulate=1)
    assert at == []


class FakeModule:
    """A module whose model trains one vector."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.model = nn.Linear(2, 1)
        self.weights = SimpleNamespace(parameters=lambda: dict(self.model.named_parameters()))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_step_and_files(value):
    trainer, callback = FakeTrainer(), StopOnNonFinite(4)
    for step, loss in enumerate([1.0, 2.0, value], start=1):
        trainer.global_step = step
        batch = {"names": [f"{step}b.jpg", f"{step}a.jpg", f"{step}b.jpg"]}
        callback.on_train_batch_end(trainer, None, {"loss": torch.tensor(loss)}, batch, 0)
    with pytest.raises(UserError, match=f"became {value} at step 3 on 3a.jpg, 3b.jpg: lower lr"):
        callback.on_save_checkpoint(trainer, FakeModule(), {})


def test_losses_are_looked_at_every_n_micro_steps_where_looking_waits_for_the_device():
    trainer, callback, module = FakeTrainer(), StopOnNonFinite(2), FakeModule()
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


def test_the_bar_reads_its_numbers_twice_a_second_at_most(monkeypatch):
    times, values = iter([1.0, 1.0, 1.1, 1.4, 1.6, 1.6]), iter([0.5, 0.25])
    monkeypatch.setattr("dreambooth.training.callbacks.time.monotonic", lambda: next(times))
    monkeypatch.setattr(
        RichProgressBar, "get_metrics", lambda *_: {"v_num": 1, "loss/prior": next(values)}
    )
    bar = Progress()
    shown = [bar.get_metrics(None, None) for _ in range(4)]
    assert shown == [{"prior": 0.5}] * 3 + [{"prior": 0.25}]


def test_weights_that_are_not_finite_are_not_saved():
    trainer, module, callback = FakeTrainer(), FakeModule(), StopOnNonFinite(2)
    callback.on_save_checkpoint(trainer, module, {})
    with torch.no_grad():
        module.model.bias.fill_(torch.inf)
    with pytest.raises(UserError, match="weights are not finite after step 0"):
        callback.on_save_checkpoint(trainer, module, {})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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

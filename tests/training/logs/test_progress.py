"""The bar reads its numbers seldom; actions come once a step, and not where they are done later."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from dreambooth.training.logs.progress import EveryNSteps, Rates, TrainingBar
from fake_trainer import FakeModule, FakeTrainer, micro_steps


def test_actions_come_before_the_first_step_and_once_every_n():
    at, trainer = [], FakeTrainer()
    callback = EveryNSteps(2, at.append)
    callback.on_train_start(trainer, None)
    micro_steps(trainer, callback, steps=5, accumulate=3)
    assert at == [0, 2, 4]


def test_a_resumed_run_does_not_repeat_the_action_of_its_step():
    at, trainer = [], FakeTrainer()
    callback = EveryNSteps(2, at.append)
    trainer.global_step = 4
    callback.on_train_start(trainer, None)
    micro_steps(trainer, callback, steps=2, accumulate=1)
    assert at == [6]


def test_the_last_step_is_left_to_what_follows_training():
    at, trainer = [], FakeTrainer()
    callback = EveryNSteps(2, at.append, last=4)
    callback.on_train_start(trainer, None)
    micro_steps(trainer, callback, steps=4, accumulate=2)
    assert at == [0, 2]


def test_actions_are_of_the_first_rank_alone():
    at, trainer = [], FakeTrainer()
    trainer.is_global_zero = False
    callback = EveryNSteps(1, at.append)
    callback.on_train_start(trainer, None)
    micro_steps(trainer, callback, steps=2, accumulate=1)
    assert at == []


class Bar:
    """What a bar was told: `(count, note)` each time."""

    def __init__(self, monkeypatch) -> None:
        self.told: list[tuple[int, str]] = []
        self.asked: list[tuple] = []
        self.is_open = False
        monkeypatch.setattr("dreambooth.training.logs.progress.progress_bar", self.opened)

    @contextmanager
    def opened(self, *asked):
        self.asked.append(asked)
        self.is_open = True
        yield lambda count, note: self.told.append((count, note()))
        self.is_open = False


def test_the_bar_counts_optimizer_steps_and_reads_its_numbers_twice_a_second(monkeypatch):
    times, losses = iter([1.0, 1.0, 1.1, 1.4, 1.6, 1.6]), iter([0.5, 0.25])
    monkeypatch.setattr("dreambooth.training.logs.progress.time.monotonic", lambda: next(times))
    bar, trainer, shown = TrainingBar(has_prior=True), FakeTrainer(), Bar(monkeypatch)

    class Metrics(dict):
        def __missing__(self, name: str) -> float:
            return next(losses) if name == "loss/prior" else 2.0

    trainer.accumulate_grad_batches, trainer.max_steps, trainer.global_step = 3, 9, 4
    trainer.progress_bar_metrics = Metrics()
    bar.on_train_start(trainer, None)
    assert shown.asked == [("Training", 9, 4)] and shown.is_open  # resumed
    micro_steps(trainer, bar, steps=4, accumulate=3)
    first, second = (f"instance 2.000 prior {p} 2/s 2 GiB" for p in ("0.500", "0.250"))
    assert shown.told == [(1, first)] * 3 + [(1, second)]
    bar.on_train_end(trainer, None)
    assert not shown.is_open


def test_a_term_that_is_off_is_not_shown(monkeypatch):
    bar, trainer, shown = TrainingBar(has_prior=False), FakeTrainer(), Bar(monkeypatch)
    trainer.accumulate_grad_batches, trainer.max_steps = 1, 9
    trainer.progress_bar_metrics = {"loss/instance": 0.5, "loss/prior": 0.0}
    trainer.progress_bar_metrics |= {"images_per_second": 12.34, "memory_gib": 1.0}
    bar.on_train_start(trainer, None)
    micro_steps(trainer, bar, steps=1, accumulate=1)
    assert shown.told == [(1, "instance 0.500 12.3/s 1 GiB")]


def test_rates_count_the_images_of_whole_steps_of_this_session(monkeypatch):
    times = iter([10.0, 10.5, 11.0, 11.5, 12.0])
    monkeypatch.setattr("dreambooth.training.logs.progress.time.monotonic", lambda: next(times))
    logged, trainer, rates = [], FakeTrainer(), Rates(images_per_step=6)
    module = FakeModule()
    module.log = lambda name, value, **_: logged.append((name, value))
    trainer.global_step = 7  # resumed
    rates.on_train_start(trainer, module)
    for _ in range(2):
        for i in range(2):
            trainer.global_step += i
            rates.on_train_batch_end(trainer, module, None, None, i)
    assert [v for k, v in logged if k == "images_per_second"] == [0, 6, 4, 6]
    assert all(value > 0 for name, value in logged if name == "memory_gib")
    assert (rates.steps, rates.seconds) == (2, 2.0)
    assert rates.images_per_second == pytest.approx(6)

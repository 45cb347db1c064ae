"""The bar reads its numbers seldom; actions come once a step, and not where they are done later."""

from __future__ import annotations

import io

import pytest
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import TextColumn

from dreambooth.training.progress import EveryNSteps, Progress, Rates
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


def test_the_bar_reads_its_numbers_twice_a_second_at_most(monkeypatch):
    times, values = iter([1.0, 1.0, 1.1, 1.4, 1.6, 1.6]), iter([0.5, 0.25])
    monkeypatch.setattr("dreambooth.training.progress.time.monotonic", lambda: next(times))
    monkeypatch.setattr(
        RichProgressBar,
        "get_metrics",
        lambda *_: {"v_num": 1, "loss/instance": 0.0, "loss/prior": next(values)},
    )
    bar = Progress()
    shown = [bar.get_metrics(None, None) for _ in range(4)]
    assert shown == [{"prior": "0.500"}] * 3 + [{"prior": "0.250"}]


def test_the_bar_counts_optimizer_steps_of_the_whole_phase(monkeypatch):
    shown, trainer, bar = [], FakeTrainer(), Progress()
    trainer.accumulate_grad_batches, trainer.max_steps, trainer.global_step = 3, 9, 4
    monkeypatch.setattr(bar, "_trainer", trainer)
    monkeypatch.setattr(bar, "_initialize_train_progress_bar_id", lambda: None)
    monkeypatch.setattr(bar, "_update", lambda task, current: shown.append(current))
    monkeypatch.setattr(bar, "_update_metrics", lambda *_: None)
    micro_steps(trainer, bar, steps=2, accumulate=3)
    assert shown == [5, 6] and bar.total_train_batches == 9


def test_rates_count_the_images_of_whole_steps_of_this_session(monkeypatch):
    times = iter([10.0, 10.5, 11.0, 11.5, 12.0])
    monkeypatch.setattr("dreambooth.training.progress.time.monotonic", lambda: next(times))
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


def test_the_bar_fits_on_80_columns(monkeypatch):
    numbers = {"loss/instance": 0.12345, "loss/prior": 0.54321, "images_per_second": 123.456}
    monkeypatch.setattr(RichProgressBar, "get_metrics", lambda *_: {**numbers, "memory_gib": 12.34})
    bar = Progress()
    shown = " ".join(f"{name}: {value}" for name, value in bar.get_metrics(None, None).items())
    assert shown == "instance: 0.123 prior: 0.543 img/s: 123 GiB: 12.3"
    console = Console(width=80, file=io.StringIO())
    progress = RichProgress(*bar.configure_columns(None), TextColumn(shown), console=console)
    progress.add_task("", total=9999, completed=1234)
    lines = console.render_lines(progress.get_renderable())
    assert len(lines) == 1 and "GiB: 12.3" in "".join(segment.text for segment in lines[0])

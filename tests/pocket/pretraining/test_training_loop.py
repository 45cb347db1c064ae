"""The pretraining loop: schedule, averaged weights, and resuming to the last bit."""

from __future__ import annotations

import copy
import json
import os
import signal
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from dreambooth.errors import UserError
from dreambooth.pocket.pretraining.spec import TrainingSpec
from dreambooth.pocket.pretraining.training_loop import LossCurve, lr_factor, train

SPEC = TrainingSpec(
    samples=40,
    batch_size=2,
    lr=0.5,
    ema_decay=0.9,
    weight_decay=0.1,
    decay=0.25,
    save_seconds=1e9,
    seed=0,
    device="cpu",
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def regression(module: nn.Module, stop_at: int | None = None, number: int = signal.SIGTERM):
    """A loss that draws its data from the generator, and may send a signal at its nth call."""
    calls = count()

    def loss(generator: torch.Generator) -> dict[str, torch.Tensor]:
        x = torch.randn(2, 3, generator=generator)
        if next(calls) == stop_at:
            os.kill(os.getpid(), number)
        error = (module(x) - x.sum(1, keepdim=True)).square().mean()
        return {"total": error, "error": error.detach()}

    return loss


def fit(
    folder: Path,
    stop_at: int | None = None,
    number: int = signal.SIGTERM,
    facts: dict | None = None,
    **changes,
) -> nn.Module:
    module = network()
    loss = regression(module, stop_at, number)
    return train("toy", module, loss, folder, replace(SPEC, **changes), facts or {})


def saved(folder: Path) -> dict:
    return torch.load(folder / "toy.pt", weights_only=True)


def equal(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_the_learning_rate_by_hand():
    def at(seen: int) -> float:
        return lr_factor(seen, 1000, warmup=100, decay=0.25)

    assert at(0) == pytest.approx(0.01)
    assert at(49) == pytest.approx(0.5)
    assert at(99) == at(500) == at(750) == 1.0
    assert at(875) == pytest.approx(0.5)
    assert at(999) == pytest.approx(1 / 250)
    assert at(1000) == at(1100) == 0.0
    assert lr_factor(2000, 10_000_000, 0.25) == pytest.approx(2001 / 4000)


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
def test_a_stopped_run_resumes_to_the_same_weights(tmp_path, number):
    whole = fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "parts", stop_at=6, number=number)
    assert saved(tmp_path / "parts")["step"] == 7  # the step was finished
    resumed = fit(tmp_path / "parts")
    assert equal(whole, resumed)
    a, b = saved(tmp_path / "whole"), saved(tmp_path / "parts")
    assert a["step"] == b["step"] == 20
    for x, y in zip(a["ema"], b["ema"], strict=True):
        assert torch.equal(x, y)


def test_a_run_can_be_lengthened_before_its_decay(tmp_path):
    whole = fit(tmp_path / "whole", samples=60)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "parts", samples=40, stop_at=10)  # decays from 30 samples on
    assert equal(whole, fit(tmp_path / "parts", samples=60))


def test_the_signals_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, stop_at=1)
    fit(tmp_path)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_finished_run_trains_no_more(tmp_path):
    first, state = fit(tmp_path), saved(tmp_path)
    assert equal(first, fit(tmp_path))
    assert saved(tmp_path)["step"] == state["step"]


def test_a_checkpoint_is_saved_while_training(tmp_path):
    steps = []
    module = nn.Linear(3, 1)
    inner = regression(module)

    def loss(generator: torch.Generator) -> dict[str, torch.Tensor]:
        if (tmp_path / "toy.pt").exists():
            steps.append(saved(tmp_path)["step"])
        return inner(generator)

    train("toy", module, loss, tmp_path, replace(SPEC, samples=8, lr=1e-2, save_seconds=0.0), {})
    assert steps == [1, 2, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["toy.json", "toy.pt"]


def test_three_steps_and_their_average_by_hand(tmp_path):
    trained = fit(tmp_path, samples=6, ema_decay=0.15)
    module = network()
    optimizer = torch.optim.AdamW(module.parameters(), 0.5, (0.9, 0.99), weight_decay=0.1)
    average = copy.deepcopy(module.state_dict())
    loss = regression(module)
    # the decay is at most (1 + n) / (10 + n) after n steps: 2/11 > 0.15, 3/12, 4/13
    for step, rate in enumerate((1 / 4000, 3 / 4000, 5 / 4000)):
        # the last quarter of six samples begins at 4.5, and warm-up is lower still
        optimizer.param_groups[0]["lr"] = 0.5 * rate
        optimizer.zero_grad()
        loss(torch.Generator().manual_seed(step))["total"].backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        for name, value in module.state_dict().items():
            average[name] = 0.15 * average[name] + 0.85 * value
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(value, average[name])
    assert not trained.training


def test_the_average_has_a_short_memory_at_first(tmp_path):
    trained = fit(tmp_path, samples=2, ema_decay=0.999)
    start = network().state_dict()
    raw = saved(tmp_path)["module"]
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(value, 2 / 11 * start[name] + 9 / 11 * raw[name])


def test_the_seed_decides_the_draws(tmp_path):
    runs = [fit(tmp_path / str(i), seed=seed) for i, seed in enumerate((0, 0, 1))]
    assert equal(runs[0], runs[1]) and not equal(runs[0], runs[2])


def test_the_curve_holds_means_of_a_hundred_steps(tmp_path):
    fit(tmp_path, samples=400, lr=0.0)
    rows = [json.loads(line) for line in (tmp_path / "toy.jsonl").read_text().splitlines()]
    assert [row["samples"] for row in rows] == [200, 400]
    module = network()
    loss = regression(module)
    values = [loss(torch.Generator().manual_seed(s))["total"].item() for s in range(100)]
    assert rows[0]["total"] == pytest.approx(sum(values) / 100, abs=1e-5)
    assert rows[0]["error"] == rows[0]["total"]


def test_another_batch_size_continues_by_samples(tmp_path):
    rates, lr = [], 0.5

    def note(optimizer, *_):
        rates.append(optimizer.param_groups[0]["lr"] / lr)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, samples=8000, batch_size=1000, stop_at=5)
    handle = register_optimizer_step_pre_hook(note)
    try:
        fit(tmp_path, samples=8000, batch_size=500, facts={"vae": "abc"})
    finally:
        handle.remove()
    # 6,000 samples were seen and the last quarter begins there: 2,000, 1,500, 1,000, 500 are left
    assert rates == pytest.approx([1.0, 0.75, 0.5, 0.25])
    state = saved(tmp_path)
    assert (state["step"], state["samples"], state["seed"]) == (10, 8000, 0)
    own = {"device": "cpu"}
    assert state["sessions"] == [
        {"batch_size": 1000, **own},
        {"batch_size": 500, **own, "vae": "abc"},
    ]
    fit(tmp_path, samples=8000, facts={"vae": "def"})  # no step more: nothing was trained on it
    assert saved(tmp_path)["sessions"] == state["sessions"]


def test_what_made_it_is_written_when_it_ends(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, samples=250, stop_at=50)
    assert not (tmp_path / "toy.json").exists()
    fit(tmp_path, samples=250)
    made = json.loads((tmp_path / "toy.json").read_text())
    row = json.loads((tmp_path / "toy.jsonl").read_text())
    assert made["samples"] == 250 and made["seed"] == 0 and made["last"] == row
    assert made["sessions"] == [{"batch_size": 2, "device": "cpu"}] and made["seconds"] > 0


@pytest.mark.parametrize(
    ("spoilt", "message"),
    (
        ({"seed": 1}, "begun with seed=1, not 0"),
        ({"samples": None}, "older form .it lacks samples"),
        ({"module": {}}, "not of the configured sizes"),
    ),
)
def test_a_checkpoint_that_does_not_fit_is_one_sentence(tmp_path, spoilt, message):
    fit(tmp_path)
    state = {k: v for k, v in (saved(tmp_path) | spoilt).items() if v is not None}
    torch.save(state, tmp_path / "toy.pt")
    with pytest.raises(UserError, match=message):
        fit(tmp_path)
    (tmp_path / "toy.pt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="cannot be read"):
        fit(tmp_path)


@pytest.mark.parametrize("spoilt", ("loss", "gradient"))
def test_what_is_not_finite_ends_the_run_and_spoils_no_checkpoint(tmp_path, spoilt):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, stop_at=3)
    before, handlers = (tmp_path / "toy.pt").read_bytes(), signal.getsignal(signal.SIGINT)
    module = network()
    first, inner, weights = module[0], regression(module), []
    assert isinstance(first, nn.Linear)

    def loss(generator: torch.Generator) -> dict[str, torch.Tensor]:
        terms = inner(generator)
        weights.append(copy.deepcopy(module))
        if len(weights) == 3 and spoilt == "loss":
            terms["total"] = terms["total"] * float("inf")
        elif len(weights) == 3:  # a root's slope at zero
            terms["total"] = terms["total"] + (0 * first.weight).abs().sum().sqrt()
        return terms

    with pytest.raises(UserError, match="loss of toy is not finite"):
        train("toy", module, loss, tmp_path, SPEC, {})
    assert (tmp_path / "toy.pt").read_bytes() == before
    assert equal(module, weights[-1])  # not even a step was taken
    assert signal.getsignal(signal.SIGINT) == handlers


def test_a_row_is_never_written_of_what_is_not_finite(tmp_path):
    curve = LossCurve(tmp_path / "toy.jsonl")
    for value in (1.0, float("nan"), 1.0):
        curve.add({"total": torch.tensor(value)}, torch.tensor(1.0))
    with pytest.raises(UserError):
        curve.write(6, 1.0)
    assert not curve.path.exists()

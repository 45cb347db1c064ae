"""The average is diffusers' with its warm-up; samples, scores and the export are of it."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import torch

from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.sampling import draw as draw_module
from dreambooth.training.average import MovingAverage
from spine import Spine, checkpoint, same

pytestmark = pytest.mark.slow

AVERAGED = ("max_steps=3", "ema_decay=0.9999", "ppl=false")


def weights_at(out: Path, step: int) -> dict[str, torch.Tensor]:
    """What trained, as the checkpoint of a step holds it."""
    path = out / f"checkpoints/phase-0/step-{step:06d}.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


def average_of(out: Path) -> dict[str, torch.Tensor]:
    """The average in a run's newest checkpoint, by the weights' names."""
    saved = checkpoint(out)
    averages = saved["callbacks"]["MovingAverage"]["shadow_params"]
    return dict(zip(saved["state_dict"], averages, strict=True))


def exported(out: Path) -> dict[str, torch.Tensor]:
    state = StableDiffusion.from_pretrained(str(out / "model")).base_state("unet")
    return {f"unet.{name}": tensor for name, tensor in state.items()}


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return sum(float((a[name] - b[name]).square().sum()) for name in a) ** 0.5


def test_the_average_is_the_one_computed_by_hand(spine: Spine, tmp_path):
    """After update t: `d average + (1 - d) weights`, `d = min(decay, t / (t + 9))`, first 0."""
    decay = 0.2  # less than the warm-up at step 3, more than it at step 2
    out = spine.run(
        tmp_path,
        "max_steps=3",
        "accumulate=2",
        f"ema_decay={decay}",
        "checkpoint.every_n_steps=1",
        "checkpoint.keep=10",
        "checkpoint.keep_when_finished=10",
    )
    average = weights_at(out, 1)
    for step, warm_up in ((2, 2 / 11), (3, 3 / 12)):
        d, weights = min(decay, warm_up), weights_at(out, step)
        average = {name: d * value + (1 - d) * weights[name] for name, value in average.items()}
    saved, written = average_of(out), exported(out)
    assert saved.keys() == average.keys() == written.keys()
    for name, expected in average.items():
        torch.testing.assert_close(saved[name], expected, rtol=1e-5, atol=1e-7)
        assert torch.equal(written[name], saved[name])
    assert sum(float((average[n] - weights[n]).abs().sum()) for n in average) > 0.1


@pytest.mark.thorough
def test_a_long_average_of_a_short_training_is_near_the_trained_weights(spine, tmp_path):
    out = spine.run(tmp_path, "max_steps=20", "ema_decay=0.9999", "ppl=false")
    base = StableDiffusion.from_pretrained(str(spine.model)).base_state("unet")
    base = {f"unet.{name}": tensor for name, tensor in base.items()}
    trained = checkpoint(out)["state_dict"]
    moved = distance(base, trained)
    assert distance(exported(out), trained) < 0.35 * moved
    # a fixed decay would leave almost the whole base model
    assert distance(exported(out), base) > 0.65 * moved


@pytest.fixture(scope="module")
def plain(spine: Spine, tmp_path_factory) -> Path:
    """Three steps with an average that nobody looks at before the end."""
    return spine.run(tmp_path_factory.mktemp("plain"), *AVERAGED)


def test_a_finished_run_exports_the_average_again_without_training(
    spine, plain, tmp_path, monkeypatch
):
    out = copytree(plain, tmp_path / "run")
    first, average = exported(out), average_of(out)
    assert same(first, average)
    assert not same(average, checkpoint(out)["state_dict"])
    rmtree(out / "model")
    monkeypatch.setattr("pytorch_lightning.Trainer.fit", None)
    spine.run(out, *AVERAGED)
    assert same(exported(out), first)


@pytest.mark.thorough
def test_samples_and_scores_are_of_the_average_and_change_no_weight(
    spine, plain, encoders_dir, tmp_path, monkeypatch
):
    seen, draw = [], draw_module.draw

    def watched(model, prompts, seeds, sampling, *progress):
        unet = model.unet.named_parameters()
        seen.append({f"unet.{name}": p.detach().clone() for name, p in sorted(unet)})
        return draw(model, prompts, seeds, sampling, *progress)

    monkeypatch.setattr("dreambooth.sampling.samples.draw", watched)
    monkeypatch.setattr("dreambooth.evaluation.evaluate.draw", watched)
    shown = (
        "samples.every_n_steps=2",
        "evaluation.every_n_steps=2",
        "evaluation.encoders=pocket",
        f"evaluation.encoders_dir='{encoders_dir}'",
        "checkpoint.every_n_steps=1",
    )
    out = spine.run(tmp_path, *AVERAGED, *shown)
    assert same(checkpoint(out)["state_dict"], checkpoint(plain)["state_dict"])
    assert same(average_of(out), average_of(plain))
    assert same(exported(out), exported(plain))
    drawn_at = {"before": seen[:2], "step 2": seen[2:4], "end": seen[4:]}
    base = StableDiffusion.from_pretrained(str(spine.model)).base_state("unet")
    assert all(same(each, {f"unet.{k}": v for k, v in base.items()}) for each in drawn_at["before"])
    state = torch.load(out / "checkpoints/phase-0/step-000002.ckpt", weights_only=True)
    averages = state["callbacks"]["MovingAverage"]["shadow_params"]
    average = dict(zip(state["state_dict"], averages, strict=True))
    assert len(drawn_at["step 2"]) == 2
    for each in drawn_at["step 2"]:
        assert same(each, average)
        assert not same(each, state["state_dict"])
    assert len(drawn_at["end"]) == 2  # the curve's last point and the final samples
    for each in drawn_at["end"]:
        assert same(each, exported(plain))


@pytest.mark.thorough
def test_the_best_step_of_a_curve_is_exported_as_an_average(spine, encoders_dir, tmp_path):
    out = spine.run(
        tmp_path,
        *AVERAGED,
        "evaluation.every_n_steps=1",
        "evaluation.encoders=pocket",
        f"evaluation.encoders_dir='{encoders_dir}'",
        "checkpoint.best=harmonic",
        "checkpoint.every_n_steps=1",
        "checkpoint.keep=10",
        "checkpoint.keep_when_finished=10",
    )
    best = json.loads((out / "run.json").read_text())["best_step"]
    path = out / f"checkpoints/phase-0/step-{best:06d}.ckpt"
    state = torch.load(path, weights_only=True)
    averages = state["callbacks"]["MovingAverage"]["shadow_params"]
    assert same(exported(out), dict(zip(state["state_dict"], averages, strict=True)))


def test_swapping_in_restores_the_weights_even_after_an_error():
    weight = torch.nn.Parameter(torch.arange(3.0))
    average = MovingAverage([weight], 0.5)
    with torch.no_grad():
        weight.add_(10)
    with pytest.raises(ZeroDivisionError), average.swapped_in():
        assert weight.tolist() == [0, 1, 2]
        raise ZeroDivisionError
    assert weight.tolist() == [10, 11, 12]

"""The seconds of a run without any like it: its floating-point operations at this machine's speed.

A guess: operations are counted and a speed is measured, but networks reach only a share of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from dreambooth.study.costs.activations import denoiser_of, inputs_of, side_of, text_encoders_of
from dreambooth.study.costs.known_models import configs_of, tokens_of
from dreambooth.study.costs.plan import rows_of_step
from dreambooth.study.costs.rates import Rates
from dreambooth.study.costs.sizes import ON_GPU

Plain = Mapping[str, Any]
# of the speed of a matrix product that networks reach. On a CPU core of 64 to 104 GFLOP/s the U-Net
# of the embedded model reached 21 (one image) to 53 (16), that of Stable Diffusion 1.5 24 to 42
SHARE = 0.5
SIDES = {"cpu": 1024, "cuda": 8192}  # of the matrices
MEASURING = 0.3  # seconds
# For a GPU that is not here: 1000 steps of Stable Diffusion, a photo and a class image each, take
# about 5 minutes on an A100 (Ruiz et al. 2023): 1000 x 2 images x 3 passes x 0.803 TFLOP in 300 s
A100 = 1.6e13
UNITS = {"EFLOP": 1e18, "PFLOP": 1e15, "TFLOP": 1e12}


@dataclass(frozen=True)
class Forward:
    """The operations of predicting one image's noise once, and of embedding its prompt."""

    denoiser: float
    text_encoders: float


@dataclass(frozen=True)
class Guess:
    """What a unit of a run's work takes.

    Args:
        operations: floating-point operations in place of seconds. Loading, the autoencoder, scoring
            and exporting, which are little beside the denoiser's, count as none.
        speed: operations a second.
        source: where the speed is from, in words.
    """

    operations: Rates
    speed: float
    source: str

    @property
    def rates(self) -> Rates:
        """The same in seconds."""
        return Rates(**{key: value / self.speed for key, value in vars(self.operations).items()})


def guessed(config: Plain, device: str) -> Guess | None:
    """Guess a run's rates on a device, as `device_name` names it; None for an unknown model."""
    settings = configs_of(config)
    if settings is None:
        return None
    forward = forward_of(json.dumps(settings), config["resolution"], tokens_of(config, settings))
    guidance = 2 if config["sampling"]["guidance_scale"] > 1 else 1
    operations = Rates(
        train=_of_training(config, forward),
        draw=guidance * forward.denoiser,
        score=0.0,
        other=0.0,
        memory_gib=0.0,
    )
    return Guess(operations, *_speed(config["trainer"], device))


def _speed(trainer: Plain, device: str) -> tuple[float, str]:
    """Return how many operations a second a run does, and where that is from in words."""
    if device == "cpu" and trainer["accelerator"] in ON_GPU:
        return (
            A100,
            "that of the paper's 1000 steps in 5 minutes on an A100, as there is no GPU here",
        )
    half = {"bf16-mixed": "bfloat16", "16-mixed": "float16"}
    dtype = half.get(trainer["precision"], "float32")
    speed = SHARE * speed_of_matmul("cpu" if device == "cpu" else "cuda", dtype)
    return speed, f"half of what a matrix product reaches here ({device})"


@cache
def forward_of(configs: str, resolution: int, tokens: tuple[int, int]) -> Forward:
    """Count the operations of the networks on the meta device: two for each multiply-add.

    Args:
        tokens: of a prompt: of CLIP, and others.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    settings, (clip, others) = json.loads(configs), tokens
    denoiser = denoiser_of(settings)
    with torch.no_grad(), torch.device("meta"):
        side = side_of(settings, resolution)
        inputs = inputs_of(denoiser, 1, side, clip + others, torch.float32)
        with FlopCounterMode(display=False) as denoising:
            denoiser(**inputs)
        with FlopCounterMode(display=False) as embedding:
            for text_encoder in text_encoders_of(settings):
                text_encoder(torch.zeros(1, clip, dtype=torch.long))
    return Forward(denoising.get_total_flops(), embedding.get_total_flops())


def _of_training(config: Plain, forward: Forward) -> float:
    """Average the operations of a training image over the phases of a run."""
    operations, images = 0.0, 0
    for phase in config["method"]["phases"]:
        rows = rows_of_step(config, phase)
        own = forward.denoiser * (_passes(phase["unet"]) + config["gradient_checkpointing"])
        if phase["text_encoder"] != "frozen":  # else prompts are embedded once
            own += forward.text_encoders * _passes(phase["text_encoder"])
        if config["prior"]["kind"] == "prediction":
            own += forward.denoiser * (rows - config["batch_size"]) / rows
        operations += own * rows * phase["max_steps"]
        images += rows * phase["max_steps"]
    return operations / images


def _passes(kind: Any) -> int:
    """Count a network's passes in a step, each of as many operations as the forward one.

    Its weights' gradients are one, and so are those of its inputs, which a network that is frozen
    or almost so needs alone.
    """
    return 3 if kind == "full" else 2


@cache
def speed_of_matmul(device: str, dtype: str) -> float:
    """Measure how many operations a second a matrix product reaches on a device."""
    import torch

    side = SIDES[device]
    one = torch.ones(side, side, device=device, dtype=getattr(torch, dtype))

    def seconds() -> float:
        start = time.perf_counter()
        torch.mm(one, one)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds()  # the first one loads libraries
    best, end = seconds(), time.perf_counter() + MEASURING
    while time.perf_counter() < end:
        best = min(best, seconds())
    return 2 * side**3 / best


def in_words(operations: float, speed: float, sources: Sequence[str]) -> str:
    """Say how a guess of seconds came about.

    >>> in_words(4.8e15, 4e10, ["measured"])
    'a guess from 4.8 PFLOP at 0.04 TFLOP/s: measured'
    """
    unit = next((u for u in ("EFLOP", "PFLOP") if operations >= UNITS[u]), "TFLOP")
    size = f"{operations / UNITS[unit]:,.3g} {unit}"
    return f"a guess from {size} at {speed / 1e12:.2g} TFLOP/s: {'; '.join(sources)}"

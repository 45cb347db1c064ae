"""What training holds in memory, from the networks' architecture: no weight is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from dreambooth.study.costs.activations import Kind, denoiser_of, peak_of_step
from dreambooth.study.costs.known_models import clip_encoders, configs_of, tokens_of
from dreambooth.study.costs.plan import draws_base_model, rows_of_step
from dreambooth.study.costs.sizes import (
    GIB,
    NETWORKS,
    is_own,
    moments,
    parameters_of,
    trained_parameters,
)

Plain = Mapping[str, Any]
# bytes of a quantised weight, with its scales: one of 8 bits for each output, which is little; of
# 4 bits one for each 64, itself in 8 bits
STORED = {"8bit": 1.0, "4bit": 0.5 + 1 / 64}
LIBRARIES = 0.85  # GiB of a process with all libraries, measured on Linux; on a GPU they take none


@dataclass(frozen=True)
class Memory:
    """What training holds at once, in GiB.

    Args:
        weights: of all networks and adapters.
        gradients: of what trains.
        optimizer: its state.
        activations: what the backward pass needs, and what a step computes with.
        copies: the moving average, the frozen copy of prior.kind=prediction, casts of weights.
        libraries: of the process, where networks and libraries share the memory.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    copies: float
    libraries: float

    @property
    def total(self) -> float:
        """The sum."""
        return sum(getattr(self, field.name) for field in fields(self))


def memory_of(config: Plain, on_gpu: bool) -> Memory | None:
    """Estimate what of a run needs most; None for a model that is not known or here.

    That is one of its phases or, on a GPU, what comes before or after: see `_before`, `_alone`
    and `_after`.
    """
    sizes = parameters_of(config)
    if sizes is None or configs_of(config) is None:
        return None
    stages = [_phase(config, phase, sizes, on_gpu) for phase in config["method"]["phases"]]
    if config["offload"] and on_gpu:
        stages += [_alone(config, phase, sizes) for phase in stages]
    if on_gpu:
        stages += [_before(config, sizes), _after(config, sizes)]
    return max(stages, key=lambda memory: memory.total)


def _before(config: Plain, sizes: Mapping[str, int]) -> Memory:
    """Estimate what is on a GPU before the first phase: for latents, class images and the like.

    Weights are in float32 then, but those of encoders that can never train. With `offload` one
    network at a time is there; which of them is counted as if the cache held no image.
    """
    can_train = bool(clip_encoders(configs_of(config) or {}))
    frozen = _frozen_bytes(config)
    held = {
        "unet": sizes["unet"] * 4,
        "text_encoder": sizes["text_encoder"] * (4 if can_train else frozen),
        "vae": sizes["vae"] * frozen,  # most of it T5, where there is one
    }
    drawn = max(held.values()) if draws_base_model(config) else 0.0
    weights = drawn if config["offload"] else sum(held.values())
    return Memory(weights / GIB, 0.0, 0.0, 0.0, 0.0, 0.0)


def _waiting(config: Plain) -> list[str]:
    """Name the parts of the model that no step of the run needs; see model/offload.py."""
    phases = config["method"]["phases"]
    trained = [n for n in NETWORKS for phase in phases if phase.get(n, "frozen") != "frozen"]
    return [name for name in NETWORKS if name not in ("unet", *trained)]


def _after(config: Plain, sizes: Mapping[str, int]) -> Memory:
    """Estimate what is on a GPU for the last pictures, when no weight is quantised any more."""
    exact = {**config, "model": {**config["model"], "quantize": None}}
    last = _phase(exact, config["method"]["phases"][-1], sizes, True)
    return Memory(last.weights, 0.0, 0.0, 0.0, 0.0, 0.0)


def _alone(config: Plain, phase: Memory, sizes: Mapping[str, int]) -> Memory:
    """Estimate what is there while prompts are embedded, by all that waits, and what trains is not.

    The autoencoder, which is small, is counted with the encoders. Activations are left out: they
    are small beside those of a training step.
    """
    waiting = sum(sizes[name] for name in _waiting(config)) * _frozen_bytes(config)
    return replace(phase, weights=waiting / GIB, gradients=0.0, activations=0.0)


def _frozen_bytes(config: Plain) -> int:
    return 4 if config["frozen_dtype"] == "float32" else 2


def _phase(config: Plain, phase: Plain, sizes: Mapping[str, int], on_gpu: bool) -> Memory:
    is_half = config["trainer"]["precision"] != "32-true"
    frozen = _frozen_bytes(config)
    own = sum(sizes[n] for n in NETWORKS if phase.get(n) == "full")  # the rest is frozen
    trained = sum(trained_parameters(config, phase, sizes).values())
    if phase["text_encoder"] == "token":
        trained += _embeddings(config)  # the optimizer is given the whole matrix
    others = sum(sizes.values()) - own
    if config["offload"] and on_gpu:
        others -= sum(sizes[name] for name in _waiting(config))
    bits = config["model"].get("quantize")
    linear = _linear_weights(json.dumps(configs_of(config))) if bits else 0
    saved = linear * (frozen - STORED[bits]) if bits and on_gpu else 0.0
    copies = own * 2.0 if is_half else 0.0  # autocast casts them once for a step
    copies += 4.0 * trained if config["ema_decay"] else 0.0
    if not on_gpu:  # exact weights wait; where they are quantised, they are copied back in the end
        copies += 4.0 * (others if frozen < 4 else linear)
    if _predicts_prior(config) and is_own(phase["unet"]):
        copies += sizes["unet"] * frozen
    return Memory(
        weights=(trained * 4 + others * frozen - saved) / GIB,
        gradients=trained * 4 / GIB,
        optimizer=trained * moments(config) / GIB,
        activations=_activations(config, phase, is_half) / GIB,
        copies=copies / GIB,
        libraries=0.0 if on_gpu else LIBRARIES,
    )


def _predicts_prior(config: Plain) -> bool:
    uses_prior = config["ppl"] and config["method"]["uses_prior"]
    return uses_prior and config["prior"]["kind"] == "prediction"


def _embeddings(config: Plain) -> int:
    settings = clip_encoders(configs_of(config) or {})
    return sum(each.get("vocab_size", 49408) * each["hidden_size"] for each in settings)


def _activations(config: Plain, phase: Plain, is_half: bool) -> int:
    """Count the bytes that are alive at the peak of a step, beside weights and their gradients."""
    settings = configs_of(config) or {}
    block = config["method"].get("adapter") or config["method"].get("lora") or {}
    targets = block.get("target_modules") or block.get("targets") or ()
    return peak_of_step(
        json.dumps(settings),
        tuple(_hashable(phase[network]) for network in ("unet", "text_encoder")),
        tuple(targets),
        (rows_of_step(config, phase), *tokens_of(config, settings)),
        config["resolution"],
        is_half,
        config["gradient_checkpointing"],
    )


def _hashable(kind: Any) -> Kind:
    return tuple(kind) if isinstance(kind, list) else kind


@cache
def _linear_weights(configs: str) -> int:
    """Count the weights of the denoiser's linear layers, which model.quantize makes smaller."""
    from dreambooth.model.quantization import linear_layers

    layers = linear_layers(denoiser_of(json.loads(configs)))
    return sum(layer.weight.numel() for layer in layers.values())

"""What training holds in memory, from the networks' architecture: no weight is loaded.

A step is run on PyTorch's meta device, which knows shapes and computes nothing, and the tensors
that are alive at once are added up.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.study.costs.known_models import KNOWN
from dreambooth.study.costs.plan import rows_of_step
from dreambooth.study.costs.sizes import (
    GIB,
    NETWORKS,
    PARTS,
    is_own,
    moments,
    parameters_of,
    trained_parameters,
)

if TYPE_CHECKING:  # read where torch is not needed
    from torch import Tensor, nn

Plain = Mapping[str, Any]
Kind = str | tuple[str, ...]  # how a network trains: a word, or patterns of its weights' names
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
    """Estimate the phase of a run that needs most; None for a model that is not known or here."""
    sizes = parameters_of(config)
    if sizes is None or _configs(config) is None:
        return None
    phases = [_phase(config, phase, sizes, on_gpu) for phase in config["method"]["phases"]]
    if config["offload"] and on_gpu:
        phases += [_alone(config, phase, sizes) for phase in phases]
    return max(phases, key=lambda memory: memory.total)


def _waiting(config: Plain) -> list[str]:
    """Name the parts of the model that no step of the run needs; see model/offload.py."""
    phases = config["method"]["phases"]
    trained = [n for n in NETWORKS for phase in phases if phase.get(n, "frozen") != "frozen"]
    return [name for name in NETWORKS if name not in ("unet", *trained)]


def _alone(config: Plain, phase: Memory, sizes: Mapping[str, int]) -> Memory:
    """Estimate what is there while the largest part that waits is at work, and trained ones not.

    Activations of drawing are left out: they are small beside those of a training step.
    """
    frozen = 4 if config["frozen_dtype"] == "float32" else 2
    largest = max(sizes[name] for name in _waiting(config))
    return replace(phase, weights=largest * frozen / GIB, gradients=0.0, activations=0.0)


def _phase(config: Plain, phase: Plain, sizes: Mapping[str, int], on_gpu: bool) -> Memory:
    is_half = config["trainer"]["precision"] != "32-true"
    frozen = 4 if config["frozen_dtype"] == "float32" else 2
    own = sum(sizes[n] for n in NETWORKS if phase.get(n) == "full")  # the rest is frozen
    trained = sum(trained_parameters(config, phase, sizes).values())
    if phase["text_encoder"] == "token":
        trained += _embeddings(config)  # the optimizer is given the whole matrix
    others = sum(sizes.values()) - own
    if config["offload"] and on_gpu:
        others -= sum(sizes[name] for name in _waiting(config))
    bits = config["model"].get("quantize")
    # on a CPU the peak is when the exact weights have been copied and are not quantised yet
    linear = _linear_weights(json.dumps(_configs(config))) if bits and on_gpu else 0
    saved = linear * (frozen - STORED[bits]) if bits else 0.0
    copies = own * 2.0 if is_half else 0.0  # autocast casts them once for a step
    copies += 4.0 * trained if config["ema_decay"] else 0.0
    if not on_gpu:  # exact weights, to go back to
        copies += 4.0 * (others if frozen < 4 else 0 if bits is None else sizes["unet"])
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
    settings = _encoders(_configs(config) or {})
    return sum(each.get("vocab_size", 49408) * each["hidden_size"] for each in settings)


def _activations(config: Plain, phase: Plain, is_half: bool) -> int:
    """Count the bytes that are alive at the peak of a step, beside weights and their gradients."""
    settings = _configs(config) or {}
    block = config["method"].get("adapter") or config["method"].get("lora") or {}
    targets = block.get("target_modules") or block.get("targets") or ()
    return _peak_of_step(
        json.dumps(settings),
        tuple(_hashable(phase[network]) for network in ("unet", "text_encoder")),
        tuple(targets),
        (rows_of_step(config, phase), *_tokens(config, settings)),
        config["resolution"],
        is_half,
        config["gradient_checkpointing"],
    )


def _hashable(kind: Any) -> Kind:
    return tuple(kind) if isinstance(kind, list) else kind


def _configs(config: Plain) -> Plain | None:
    """Read the configurations of a run's networks by name; None for an unknown model."""
    from dreambooth.pocket.embedded import FOLDERS  # Pillow

    path = config["model"]["path"]
    folder = FOLDERS.get(path, Path(path).expanduser())
    try:
        denoiser = next(n for n in PARTS["unet"] if (folder / n / "config.json").is_file())
        names = {"unet": denoiser, "text_encoder": "text_encoder", "vae": "vae"}
        if (folder / (second := "text_encoder_2") / "config.json").is_file():
            names[second] = second
        return {n: json.loads((folder / f / "config.json").read_text()) for n, f in names.items()}
    except (OSError, ValueError, StopIteration):
        return KNOWN.get(config["model"]["name"])


def _encoders(settings: Plain) -> list[Plain]:
    """List the configurations of the text encoders that can train: all are CLIP's."""
    names = ("text_encoder", "text_encoder_2")
    found = [settings[name] for name in names if name in settings]
    return [each for each in found if each.get("model_type") != "qwen3"]


def _tokens(config: Plain, settings: Plain) -> tuple[int, int]:
    """Count a prompt's tokens: CLIP's, and those of a text encoder that never trains."""
    clip = max((e.get("max_position_embeddings", 77) for e in _encoders(settings)), default=0)
    return clip, config["model"].get("max_sequence_length") or 0


@cache
def _linear_weights(configs: str) -> int:
    """Count the weights of the denoiser's linear layers, which model.quantize makes smaller."""
    import diffusers
    import torch

    from dreambooth.model.quantization import linear_layers

    settings = json.loads(configs)["unet"]
    kind = getattr(diffusers, settings.get("_class_name", "UNet2DConditionModel"))
    with torch.device("meta"):
        layers = linear_layers(kind.from_config(settings))
    return sum(layer.weight.numel() for layer in layers.values())


@cache
def _peak_of_step(
    configs: str,
    kinds: tuple[Kind, ...],
    targets: tuple[str, ...],
    sizes: tuple[int, int, int],
    resolution: int,
    is_half: bool,
    is_checkpointed: bool,
) -> int:
    """Run a step on the meta device; return the most bytes that are alive at once.

    `sizes` are the rows of a step, and the tokens of a prompt: of CLIP, and others.
    """
    import diffusers
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    settings, dtype = json.loads(configs), torch.bfloat16 if is_half else torch.float32
    encoders = _encoders(settings) if kinds[1] != "frozen" else []
    with torch.device("meta"):
        kind = getattr(diffusers, settings["unet"].get("_class_name", "UNet2DConditionModel"))
        unet: Any = kind.from_config(settings["unet"])
        texts: list[Any] = [CLIPTextModel(CLIPTextConfig(**each)) for each in encoders]
    for network, kind in ((unet, kinds[0]), *((text, kinds[1]) for text in texts)):
        torch.nn.Module.to(network, dtype).requires_grad_(False)
        _let_train(network, kind, targets)
        network.train()
    if is_checkpointed:
        unet.enable_gradient_checkpointing()
    halvings = len(settings.get("vae", {}).get("block_out_channels", range(4))) - 1
    rows, clip, others = sizes
    live = _Live([p for network in (unet, *texts) for p in network.parameters()])
    with torch.device("meta"), _attention(), live.watched():
        inputs = _inputs(unet, rows, resolution // 2**halvings, clip + others, dtype)
        if texts:
            words = inputs["encoder_hidden_states"]
            states = [text(torch.zeros(rows, clip, dtype=torch.long))[0] for text in texts]
            hidden = torch.cat(states, dim=-1)
            short = (0, words.shape[-1] - hidden.shape[-1], 0, others)
            inputs["encoder_hidden_states"] = words + torch.nn.functional.pad(hidden, short)
        unet(**inputs).sample.float().square().mean().backward()
    return live.peak


def _inputs(denoiser: Any, rows: int, side: int, length: int, dtype: Any) -> dict[str, Any]:
    """Make what a denoiser is given: latents of `side`, a timestep, prompts of `length` tokens."""
    import torch

    def empty(*shape: int) -> Tensor:
        return torch.empty(rows, *shape, dtype=dtype)

    config, given = denoiser.config, {"timestep": torch.zeros(rows, dtype=torch.long)}
    width = config.get("joint_attention_dim") or config.get("cross_attention_dim")
    given["encoder_hidden_states"] = empty(length, width)
    if "axes_dims_rope" in config:  # FLUX.2 klein, whose patches are 2x2 latents
        patches = (side // 2) ** 2
        given["hidden_states"] = empty(patches, config.in_channels)
        return given | {"img_ids": torch.zeros(patches, 4), "txt_ids": torch.zeros(length, 4)}
    latents = empty(config.in_channels, side, side)
    if "joint_attention_dim" in config:  # Stable Diffusion 3
        pooled = empty(config.pooled_projection_dim)
        return given | {"hidden_states": latents, "pooled_projections": pooled}
    if config.addition_embed_type == "text_time":  # Stable Diffusion XL
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        extra: Any = {"text_embeds": empty(pooled), "time_ids": empty(6)}
        given["added_cond_kwargs"] = extra
    return given | {"sample": latents}


def _let_train(network: nn.Module, kind: Kind, targets: Sequence[str]) -> None:
    """Let the weights train whose layers' inputs the backward pass needs.

    An adapter needs those of its layers. Gradients are dropped at once, and counted elsewhere.
    """
    ends = tuple(f".{target}.weight" for target in targets)
    for name, parameter in network.named_parameters():
        is_embedding = "token_embedding" in name
        trains = kind == "full" or kind == "token" and is_embedding
        if isinstance(kind, tuple):
            trains = any(fnmatchcase(name, pattern) for pattern in kind)
        elif kind not in ("full", "token", "frozen"):
            trains = name.endswith(ends) if ends else parameter.dim() == 2
        if trains:
            parameter.requires_grad_(True)
            parameter.register_post_accumulate_grad_hook(_drop)


def _drop(parameter: Tensor) -> None:
    parameter.grad = None


@contextmanager
def _attention() -> Iterator[None]:
    """Have attention need what its fused kernels do while the context lasts; "meta" has none.

    They keep queries, keys, values, the result and a sum for each query, not every pair.
    """
    import torch

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            result = query.new_empty((*query.shape[:-1], value.shape[-1]))
            sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
            ctx.save_for_backward(query, key, value, result, sums)
            return result

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
            return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])

    def attend(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
        return Fused.apply(query, key, value)

    functional: Any = torch.nn.functional
    # not a function mode, which the recomputation of gradient checkpointing does not see
    own, functional.scaled_dot_product_attention = functional.scaled_dot_product_attention, attend
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = own


class _Live:
    """Count the bytes of the storages that are alive, but for those of some parameters."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.now = self.peak = 0
        self._parameters = [p.untyped_storage() for p in parameters]  # kept, as ids name them
        self._seen = {id(storage) for storage in self._parameters}

    def watched(self) -> Any:
        """Make a context in which every new storage is counted until it is freed."""
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        note = self._note

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
                result = func(*args, **(kwargs or {}))
                for leaf in tree_leaves(result):
                    if hasattr(leaf, "untyped_storage"):
                        note(leaf.untyped_storage())
                return result

        return Watch()

    def _note(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size

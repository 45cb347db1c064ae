"""Add published adapters to a model's own weights: `W <- W + weight (W' - W)`.

`W'` is the layer as PEFT merges the adapter into it, for a LoRA `W + (alpha / rank) B A`, so that a
weight of 1 is the adapter as it was trained, and several adapters add up. The model's structure
does not change: it can have adapters of its own, of any kind, beside what is merged into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from dreambooth.errors import UserError, reason
from dreambooth.model.adapter_settings import is_scalable
from dreambooth.model.adapters.formats import find_adapter, read_adapters
from dreambooth.model.adapters.peft_kinds import Adapter, fill_layers, layer_of
from dreambooth.model.interface import BaseModel
from dreambooth.model.loading import keep_random_state

MERGED = "merged"  # PEFT's name of the adapter while it is merged


@dataclass(frozen=True)
class Merged:
    """What an adapter held: `tensors` by network; its kinds; ranks and alphas of its layers."""

    file: Path
    weight: float
    tensors: Mapping[str, int]
    kinds: tuple[str, ...]
    ranks: tuple[float, ...]
    alphas: tuple[float, ...]

    def __str__(self) -> str:
        where = [f"{count} tensors in the {name}" for name, count in self.tensors.items()]
        settings = [kind for kind in self.kinds if kind != "LORA"]
        settings += [f"rank {_span(self.ranks)}"] if self.ranks else []
        settings += [f"alpha {_span(self.alphas)}"] if self.alphas else []
        parts = [" and ".join(where), *settings, f"weight {self.weight:g}"]
        return f"{self.file}: {', '.join(parts)}."


def merge_file(model: BaseModel, path: str | Path, weight: float = 1.0) -> Merged:
    """Merge the adapters of a file or folder into a model's float32 weights, times `weight`.

    Reads what `read_adapters` does. Merging twice adds twice.

    Raises:
        UserError: there is no adapter, or a tensor of it fits no layer; the model is left as it
            was.
    """
    file = find_adapter(path)
    networks = {name: model.network(name) for name in model.trainable_networks}
    adapters = read_adapters(file, networks, model.layout.pipeline)
    _refuse_infinite(file, adapters)
    for name, adapter in adapters.items():  # all of them before the first one changes anything
        try:
            adapter_layers_of(networks[name], adapter)
        except Exception as error:  # PEFT and torch have types of their own
            raise UserError(f"{file} holds no adapter of this {name} ({reason(error)}).") from error
    ranks, alphas, kinds, tensors = set(), set(), set(), {}
    for name, adapter in adapters.items():
        model.restore(name)  # a sum rounded to bf16 would lose most of a small adapter
        layers = merge(networks[name], adapter, weight)
        if is_scalable(adapter.config):  # others call other things so
            ranks |= {value for layer in layers for value in _setting(layer, "r")}
            alphas |= {value for layer in layers for value in _setting(layer, "lora_alpha")}
            alphas |= {value for layer in layers for value in _setting(layer, "alpha")}
        kinds.add(_kind(adapter.config))
        tensors[name] = len(adapter.state)
    return Merged(file, weight, tensors, *(tuple(sorted(x)) for x in (kinds, ranks, alphas)))


@torch.no_grad()
def merge(module: nn.Module, adapter: Adapter, weight: float = 1.0) -> list[BaseTunerLayer]:
    """Merge one network's adapter into its layers, in place; return PEFT's layers of it."""
    layers = list(adapter_layers_of(module, adapter).values())
    for layer in layers:
        parameters = dict(layer.get_base_layer().named_parameters())
        before = {name: parameter.clone() for name, parameter in parameters.items()}
        layer.to(next(iter(before.values())).device)
        layer.merge()
        if weight != 1:
            for name, parameter in parameters.items():
                parameter.copy_(before[name].lerp(parameter, weight))
    return layers


def adapter_layers_of(module: nn.Module, adapter: Adapter) -> dict[str, Any]:
    """Make PEFT's layers of an adapter around a network's own, by name; the network stays as it is.

    They share the weights of the network's layers, of which only those that the adapter names
    have one.

    Raises:
        ValueError: a tensor of the adapter that PEFT's layers do not have, or lack.
    """
    skeleton = _skeleton(module, adapter.state)
    with keep_random_state():
        fill_layers(skeleton, adapter, MERGED)
    return {name: layer for name, layer in skeleton.named_modules() if _is_adapted(layer)}


def _refuse_infinite(file: Path, adapters: Mapping[str, Adapter]) -> None:
    for adapter in adapters.values():
        for name, tensor in adapter.state.items():
            if not tensor.isfinite().all():
                raise UserError(
                    f"{file} cannot be merged, for {name} holds values that are not finite: it was "
                    "saved after its training failed, so take an earlier one."
                )


def _skeleton(module: nn.Module, state: Iterable[str]) -> nn.Module:
    """Make a tree that holds the layers that an adapter names, and nothing else of a network.

    The layers are the network's own, without adapters around them, so that merging changes them.
    """
    modules, root = dict(module.named_modules()), nn.Module()
    inside = tuple(f"{name}." for name, layer in modules.items() if _is_adapted(layer))
    layers = {name: layer for name, layer in modules.items() if not name.startswith(inside)}
    for name in sorted({layer_of(key, layers) for key in state}):
        layer: Any = layers[name]
        *path, last = name.split(".")
        inner = root
        for part in path:
            if part not in inner._modules:
                inner.add_module(part, nn.Module())
            inner = inner.get_submodule(part)
        inner.add_module(last, layer.get_base_layer() if _is_adapted(layer) else layer)
    return root


def _is_adapted(layer: nn.Module) -> bool:
    return isinstance(layer, BaseTunerLayer)


def _setting(layer: BaseTunerLayer, name: str) -> Iterable[float]:
    """List a setting of PEFT's layer; those of some kinds of adapters lack some."""
    values: Any = getattr(layer, name, {})
    return values.values()


def _kind(config: PeftConfig) -> str:
    """Name a kind of adapter as PEFT does; DoRA is one of its own."""
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    return "DORA" if getattr(config, "use_dora", False) else kind


def _span(values: tuple[float, ...]) -> str:
    """Write `4`, or `4 to 16` where the layers differ."""
    first, last = f"{values[0]:g}", f"{values[-1]:g}"
    return first if first == last else f"{first} to {last}"

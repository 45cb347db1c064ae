"""Tell the weights of adapters from a network's own, as PEFT puts them around its layers."""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


def adapter_layers(module: nn.Module) -> dict[str, Any]:
    """List the layers of `module` that PEFT has put around its own, by name, sorted."""
    layers = {n: layer for n, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)}
    return dict(sorted(layers.items()))


def adapter_names(module: nn.Module) -> set[str]:
    """Name the parameters and buffers of `module` that belong to adapters."""
    names = set()
    for place, layer in adapter_layers(module).items():
        own = {name for name, _ in (*layer.named_parameters(), *layer.named_buffers())}
        names |= {f"{place}.{name}" for name in own if not name.startswith("base_layer.")}
    return names


def adapter_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """List the parameters of adapters in `module`, by name, sorted."""
    names = adapter_names(module)
    return dict(sorted((name, p) for name, p in module.named_parameters() if name in names))


def own_name(name: str) -> str:
    """Return the name that a parameter has without an adapter around its layer."""
    return name.replace(".base_layer.", ".")

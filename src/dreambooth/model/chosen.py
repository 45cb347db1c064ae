"""Choose a network's parameters by how it trains: all, an adapter's, or by patterns of names."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from dreambooth.errors import UserError
from dreambooth.model.interface import BaseModel, adapter_names, adapter_parameters, own_name

Kind = str | tuple[str, ...]  # how a network trains: a word, or patterns of parameter names


def matching(model: BaseModel, network: str, patterns: tuple[str, ...]) -> list[str]:
    """List a network's own parameters whose names match one of the `patterns`.

    Raises:
        UserError: a pattern matches none.
    """
    names = [own_name(name) for name, _ in _own_parameters(model, network)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(
                f"the pattern {pattern} of a phase matches no parameter of the {network}, which "
                f"has {names[0]} and {len(names) - 1} others: use * for any part of a name."
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _own_parameters(model: BaseModel, network: str) -> list[tuple[str, nn.Parameter]]:
    """List a network's parameters without those of adapters."""
    module = model.network(network)
    added = adapter_names(module)
    return [(name, p) for name, p in module.named_parameters() if name not in added]


def chosen(model: BaseModel, network: str, kind: Kind) -> list[nn.Parameter]:
    """List the parameters of a network that train in a phase of this kind."""
    if kind == "frozen":
        return []
    if kind == "adapter":
        return list(adapter_parameters(model.network(network)).values())
    own = _own_parameters(model, network)
    if isinstance(kind, str):
        return [parameter for _, parameter in own]
    named = {*matching(model, network, kind)}
    return [parameter for name, parameter in own if own_name(name) in named]

"""What trains in a phase: networks whole, adapters, a new token, or parameters by their names."""

from __future__ import annotations

from dataclasses import dataclass, fields
from fnmatch import fnmatchcase

from torch import nn

from dreambooth.errors import UserError
from dreambooth.model.adapter_settings import AdapterSettings
from dreambooth.model.adapter_weights import adapter_names, adapter_parameters, own_name
from dreambooth.model.interface import BaseModel
from dreambooth.model.peft_layers import check_adapter

Kind = str | tuple[str, ...]  # how a network trains: a word, or patterns of parameter names


@dataclass(frozen=True)
class Phase:
    """What trains: `frozen`, `full`, `adapter`; for the text encoder also `token`, its new rows.

    A tuple of patterns trains the parameters whose names match one, as file names do:
    `*.attn2.to_k.weight`. `unet` is a model's denoiser, whatever its architecture, and
    `text_encoder` all its encoders.
    """

    unet: Kind
    text_encoder: Kind

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
                object.__setattr__(self, field.name, tuple(value))
                continue
            allowed = ["frozen", "full", "adapter"] + ["token"] * (field.name == "text_encoder")
            if value not in allowed:
                raise UserError(
                    f"a phase cannot train {field.name}={value}: use one of {', '.join(allowed)}, "
                    "or a list of patterns of parameter names."
                )
        if self.unet == self.text_encoder == "frozen":
            raise UserError(
                "a phase trains nothing: set unet or text_encoder to something other than frozen."
            )

    @property
    def parts(self) -> tuple[Kind, Kind]:
        """How both parts train."""
        return self.unet, self.text_encoder

    def kinds(self, model: BaseModel) -> dict[str, Kind]:
        """Say of each network that can train how it does.

        In a phase that trains a token, text encoders that take no new words are frozen.
        """
        kinds = {model.denoiser: self.unet} | dict.fromkeys(model.text_encoders, self.text_encoder)
        if self.text_encoder == "token":
            kinds |= {n: "frozen" for n in model.text_encoders if n not in model.token_encoders}
        return kinds

    def check(self, model: BaseModel, adapter: AdapterSettings | None) -> None:
        """Refuse adapters and patterns that do not fit the model, which is left as it was.

        Raises:
            UserError: names the network and what does not fit.
        """
        for network, kind in self.kinds(model).items():
            if kind == "adapter" and adapter is not None:
                check_adapter(model, network, adapter)
            elif isinstance(kind, tuple):
                matching(model, network, kind)


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

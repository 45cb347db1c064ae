"""Read adapters of any kind in PEFT's layout: a file with its config, one for each network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from peft import (
    PeftConfig,
    PeftType,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import Tensor, nn
from transformers import PreTrainedModel

from dreambooth.errors import UserError, reason
from dreambooth.model.adapter_settings import STARTS, adapts_layers

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """One network's adapters, as PEFT takes them.

    `state` holds every adapted layer's tensors, of a LoRA A `[rank,in]` and B `[out,rank]`, named
    `<layer>.lora_A.weight` and `<layer>.lora_B.weight`.
    """

    config: PeftConfig
    state: dict[str, Tensor]


def network_folders(folder: Path) -> dict[str, Path]:
    """List the folders within `folder` that hold an adapter in PEFT's layout, by their names."""
    inner = sorted(folder.iterdir()) if folder.is_dir() else []
    return {place.name: place for place in inner if is_peft(place)}


def is_peft(folder: Path) -> bool:
    """Tell whether a folder holds an adapter in PEFT's layout."""
    return (folder / PEFT_CONFIG).is_file() and (folder / PEFT_FILE).is_file()


def read_config(file: Path) -> dict[str, Any]:
    """Read the config beside a file in PEFT's layout.

    Raises:
        UserError: it is missing or damaged, or the adapter began by changing the base model.
    """
    try:
        config = json.loads((file.parent / PEFT_CONFIG).read_text())
        if config["peft_type"] == "LORA" and not config.get("lora_alpha"):
            raise ValueError("it lacks lora_alpha")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} needs its {PEFT_CONFIG} beside it ({reason(error)}): copy it there, for the "
            "kind of adapter and alpha are only in it."
        ) from error
    if (start := config.get("init_lora_weights", True)) not in STARTS:
        raise UserError(
            f"{file} began by changing the base model ({PEFT_CONFIG} has "
            f"init_lora_weights={start}), and holds only what came after: convert it with PEFT to "
            "a plain LoRA, or merge it."
        )
    return config


def is_plain_lora(config: Mapping[str, Any]) -> bool:
    """Tell whether a config is of an adapter that computes `W x + scale B A x`."""
    return config["peft_type"] == "LORA" and not config.get("use_dora")


def read_other_kind(
    file: Path,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    networks: Mapping[str, nn.Module],
) -> tuple[str, Adapter]:
    """Read an adapter that is no plain LoRA; return the network that it is for, and it.

    Raises:
        UserError: PEFT has no such kind, it is none that adapts layers, or a tensor has no layer.
    """
    adapter_config: Any = _config_of(file, config)
    named = {network: _names(state, module) for network, module in networks.items()}
    lost = {network: _lost(named[network], module) for network, module in networks.items()}
    network = min(networks, key=lambda name: len(lost[name]))
    layers = dict(networks[network].named_modules())
    if lost[network]:
        raise UserError(
            f"only {len(state) - len(lost[network])} of the {len(state)} tensors of {file} fit the "
            f"model, {lost[network][0]} does not: use an adapter that was trained for this base "
            "model."
        )
    if not getattr(adapter_config, "target_modules", None):  # PEFT would ask for the model's type
        adapter_config.target_modules = sorted({layer_of(key, layers) for key in named[network]})
    return network, Adapter(adapter_config, named[network])


def fill_layers(module: nn.Module, adapter: Adapter, name: str) -> None:
    """Put an adapter's layers around those of `module`, as PEFT's adapter `name`.

    Raises:
        ValueError: a tensor that the layers do not have, or lack.
    """
    # the layers of a LoRA are those of its tensors, of other kinds those that the config names
    layers = adapter.state if adapter.config.peft_type == PeftType.LORA else None
    inject_adapter_in_model(adapter.config, module, name, state_dict=layers)
    own = get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False)
    if other := sorted(own.keys() ^ adapter.state.keys()):
        side = "have no place for" if other[0] in adapter.state else "lack"
        raise ValueError(f"the layers {side} {other[0]} and {len(other) - 1} other tensors")
    set_peft_model_state_dict(module, adapter.state, name)


def layer_of(key: str, layers: Mapping[str, nn.Module]) -> str:
    """Return the longest beginning of a tensor's name that names a layer, empty if none does."""
    while key and key not in layers:
        key = key.rpartition(".")[0]
    return key


def _config_of(file: Path, config: Mapping[str, Any]) -> PeftConfig:
    """Make PEFT's configuration, without fields that this version of it does not have."""
    try:
        kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]]
        known = {field.name for field in fields(kind) if field.init} - {"peft_type"}
        made = kind(**{name: value for name, value in config.items() if name in known})
    except Exception as error:  # each class has checks of its own
        raise UserError(
            f"{file} is a {config['peft_type']} adapter by its {PEFT_CONFIG}, which this version "
            f"of PEFT cannot read ({reason(error)}): merge it into its base model with PEFT, and "
            "use that as model.path."
        ) from error
    if not adapts_layers(made):
        raise UserError(
            f"{file} is a {config['peft_type']} adapter by its {PEFT_CONFIG}, which needs inputs "
            "or a loop of its own: use an adapter of layers, such as a LoRA."
        )
    return made


def _names(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Name tensors by the layers of `module`, as its PEFT does."""
    named = {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in state.items()}
    if isinstance(module, PreTrainedModel) and not hasattr(module, "text_model"):
        # version 5 of transformers has dropped this prefix, which files keep
        named = {key.removeprefix("text_model."): tensor for key, tensor in named.items()}
    norms = ".lora_magnitude_vector"
    return {key.replace(f"{norms}.weight", norms): tensor for key, tensor in named.items()}


def _lost(names: Iterable[str], module: nn.Module) -> list[str]:
    """List the names that begin with no layer of `module` that has weights."""
    layers = dict(module.named_modules())
    weights = {name: getattr(layers[layer_of(name, layers)], "weight", None) for name in names}
    return sorted(name for name, weight in weights.items() if weight is None)

"""Save a model's adapters as PEFT's folders, one for each network, and load them."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreambooth.errors import UserError, reason
from dreambooth.files import atomic, write_json
from dreambooth.model.adapters.formats import PEFT_CONFIG, PEFT_FILE, PEFT_PREFIX
from dreambooth.model.interface import BaseModel
from dreambooth.model.loading import keep_random_state
from dreambooth.model.peft_layers import ADAPTER, has_adapter, remove_adapter
from dreambooth.weights_files import sort_header


def save_peft(
    model: BaseModel, folder: str | Path, dtype: torch.dtype = torch.float32
) -> list[Path]:
    """Write `folder/<network>` for each network with an adapter, in `dtype`; return these folders.

    PEFT's `PeftModel.from_pretrained(network, folder/<network>)` loads them.

    Raises:
        UserError: the model has no adapter.
    """
    adapted = [name for name in model.trainable_networks if has_adapter(model.network(name))]
    if not adapted:
        raise UserError("the model has no adapter to save: train one, as with method=lokr.")
    for name in adapted:
        module = model.network(name)
        state = get_peft_model_state_dict(module, save_embedding_layers=False)
        # copies, for some kinds share random bases between layers, which safetensors refuses
        state = {PEFT_PREFIX + key: _copy(tensor, dtype) for key, tensor in state.items()}
        place = Path(folder) / name
        place.mkdir(parents=True, exist_ok=True)
        with atomic(place / PEFT_FILE) as file:
            save_file(dict(sorted(state.items())), file, {"format": "pt"})
            sort_header(file)
        write_json(place / PEFT_CONFIG, _plain(module.peft_config[ADAPTER].to_dict()))
    return [Path(folder) / name for name in adapted]


def load_peft(model: BaseModel, folder: str | Path) -> int:
    """Put the adapters that `save_peft` wrote into a model; return how many tensors they have.

    Raises:
        UserError: a network has an adapter, files are missing or damaged, or a tensor fits no layer
            or is missing; the model is left without adapters.
    """
    places = {name: Path(folder) / name for name in model.trainable_networks}
    found = {name: place for name, place in places.items() if (place / PEFT_CONFIG).is_file()}
    if not found:
        raise UserError(f"there is no adapter in {folder}: give a folder with unet/{PEFT_CONFIG}.")
    count = 0
    for name, place in found.items():
        module = model.network(name)
        if has_adapter(module):
            raise UserError(f"the {name} has an adapter already: load {place} into a fresh model.")
        try:
            count += _load(module, place)
        except Exception as error:  # files, PEFT and torch each have types of their own
            remove_adapter(module)
            raise UserError(f"{place} is no adapter of this {name} ({reason(error)}).") from error
    return count


def _copy(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to("cpu", dtype if tensor.is_floating_point() else None, copy=True)


def _load(module: Any, place: Path) -> int:
    """Load one network's folder; return how many tensors it holds."""
    fields = json.loads((place / PEFT_CONFIG).read_text())
    state = load_file(place / PEFT_FILE)
    state = {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in state.items()}
    kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[fields["peft_type"]]
    with keep_random_state():
        inject_adapter_in_model(kind.from_peft_type(**fields), module, ADAPTER)
    own = get_peft_model_state_dict(module, save_embedding_layers=False)
    other = sorted(own.keys() ^ state.keys())
    if other:
        side = "has no place for" if other[0] in state else "misses"
        raise ValueError(f"the network {side} {other[0]} and {len(other) - 1} other tensors")
    set_peft_model_state_dict(module, state, ADAPTER)
    return len(state)


def _plain(value: Any) -> Any:
    """Turn a configuration into JSON values, sets sorted, so that equal ones make equal files."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value

"""Save a model's adapters as PEFT's folders, one for each network."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from dreambooth.errors import UserError
from dreambooth.files import atomic, write_json
from dreambooth.model.adapters.peft_kinds import PEFT_CONFIG, PEFT_FILE, PEFT_PREFIX
from dreambooth.model.interface import BaseModel
from dreambooth.model.peft_layers import ADAPTER, has_adapter
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


def _copy(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to("cpu", dtype if tensor.is_floating_point() else None, copy=True)


def _plain(value: Any) -> Any:
    """Turn a configuration into JSON values, sets sorted, so that equal ones make equal files."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value

"""Save a model's LoRA as kohya's scripts do: the file that ComfyUI and AUTOMATIC1111 read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from peft import get_peft_model_state_dict
from safetensors.torch import save_file

from dreambooth.errors import UserError
from dreambooth.files import atomic
from dreambooth.model.adapter_weights import adapter_layers
from dreambooth.model.interface import BaseModel
from dreambooth.model.peft_layers import ADAPTER, has_adapter
from dreambooth.weights_files import sort_header

# what diffusers' converter calls the networks; a text encoder that is the only one is `lora_te`
PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}


def save_kohya(
    model: BaseModel, file: str | Path, dtype: torch.dtype, metadata: Mapping[str, str]
) -> None:
    """Write the adapters of all networks into one file in `dtype`, atomically.

    Names are `lora_unet_<layer>.lora_down.weight`, `.lora_up.weight` and `.alpha`, with `_` for
    each `.` of the layer, and `lora_te_text_model_<layer>` for the text encoder; of two text
    encoders `lora_te1_...` and `lora_te2_...`.

    Raises:
        UserError: the model has no LoRA.
    """
    state: dict[str, torch.Tensor] = {}
    for name in model.trainable_networks:
        module = model.network(name)
        if has_adapter(module):
            own = "lora_te" if model.text_encoders == (name,) else PREFIXES[name]
            state |= _converted(name, module, own, dtype)
    if not state:
        raise UserError("the model has no LoRA adapters to save: train one with method=lora.")
    with atomic(file) as temporary:
        save_file(state, temporary, {"format": "pt"})
        sort_header(temporary, metadata)


def _converted(
    network: str, module: torch.nn.Module, prefix: str, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Convert one network's adapters; alpha is what `alpha / rank` gives the layer's scale."""
    state = get_peft_model_state_dict(module, save_embedding_layers=False)
    # version 5 of transformers has dropped this part of a text encoder's names
    inner = "text_model." if prefix.startswith("lora_te") else ""
    named = {f"{network}.{inner}{k.removeprefix(inner)}": x for k, x in state.items()}
    converted = convert_state_dict_to_kohya(named)
    result = {}
    for key, tensor in converted.items():
        own = key.replace(PREFIXES[network], prefix, 1)
        if not own.endswith(".alpha"):  # it took alpha to be the rank
            result[own] = tensor.detach().cpu().to(dtype).contiguous()
    for layer, scale, rank in _scales(module):
        place = f"{prefix}_{(inner + layer.removeprefix(inner)).replace('.', '_')}"
        result[f"{place}.alpha"] = torch.tensor(scale * rank)
    return result


def _scales(module: torch.nn.Module) -> list[tuple[str, float, int]]:
    """List each adapted layer with its scale and its rank."""
    return [
        (name, float(layer.scaling[ADAPTER]), int(layer.r[ADAPTER]))
        for name, layer in adapter_layers(module).items()
    ]

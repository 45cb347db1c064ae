"""Save a model's LoRA as the file that diffusers loads, and load published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
from peft import get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict

from dreambooth.errors import UserError
from dreambooth.files import atomic
from dreambooth.model.adapters.formats import LORA_FILE, find_lora, read_lora
from dreambooth.model.interface import BaseModel
from dreambooth.model.loading import keep_random_state
from dreambooth.model.lora import ADAPTER, has_lora
from dreambooth.weights_files import sort_header


def save_lora(model: BaseModel, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write the adapters as `folder/pytorch_lora_weights.safetensors`, in `dtype`, atomically.

    The `load_lora_weights(folder)` of diffusers' pipelines loads it; alpha is in its metadata.

    Raises:
        UserError: the model has no adapters.
    """
    networks = {name: model.network(name) for name in model.trainable_networks}
    adapted = {name: module for name, module in networks.items() if has_lora(module)}
    if not adapted:
        raise UserError("the model has no LoRA adapters to save: train one with method=lora.")
    layers = {}
    for name, module in adapted.items():
        layers[name] = get_peft_model_state_dict(module, save_embedding_layers=False)
        if name in model.text_encoders:
            # `text_model.` is what every version of diffusers reads; transformers 5 has dropped it
            prefix = "text_model."
            state = layers[name].items()
            prefixed = {prefix + key.removeprefix(prefix): tensor for key, tensor in state}
            layers[name] = convert_state_dict_to_diffusers(prefixed)
        layers[name] = {key: tensor.to(dtype) for key, tensor in layers[name].items()}
    with atomic(Path(folder) / LORA_FILE) as file:
        model.layout.pipeline.save_lora_weights(
            file.parent,
            **{f"{name}_lora_layers": state for name, state in layers.items()},
            **{f"{name}_lora_adapter_metadata": _metadata(m) for name, m in adapted.items()},
        )
        sort_header(file)
    return Path(folder) / LORA_FILE


def load_lora(model: BaseModel, path: str | Path) -> int:
    """Put the adapters of a file or folder into a model; return how many tensors they have.

    Reads diffusers' and kohya's layout and PEFT's (`adapter_model.safetensors` with its config).

    Raises:
        UserError: the model has adapters, or a tensor does not fit; the model is left as it was.
    """
    networks = {name: model.network(name) for name in model.trainable_networks}
    for name, module in networks.items():
        if has_lora(module):
            raise UserError(f"the {name} has LoRA adapters already: load {path} into a fresh one.")
    adapters = read_lora(find_lora(path), networks, model.layout.pipeline)
    for name, adapter in adapters.items():
        module, state = networks[name], adapter.state
        with keep_random_state():
            inject_adapter_in_model(adapter.config, module, ADAPTER, state_dict=state)
        set_peft_model_state_dict(module, state, ADAPTER)
    return sum(len(adapter.state) for adapter in adapters.values())


def _metadata(module: torch.nn.Module) -> dict[str, object]:
    """Say how A and B are applied, in the fields that every version of PEFT reads."""
    # the whole config would hold paths of this machine and fields that other versions refuse
    configs: Any = module.peft_config
    config = configs[ADAPTER]
    targets = sorted(config.target_modules)
    return {"r": config.r, "lora_alpha": config.lora_alpha, "target_modules": targets}

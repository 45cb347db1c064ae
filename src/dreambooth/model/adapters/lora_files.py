"""Save a model's LoRA as the file that diffusers loads, and load published ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
from peft import get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict

from dreambooth.errors import UserError
from dreambooth.files import atomic
from dreambooth.model.adapters.formats import LORA_FILE, Adapter, find_lora, read_lora
from dreambooth.model.interface import BaseModel
from dreambooth.model.loading import keep_random_state
from dreambooth.model.peft_layers import ADAPTER, has_adapter
from dreambooth.weights_files import sort_header


def save_lora(model: BaseModel, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write the adapters as `folder/pytorch_lora_weights.safetensors`, in `dtype`, atomically.

    The `load_lora_weights(folder)` of diffusers' pipelines loads it; alpha is in its metadata.

    Raises:
        UserError: the model has no adapters.
    """
    networks = {name: model.network(name) for name in model.trainable_networks}
    adapted = {name: module for name, module in networks.items() if has_adapter(module)}
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
            converted = convert_state_dict_to_diffusers(prefixed)
            # with PEFT's own name of DoRA's norms transformers 5 leaves them out
            norms = ".lora_magnitude_vector"
            layers[name] = {k + ".weight" * k.endswith(norms): t for k, t in converted.items()}
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
        if has_adapter(module):
            raise UserError(f"the {name} has LoRA adapters already: load {path} into a fresh one.")
    adapters = read_lora(find_lora(path), networks, model.layout.pipeline)
    put_adapters(model, adapters)
    return sum(len(adapter.state) for adapter in adapters.values())


def put_adapters(model: BaseModel, adapters: Mapping[str, Adapter]) -> None:
    """Put adapters into the networks of a model that has none, by the networks' names."""
    for name, adapter in adapters.items():
        module, state = model.network(name), adapter.state
        with keep_random_state():
            inject_adapter_in_model(adapter.config, module, ADAPTER, state_dict=state)
        set_peft_model_state_dict(module, state, ADAPTER)


def _metadata(module: torch.nn.Module) -> dict[str, object]:
    """Say how A and B are applied, in the fields that every version of PEFT reads."""
    # the whole config would hold paths of this machine and fields that other versions refuse
    configs: Any = module.peft_config
    config = configs[ADAPTER]
    targets = sorted(config.target_modules)
    known = {"r": config.r, "lora_alpha": config.lora_alpha, "target_modules": targets}
    optional = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern")
    return known | {name: value for name in optional if (value := getattr(config, name))}

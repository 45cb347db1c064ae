"""Save a model's LoRA as the file that diffusers loads, and load published adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
from peft import get_peft_model_state_dict

from dreambooth.errors import UserError, reason
from dreambooth.files import atomic
from dreambooth.model.adapters.formats import LORA_FILE, find_adapter, read_adapters
from dreambooth.model.adapters.peft_kinds import Adapter, fill_layers
from dreambooth.model.interface import BaseModel
from dreambooth.model.loading import keep_random_state
from dreambooth.model.peft_layers import ADAPTER, has_adapter, remove_adapter
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


def load_adapters(model: BaseModel, path: str | Path) -> int:
    """Put the adapters of a file or folder into a model; return how many tensors they have.

    Reads what `read_adapters` does: diffusers', kohya's and PEFT's layout.

    Raises:
        UserError: the model has adapters, or a tensor does not fit or is missing; the model is left
            as it was.
    """
    networks = {name: model.network(name) for name in model.trainable_networks}
    for name, module in networks.items():
        if has_adapter(module):
            raise UserError(f"the {name} has an adapter already: load {path} into a fresh model.")
    adapters = read_adapters(find_adapter(path), networks, model.layout.pipeline)
    try:
        put_adapters(model, adapters)
    except Exception as error:  # PEFT and torch have types of their own
        for name in adapters:
            remove_adapter(networks[name])
        raise UserError(f"{path} holds no adapter of this model ({reason(error)}).") from error
    return sum(len(adapter.state) for adapter in adapters.values())


def put_adapters(model: BaseModel, adapters: Mapping[str, Adapter]) -> None:
    """Put adapters into the networks of a model that has none, by the networks' names."""
    for name, adapter in adapters.items():
        with keep_random_state():
            fill_layers(model.network(name), adapter, ADAPTER)


def _metadata(module: torch.nn.Module) -> dict[str, object]:
    """Say how A and B are applied, in the fields that every version of PEFT reads."""
    # the whole config would hold paths of this machine and fields that other versions refuse
    configs: Any = module.peft_config
    config = configs[ADAPTER]
    targets = sorted(config.target_modules)
    known = {"r": config.r, "lora_alpha": config.lora_alpha, "target_modules": targets}
    optional = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern")
    return known | {name: value for name in optional if (value := getattr(config, name))}

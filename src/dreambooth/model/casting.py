"""Cast or quantise a frozen network, and keep its exact float32 weights beside it.

`BaseModel.restore` brings them back.
"""

from __future__ import annotations

import torch
from torch import nn

from dreambooth.model.adapter_weights import adapter_names
from dreambooth.model.interface import BaseModel
from dreambooth.model.quantization import quantize_layers


def cast_network(model: BaseModel, network: str, dtype: torch.dtype) -> None:
    """Cast a network's own weights, keeping their float32 masters; adapters stay as they are."""
    module = model.network(network)
    if module.dtype == dtype:
        return
    model.restore(network)
    if dtype != torch.float32:
        _keep_master(model, network)
        added = adapter_names(module)
        parameters = [(p, p.data) for name, p in module.named_parameters() if name in added]
        buffers = [(name, buffer) for name, buffer in module.named_buffers() if name in added]
        nn.Module.to(module, dtype)  # diffusers' own `to` warns of nothing
        for parameter, data in parameters:
            parameter.data = data
        for name, buffer in buffers:
            owner, _, last = name.rpartition(".")
            module.get_submodule(owner).register_buffer(
                last, buffer, last not in module.get_submodule(owner)._non_persistent_buffers_set
            )


def quantize_network(model: BaseModel, network: str, bits: str) -> None:
    """Quantise a frozen network's own linear layers, keeping its float32 masters.

    They are on the device that the model computes on, where the rest of it follows.
    """
    if network not in model.masters:
        _keep_master(model, network)
    module = model.network(network)
    quantize_layers(module, bits, adapter_names(module), model.device)


def _keep_master(model: BaseModel, network: str) -> None:
    """Keep a network's float32 weights; on a CPU no copies, since a cast makes new tensors."""
    state = model.base_state(network).items()
    model.masters[network] = {name: tensor.to("cpu") for name, tensor in state}

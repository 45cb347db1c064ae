"""Networks that wait in the machine's memory while a GPU works with others.

diffusers' training scripts have this as `--offload`, its pipelines as `enable_model_cpu_offload`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dreambooth.model.interface import BaseModel


def set_aside(model: BaseModel, device: str | torch.device) -> None:
    """Have every network wait on the CPU until `device`, `cuda`, needs it.

    One that waits is an attribute of the model but no submodule: what moves the model or lists its
    weights, as Lightning does, leaves it where it is.
    """
    model.offloads_from = torch.device(device)
    for name in model.layout.networks:
        network = model.network(name)
        del model._modules[name]
        object.__setattr__(model, name, network)  # nn.Module's own would register it
        _move(network, "cpu")


def put_to_work(model: BaseModel, networks: Iterable[str]) -> None:
    """Have these networks wait no longer, if `model` offloads any: a training step needs them.

    They go with the model from now on, which is still on the CPU: what comes before the training,
    such as casting them, needs no room on the GPU.
    """
    for name in sorted(networks):
        if name not in model._modules:
            network = model.network(name)
            object.__delattr__(model, name)
            model.add_module(name, network)


def waits(model: BaseModel, networks: Iterable[str]) -> bool:
    """Tell whether all of these networks wait, so that no step of the run changes them."""
    return not any(name in model._modules for name in networks)


@contextmanager
def alone(model: BaseModel, *networks: str) -> Iterator[None]:
    """Have these networks alone on the GPU while the context lasts, if `model` offloads any.

    Without a name nothing is there.
    """
    if model.offloads_from is None:
        yield
        return
    parts = [model.network(name) for name in networks]
    model.to("cpu")
    try:
        for part in parts:
            _move(part, model.device)
        yield
    finally:
        for part in parts:
            _move(part, "cpu")
        model.to(model.device)


@contextmanager
def one_at_a_time(model: BaseModel, pipeline: Any) -> Iterator[None]:
    """Have a pipeline's networks on the GPU one after another, if `model` offloads any.

    Those that train leave too while the text is encoded and the pictures are decoded; their
    optimizer's state stays.
    """
    if model.offloads_from is None:
        yield
        return
    pipeline.enable_model_cpu_offload(device=model.device)
    try:
        yield
    finally:
        pipeline.remove_all_hooks()
        for name in model.layout.networks:  # after an error, one of them is not back yet
            _move(model.network(name), "cpu")
        model.to(model.device)


def _move(network: nn.Module, device: Any) -> None:
    nn.Module.to(network, device)  # diffusers' own `to` warns of float16 on a CPU

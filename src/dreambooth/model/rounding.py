"""Weights as a smaller dtype holds them: what is exported is what a run draws and scores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dreambooth.files import cache_key
from dreambooth.model.adapter_weights import adapter_names
from dreambooth.model.interface import BaseModel
from dreambooth.model.textual_inversion import TokenSettings, set_token_rows, token_rows


def exported_weights(model: BaseModel, kind: str) -> list[Tensor]:
    """List the float tensors of an export of `kind`: `full`, `lora`, `adapter` or `token`.

    References into the model. Of a network that was cast while frozen they are the float32 masters.
    """
    tensors: list[Tensor] = []
    for name in model.layout.networks:
        if kind == "full":
            tensors += (model.masters.get(name) or model.base_state(name)).values()
        elif kind in ("lora", "adapter"):
            added, state = adapter_names(model.network(name)), model.network(name).state_dict()
            tensors += [tensor for key, tensor in state.items() if key in added]
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def holds(dtype: torch.dtype, tensors: Iterable[Tensor]) -> bool:
    """Tell whether every value of `tensors` is in the range of `dtype`.

    >>> holds(torch.float16, [torch.tensor([1.0, 7e4])]), holds(torch.bfloat16, [torch.ones(1)])
    (False, True)
    """
    most = torch.finfo(dtype).max
    return all(
        float(t.abs().max()) <= most for t in tensors if t.numel() and bool(t.isfinite().all())
    )


@torch.no_grad()
def round_weights(model: BaseModel, kind: str, dtype: torch.dtype) -> None:
    """Round every weight that an export of `kind` holds to a value of `dtype`, in place."""
    for tensor in exported_weights(model, kind):
        tensor.copy_(tensor.to(dtype))
    for name, master in model.masters.items() if kind == "full" else ():
        for key, tensor in model.base_state(name).items():
            tensor.copy_(master[key])


def round_token(model: BaseModel, settings: TokenSettings | None, dtype: torch.dtype) -> None:
    """Round the embeddings of a token, if there is one, to values of `dtype`, in place."""
    if settings is not None:
        rows = token_rows(model, settings).items()
        set_token_rows(model, settings, {name: each.to(dtype).float() for name, each in rows})


def tensors_hash(state: Mapping[str, Tensor]) -> str:
    """Hash tensors by name, dtype, shape and bytes: 16 hex digits."""
    facts = {}
    for name, tensor in state.items():
        data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        facts[name] = [str(tensor.dtype), list(tensor.shape), hashlib.sha256(data).hexdigest()]
    return cache_key(**facts)

"""Tensors on the disk that are read back: safetensors files that carry a hash of their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dreambooth.files import atomic

CONTENT = "content"  # key of the metadata: the hash


class Damaged(Exception):
    """A file that does not hold what was written; its text says how that shows."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and their metadata whole or not at all, with a hash of both."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        save_file(kept, temporary, {**metadata, CONTENT: _content(kept, metadata)})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `write_tensors` has written => tensors on the CPU, metadata.

    Raises:
        FileNotFoundError: no such file.
        Damaged: it is not whole, or one of its bytes is another.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise Damaged(str(error)) from error
    written = metadata.pop(CONTENT, None)
    if written is None:
        raise Damaged("it carries no hash of its content")
    if written != _content(tensors, metadata):
        raise Damaged("its content differs from the hash that was written with it")
    return tensors, metadata


def _content(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Hash names, types, shapes and bytes: 64 hex digits."""
    facts = {name: [str(t.dtype), list(t.shape)] for name, t in tensors.items()}
    digest = hashlib.sha256(json.dumps([facts, dict(metadata)], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()

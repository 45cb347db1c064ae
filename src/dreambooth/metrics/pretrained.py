"""Read an encoder's network and tokenizer from a folder or from the model hub.

transformers and the hub's client take seconds to import, so each function imports them itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from dreambooth.errors import reason

UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, UnpicklingError, SafetensorError)
"""What transformers raises for weights that are missing, damaged or do not fit."""


@dataclass(frozen=True)
class Pretrained:
    """A network as it was read: `missing` names the tensors that its files lack."""

    network: Any
    tokenizer: Any | None
    missing: list[str]


def read(where: str, network: str, with_tokenizer: bool, local_only: bool = True) -> Pretrained:
    """Read transformers' class `network` from a folder or a repository, in float32.

    Safetensors are read if there are any, else PyTorch's file, of which only tensors are read.

    Raises:
        UNREADABLE: weights that are not there, are damaged or do not fit.
    """
    import transformers

    options = {"add_pooling_layer": False} if network == "ViTModel" else {}
    with _no_progress_bar():
        model, info = getattr(transformers, network).from_pretrained(
            where,
            weights_only=True,
            output_loading_info=True,
            local_files_only=local_only,
            dtype=torch.float32,
            **options,
        )
        tokenizer = None
        if with_tokenizer:
            words = [Path(where, file) for file in ("tokenizer.json", "vocab.json")]
            if Path(where).is_dir() and not any(file.is_file() for file in words):
                # transformers would make a tokenizer with an empty vocabulary
                raise OSError("it has no tokenizer.json")
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                where, local_files_only=local_only
            )
    return Pretrained(model, tokenizer, sorted(info["missing_keys"]))


def read_from_hub(repo: str, network: str, with_tokenizer: bool) -> Pretrained:
    """Read from the hub's local cache, else download, if one quick question is answered.

    Without that question transformers would retry for minutes where there is no network.

    Raises:
        UNREADABLE: neither the cache nor the hub has it.
    """
    from huggingface_hub import HfApi, is_offline_mode

    try:
        return read(repo, network, with_tokenizer)
    except (OSError, ValueError):
        if is_offline_mode():
            raise
    # or transformers asks a bot for a safetensors copy of a repository that has none
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    try:
        HfApi().model_info(repo, timeout=10)
    except Exception as error:  # the client raises its HTTP library's own types
        raise OSError(reason(error)) from error
    return read(repo, network, with_tokenizer, local_only=False)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

"""Begin a fine-tune at a LoRA that there is: its A and B in place of fresh ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from dreambooth.errors import UserError
from dreambooth.model.adapter_settings import AdapterSettings
from dreambooth.model.adapter_weights import adapter_layers
from dreambooth.model.adapters.formats import find_lora, read_lora
from dreambooth.model.adapters.merging import MERGED, adapter_layers_of
from dreambooth.model.interface import BaseModel
from dreambooth.model.peft_layers import ADAPTER, add_adapter, remove_adapter


class InitialAdapter:
    """A LoRA's file, read for a model without adapters.

    Raises:
        UserError: there is none, or a tensor of it fits no layer of the model.
    """

    def __init__(self, model: BaseModel, path: str | Path) -> None:
        self.file = find_lora(path)
        networks = {name: model.network(name) for name in model.trainable_networks}
        self.adapters = read_lora(self.file, networks, model.layout.pipeline)

    def check(self, model: BaseModel, networks: set[str], settings: AdapterSettings) -> None:
        """Refuse a file that adapters of `networks` cannot begin at; the model is left as it was.

        Raises:
            UserError: a network that has no adapter, or as `put_into`.
        """
        others = sorted(self.adapters.keys() - networks)
        if others:
            raise UserError(
                f"init_adapter={self.file} adapts the {others[0]}, which this method gives no "
                "adapter: train it too (train_text_encoder=true), or take another file."
            )

        for network in sorted(self.adapters):
            add_adapter(model, network, settings, seed=0)
            try:
                self.put_into(model, network)
            finally:
                remove_adapter(model.network(network))

    @torch.no_grad()
    def put_into(self, model: BaseModel, network: str) -> None:
        """Overwrite the fresh adapter of a network, so that it computes what the file's does.

        B is multiplied by `file's scale / own scale`, where the scale is alpha / rank. Layers that
        the file does not adapt keep their fresh adapters, which change nothing.

        Raises:
            UserError: another rank or kind, or layers that the network's adapter does not have.
        """
        if network not in self.adapters:
            return
        module = model.network(network)
        own = adapter_layers(module)
        for name, theirs in adapter_layers_of(module, self.adapters[network]).items():
            layer = own.get(name)
            if layer is None:
                raise UserError(
                    f"init_adapter={self.file} adapts {name} of the {network}, which this method "
                    "does not: add it to method.adapter.target_modules."
                )
            if not _is_plain(layer) or not _is_plain(theirs):
                raise UserError(
                    f"init_adapter={self.file} and this method are not both plain LoRAs, and only "
                    "these can be continued: use method=lora and the file of a LoRA."
                )
            (a, b), (new_a, new_b) = _matrices(layer), _matrices(theirs)
            if a.shape != new_a.shape:
                raise UserError(
                    f"init_adapter={self.file} has rank {len(new_a)} and this method {len(a)}: set "
                    f"method.adapter.r={len(new_a)}."
                )
            a.copy_(new_a)
            b.copy_(new_b * (theirs.scaling[MERGED] / layer.scaling[ADAPTER]))


def _is_plain(layer: Any) -> bool:
    """Tell whether PEFT's layer computes `W x + scale B A x`."""
    return isinstance(layer, LoraLayer) and not layer.lora_magnitude_vector


def _matrices(layer: Any) -> tuple[Tensor, Tensor]:
    """Return A `[rank,in,...]` and B `[out,rank,...]` of PEFT's layer, which has one adapter."""
    (a,), (b,) = layer.lora_A.values(), layer.lora_B.values()
    return a.weight, b.weight

"""Begin a fine-tune at an adapter that there is: its weights in place of fresh ones."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor

from dreambooth.errors import UserError, reason
from dreambooth.model.adapter_settings import AdapterSettings
from dreambooth.model.adapter_weights import adapter_layers
from dreambooth.model.adapters.formats import find_adapter, read_adapters
from dreambooth.model.adapters.merging import MERGED, adapter_layers_of
from dreambooth.model.interface import BaseModel
from dreambooth.model.peft_layers import ADAPTER, add_adapter, remove_adapter

# fields of a configuration that say where an adapter is or how it began, not what it computes
START_ALONE = {field.name for field in fields(PeftConfig)}
START_ALONE |= {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
START_ALONE |= {"modules_to_save", "init_weights", "init_lora_weights", "runtime_config"}


class InitialAdapter:
    """An adapter's file or folder, read for a model without adapters.

    Raises:
        UserError: there is none, or a tensor of it fits no layer of the model.
    """

    def __init__(self, model: BaseModel, path: str | Path) -> None:
        self.file = find_adapter(path)
        networks = {name: model.network(name) for name in model.trainable_networks}
        self.adapters = read_adapters(self.file, networks, model.layout.pipeline)

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

        B of a LoRA is multiplied by `file's scale / own scale`, where the scale is alpha / rank; an
        adapter of another kind must have the method's own settings. Layers that the file does not
        adapt keep their fresh adapters, which change nothing.

        Raises:
            UserError: another rank or kind, or layers that the network's adapter does not have.
        """
        if network not in self.adapters:
            return
        module, adapter = model.network(network), self.adapters[network]
        own = adapter_layers(module)
        try:
            layers = adapter_layers_of(module, adapter)
        except Exception as error:  # PEFT and torch have types of their own
            raise UserError(
                f"init_adapter={self.file} holds no adapter of this {network} ({reason(error)})."
            ) from error
        is_plain = all(_is_plain(layer) for layer in (*layers.values(), *own.values()))
        if not is_plain:
            self._refuse_other_settings(module.peft_config[ADAPTER], adapter.config)
        for name, theirs in layers.items():
            layer = own.get(name)
            if layer is None:
                raise UserError(
                    f"init_adapter={self.file} adapts {name} of the {network}, which this method "
                    "does not: add it to method.adapter.target_modules."
                )
            if is_plain:
                self._continue_lora(layer, theirs)
            else:
                _copy(layer, theirs)

    def _continue_lora(self, layer: Any, theirs: Any) -> None:
        """Copy A and B of one layer."""
        (a, b), (new_a, new_b) = _matrices(layer), _matrices(theirs)
        if a.shape != new_a.shape:
            raise UserError(
                f"init_adapter={self.file} has rank {len(new_a)} and this method {len(a)}: set "
                f"method.adapter.r={len(new_a)}."
            )
        a.copy_(new_a)
        b.copy_(new_b * (theirs.scaling[MERGED] / layer.scaling[ADAPTER]))

    def _refuse_other_settings(self, own: PeftConfig, theirs: PeftConfig) -> None:
        """Raise UserError unless two adapters compute the same from the same weights."""
        if own.peft_type != theirs.peft_type:
            kinds = [str(getattr(each.peft_type, "value", "")) for each in (theirs, own)]
            raise UserError(
                f"init_adapter={self.file} is a {kinds[0]} adapter, and this method trains "
                f"{kinds[1]}: use the method of its kind."
            )
        for field in fields(theirs):
            ours, given = getattr(own, field.name), getattr(theirs, field.name)
            if field.name not in START_ALONE and "dropout" not in field.name and ours != given:
                raise UserError(
                    f"init_adapter={self.file} has {field.name}={given} and this method {ours}: "
                    f"set method.adapter.{field.name}={given}, for of these adapters only plain "
                    "LoRAs are converted."
                )


def _is_plain(layer: Any) -> bool:
    """Tell whether PEFT's layer computes `W x + scale B A x`."""
    return isinstance(layer, LoraLayer) and not layer.lora_magnitude_vector


def _matrices(layer: Any) -> tuple[Tensor, Tensor]:
    """Return A `[rank,in,...]` and B `[out,rank,...]` of PEFT's layer, which has one adapter."""
    (a,), (b,) = layer.lora_A.values(), layer.lora_B.values()
    return a.weight, b.weight


def _copy(layer: Any, theirs: Any) -> None:
    """Copy all weights of PEFT's layer, of the same kind and settings, which has one adapter."""
    pairs = (dict(each.state_dict()) for each in (layer, theirs))
    own, given = (
        {k: x for k, x in each.items() if not k.startswith("base_layer.")} for each in pairs
    )
    for name, tensor in given.items():
        own[name.replace(MERGED, ADAPTER)].copy_(tensor)

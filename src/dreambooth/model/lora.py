"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): settings, fresh adapters, merging.

An adapted layer computes `W x + (alpha / rank) B A x` with W frozen, A Gaussian and B zero at the
start, so that a fresh adapter changes nothing. Adapters are PEFT's own layers, put into a network
by PEFT's own functions: transformers and diffusers integrate only certain versions of PEFT.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer

from dreambooth.errors import UserError
from dreambooth.model.interface import BaseModel
from dreambooth.model.loading import keep_random_state
from dreambooth.model.settings import require_integer, require_number

ADAPTER = "default"  # PEFT's name of the one adapter that a network has


@dataclass(frozen=True)
class LoRASettings:
    """The block `method.lora`.

    `targets` are ends of module names, such as `to_q` or `to_out.0`, of any network that trains.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        require_integer("method.lora.rank", self.rank, least=1)
        require_number("method.lora.alpha", self.alpha, lambda x: 0 < x < float("inf"), "above 0")
        require_number("method.lora.dropout", self.dropout, lambda x: 0 <= x < 1, "in [0, 1)")
        targets: object = self.targets
        if not isinstance(targets, list | tuple) or not targets:
            raise UserError(
                f"method.lora.targets={targets} must be a list of one or more ends of module "
                "names, such as [to_q, to_v]."
            )
        object.__setattr__(self, "targets", tuple(self.targets))


def add_lora(model: BaseModel, network: str, settings: LoRASettings, seed: int) -> None:
    """Put fresh float32 adapters into a network, `A ~ N(0, 1 / rank^2)`, `B = 0`.

    A depends on `seed`, the network and the layers' names alone; the global random state is left
    as it was.

    Raises:
        UserError: the network has adapters, or a target names no layer of the model.
    """
    module = model.network(network)
    if has_lora(module):
        raise UserError(
            f"the {network} has LoRA adapters already: train from a model without them."
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # pyright: ignore[reportArgumentType]  # PEFT takes any number
        lora_dropout=settings.dropout,
        target_modules=targets_in(model, network, settings.targets),
        init_lora_weights="gaussian",
    )
    with keep_random_state():
        inject_adapter_in_model(config, module, ADAPTER)
    # not `random.keyed_generator`, whose seeds differ: every adapter ever trained began with these
    key = hashlib.sha256(f"{seed}/lora/{network}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
    for name, parameter in sorted(lora_parameters(module)):
        parameter.data = parameter.data.float()
        if ".lora_A." in name:
            draw = torch.randn(parameter.shape, generator=generator) / settings.rank
            parameter.data.copy_(draw)


def has_lora(module: torch.nn.Module) -> bool:
    """Tell whether any layer of `module` has an adapter."""
    return any(isinstance(layer, BaseTunerLayer) for layer in module.modules())


def lora_parameters(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Yield the adapter parameters of `module` with their names."""
    return ((name, p) for name, p in module.named_parameters() if ".lora_" in name)


def merge_lora(model: BaseModel) -> None:
    """Add every adapter into its layer, once: `W <- W + (alpha / rank) B A`."""
    for name in model.trainable_networks:
        module = model.network(name)
        if has_lora(module):
            model.restore(name)  # a sum rounded to bf16 would lose most of a small adapter
        for layer in module.modules():
            if isinstance(layer, BaseTunerLayer) and not layer.merged:
                layer.merge()


def scale_lora(model: BaseModel, weight: float) -> None:
    """Multiply every adapter that is not merged by `weight`: `W x + weight (alpha / rank) B A x`.

    0 is the base model and 1 the adapter as it was trained.
    """
    for name in model.trainable_networks:
        layers = (m for m in model.network(name).modules() if isinstance(m, BaseTunerLayer))
        for layer in layers:
            scalable: Any = layer  # every kind of adapter has it, their common class has not
            scalable.set_scale(ADAPTER, weight)


def targets_in(model: BaseModel, network: str, targets: tuple[str, ...]) -> list[str]:
    """Pick the targets that name layers of `network`.

    Raises:
        UserError: one names no layer of any network, or none names a layer of this one.
    """
    names = {n: [m for m, _ in model.network(n).named_modules()] for n in model.trainable_networks}

    def found(target: str, where: str) -> bool:
        return any(name == target or name.endswith(f".{target}") for name in names[where])

    lost = [t for t in targets if not any(found(t, where) for where in names)]
    here = [t for t in targets if found(t, network)]
    if lost or not here:
        fault = f"{lost[0]} names no layer of the model" if lost else f"none is in the {network}"
        raise UserError(
            f"of method.lora.targets=[{', '.join(targets)}], {fault}: use ends of module names, "
            "such as to_q, to_k, to_v, to_out.0 in the unet and q_proj, k_proj, v_proj, out_proj "
            "in the text_encoder."
        )
    return here

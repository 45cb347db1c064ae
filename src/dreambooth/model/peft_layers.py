"""Adapters in a network, as layers of PEFT: settings, fresh adapters, merging, scaling.

An adapter is any configuration class of PEFT whose layers take the place of a network's own: LoRA
(Hu et al. 2021, arXiv:2106.09685) computes `W x + (alpha / rank) B A x`, others another update of
W. W is frozen. PEFT's own functions put the layers in, for transformers and diffusers integrate
only certain versions of PEFT.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from importlib import import_module
from types import NoneType, UnionType
from typing import Any

import peft
import torch
from peft import PeftConfig, PeftType, inject_adapter_in_model

from dreambooth.errors import UserError, reason
from dreambooth.model.interface import BaseModel, adapter_layers, adapter_parameters
from dreambooth.model.loading import keep_random_state
from dreambooth.model.settings import require_integer, require_number
from dreambooth.random import keyed_generator

ADAPTER = "default"  # PEFT's name of the one adapter that a network has
KEY = "method.adapter"
# the update is a term that is added to W, which PEFT's `set_scale` multiplies
SCALABLE = (PeftType.LORA, PeftType.LOHA, PeftType.LOKR)
# these need calls of their own in each step, or inputs that no model here has
OTHER_LOOPS = (PeftType.ADALORA, PeftType.POLY, PeftType.XLORA)
# the starts of a LoRA that leave the layer's own weights alone: no file would hold the others'
STARTS = (True, False, "gaussian", "orthogonal")


@dataclass(frozen=True)
class AdapterSettings:
    """The block `method.adapter`: `target` names a configuration class of PEFT, by its import path.

    `options` are that class's own fields. Of them `target_modules` is a list of ends of module
    names, such as `to_q` or `to_out.0`, of any network that trains, or a text as PEFT reads it.

    Raises:
        UserError: a class that is not PEFT's or that a training loop cannot use, a field that the
            class does not have (with the nearest one), or a value that it refuses.
    """

    target: str
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        kind: Any = _class(self.target)
        known = [field.name for field in fields(kind) if field.init]
        hints = _hints(kind)
        for name, value in self.options.items():
            if name not in known:
                near = get_close_matches(str(name), known, n=1, cutoff=0.4)
                hint = f"did you mean {KEY}.{near[0]}?" if near else f"it has {', '.join(known)}."
                raise UserError(f"{self.target} has no field {name}: {hint}")
            _check_value(name, value, hints.get(name, Any), "oft_block_size" in known)
        targets = self.options.get("target_modules")
        if targets is not None and not targets:
            raise UserError(
                f"{KEY}.target_modules={targets} must be a list of one or more ends of module "
                "names, such as [to_q, to_v]."
            )
        if (start := self.options.get("init_lora_weights", True)) not in STARTS:
            raise UserError(
                f"{KEY}.init_lora_weights={start} changes the base model too, and the exported "
                f"file would not: use one of {', '.join(map(str, STARTS))}."
            )
        config = self.config()
        if config.is_prompt_learning or config.is_adaption_prompt or self.kind in OTHER_LOOPS:
            raise UserError(
                f"{KEY}._target_={self.target} needs a loop or inputs of its own: choose a class "
                "that adapts layers, such as peft.LoraConfig or peft.LoKrConfig."
            )

    @classmethod
    def of_block(cls, block: Mapping[str, Any]) -> AdapterSettings:
        """Read a block with `_target_`; fields that are null keep PEFT's own default."""
        options = {k: v for k, v in block.items() if k != "_target_" and v is not None}
        if not isinstance(block.get("_target_"), str):
            raise UserError(f"{KEY} lacks _target_: name a class such as peft.LoraConfig.")
        return cls(block["_target_"], options)

    @property
    def kind(self) -> PeftType:
        """Return PEFT's name of this kind of adapter."""
        return PeftType(self.config().peft_type)

    @property
    def is_scalable(self) -> bool:
        """Tell whether `scale_adapters` can multiply the update."""
        return _is_scalable(self.config())

    def config(self, **options: Any) -> Any:
        """Make PEFT's configuration, with some `options` replaced.

        Raises:
            UserError: PEFT refuses a value.
        """
        try:
            return _class(self.target)(**{**self.options, **options})
        except Exception as error:  # each class has checks of its own
            raise UserError(f"{KEY} cannot be used ({reason(error)}): correct its keys.") from error


def add_adapter(model: BaseModel, network: str, settings: AdapterSettings, seed: int) -> None:
    """Put a fresh adapter into a network, its weights in float32.

    Random initial values depend on `seed` and the network alone; the global random state is left
    as it was.

    Raises:
        UserError: the network has an adapter, a target names no layer of the model, or PEFT cannot
            adapt a layer as the settings ask; the network is left without adapters.
    """
    module = model.network(network)
    if has_adapter(module):
        raise UserError(f"the {network} has an adapter already: train from a model without one.")
    targets = settings.options.get("target_modules")
    chosen = {}
    if isinstance(targets, list | tuple):
        chosen = {"target_modules": targets_in(model, network, targets)}
    model.restore(network)  # some adapters begin at a function of the layer's weights
    with keep_random_state():
        torch.manual_seed(keyed_generator(seed, "adapter", network).initial_seed())
        try:
            inject_adapter_in_model(settings.config(**chosen), module, ADAPTER)
        except Exception as error:  # each kind has checks of its own
            remove_adapter(module)
            raise UserError(
                f"{KEY} ({settings.target}) does not fit the {network}: {reason(error)}."
            ) from error
    for parameter in adapter_parameters(module).values():
        parameter.data = parameter.data.float()


def check_adapter(model: BaseModel, network: str, settings: AdapterSettings) -> None:
    """Refuse an adapter that `add_adapter` would; the network is left as it was."""
    add_adapter(model, network, settings, seed=0)
    remove_adapter(model.network(network))


def has_adapter(module: torch.nn.Module) -> bool:
    """Tell whether any layer of `module` has an adapter."""
    return bool(adapter_layers(module))


def remove_adapter(module: torch.nn.Module) -> None:
    """Give every adapted layer of a network its own place back; what is merged stays in it."""
    for name, layer in adapter_layers(module).items():
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, layer.get_base_layer())
    if hasattr(module, "peft_config"):
        del module.peft_config


def merge_adapters(model: BaseModel) -> None:
    """Put every adapter into its layer's own weights and take it off; a second call does nothing.

    A LoRA's layer becomes `W + (alpha / rank) B A`.
    """
    for name in model.trainable_networks:
        module = model.network(name)
        if not has_adapter(module):
            continue
        model.restore(name)  # a sum rounded to bf16 would lose most of a small adapter
        for layer in adapter_layers(module).values():
            layer.merge()
        remove_adapter(module)


def scale_adapters(model: BaseModel, weight: float) -> None:
    """Multiply the update of every adapter by `weight`: `W x + weight (alpha / rank) B A x`.

    0 is the base model and 1 the adapter as it was trained.

    Raises:
        UserError: a `weight` other than 1 for a kind of adapter whose update is not a sum.
    """
    for name in model.trainable_networks:
        module = model.network(name)
        if not has_adapter(module):
            continue
        if _is_scalable(module.peft_config[ADAPTER]):
            for layer in adapter_layers(module).values():
                layer.set_scale(ADAPTER, weight)
        elif weight != 1:
            raise UserError(
                f"adapter_weight={weight} cannot be used: the update of this kind of adapter is no "
                "sum. Use adapter_weight=1."
            )


def targets_in(model: BaseModel, network: str, targets: list[str] | tuple[str, ...]) -> list[str]:
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
            f"of {KEY}.target_modules=[{', '.join(targets)}], {fault}: use ends of module names, "
            "such as to_q, to_k, to_v, to_out.0 in the unet and q_proj, k_proj, v_proj, out_proj "
            "in the text_encoder."
        )
    return here


def _class(target: str) -> type[PeftConfig]:
    """Import a configuration class of PEFT, or a user's own."""
    place, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(place), name)
        if issubclass(found, PeftConfig):
            return found
    except (ImportError, AttributeError, TypeError, ValueError):
        pass
    offered = [n for n in dir(peft) if n.endswith("Config") and n != "PeftConfig"]
    near = get_close_matches(name, offered, n=1, cutoff=0.4)
    hint = f"did you mean peft.{near[0]}?" if near else f"peft has {', '.join(offered)}."
    raise UserError(f"{KEY}._target_={target} is no configuration class of PEFT: {hint}")


def _hints(kind: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind)
    except Exception:  # a name that only a type checker knows
        return {}


def _check_value(name: str, value: object, hint: Any, rank_may_be_0: bool) -> None:
    """Refuse a value of the wrong type, and ranks, alphas and dropouts out of their range."""
    key = f"{KEY}.{name}"
    if name in ("r", "rank"):
        require_integer(key, value, least=0 if rank_may_be_0 else 1)  # OFT's other option is a size
    elif name in ("alpha", "lora_alpha"):  # PEFT says int, and takes any number
        require_number(key, value, lambda x: 0 < x < math.inf, "above 0")
    elif "dropout" in name:
        require_number(key, value, lambda x: 0 <= x < 1, "in [0, 1)")
    elif not _fits(value, hint):
        kinds = str(hint).replace("typing.", "") if not isinstance(hint, type) else hint.__name__
        raise UserError(f"{key}={value} is not usable: PEFT takes {kinds}.")


def _fits(value: object, hint: Any) -> bool:
    """Tell whether a plain value is of an annotated type; a type it cannot judge takes anything."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, UnionType):
        return any(_fits(value, each) for each in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if hint is bool or hint is str or hint is NoneType:
        return isinstance(value, hint)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(typing.cast(float, value))
    if origin in (list, dict) or hint in (list, dict):
        return isinstance(value, origin or hint)
    return True


def _is_scalable(config: PeftConfig) -> bool:
    # the norm of DoRA's weights is trained too, and is not scaled
    return config.peft_type in SCALABLE and not getattr(config, "use_dora", False)

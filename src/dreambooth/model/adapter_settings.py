"""The block `method.adapter`: a configuration class of PEFT and its fields, each checked."""

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
from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

from dreambooth.errors import UserError, reason
from dreambooth.model.settings import require_integer, require_number

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
        if not adapts_layers(self.config()):
            raise UserError(
                f"{KEY}._target_={self.target} needs a loop, inputs or shared weights of its "
                "own: choose a class that adapts layers, such as peft.LoraConfig or "
                "peft.LoKrConfig."
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
        return is_scalable(self.config())

    def config(self, **options: Any) -> Any:
        """Make PEFT's configuration, with some `options` replaced.

        Raises:
            UserError: PEFT refuses a value.
        """
        try:
            return _class(self.target)(**{**self.options, **options})
        except Exception as error:  # each class has checks of its own
            raise UserError(f"{KEY} cannot be used ({reason(error)}): correct its keys.") from error


def _class(target: str) -> type[PeftConfig]:
    """Import a configuration class of PEFT, or a user's own."""
    place, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(place), name)
        if issubclass(found, PeftConfig) and found is not PeftConfig:
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


def adapts_layers(config: PeftConfig) -> bool:
    """Tell whether an adapter is layers around a network's own, and needs nothing else."""
    kind = PeftType(config.peft_type)
    no_layers = config.is_prompt_learning or getattr(config, "is_adaption_prompt", False)
    shares = getattr(PEFT_TYPE_TO_TUNER_MAPPING.get(kind), "uses_shared_state", False)
    return not (no_layers or shares or kind in OTHER_LOOPS)


def is_scalable(config: PeftConfig) -> bool:
    """Tell whether an adapter's update is a sum that a weight can multiply."""
    # the norm of DoRA's weights is trained too, and is not scaled
    return config.peft_type in SCALABLE and not getattr(config, "use_dora", False)

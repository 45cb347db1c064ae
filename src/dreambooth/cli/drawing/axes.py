"""The axes of a grid, as a command line writes them: `guidance_scale=1.5,3,7.5`.

Imports nothing heavy, so that a wrong axis is refused at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException

from dreambooth.errors import UserError
from dreambooth.quoting import quoted

PLACES = ("x", "y", "z")


@dataclass(frozen=True)
class Axis:
    """What varies along one direction of a grid; no values mean those of the key `prompts`."""

    name: str
    values: tuple[Any, ...]


def is_whole(value: Any, least: float = -math.inf) -> bool:
    """Tell whether a value is a whole number, not below `least`; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any, least: float = -math.inf) -> bool:
    """Tell whether a value is a finite number, not below `least`; true and false are none."""
    is_one = is_whole(value) or isinstance(value, float)
    return is_one and math.isfinite(value) and value >= least


def is_seed(value: Any) -> bool:
    """Tell whether a value is a seed: a whole number that every library's generator takes."""
    return is_whole(value, 0) and value < 2**32


SEED = "a whole number from 0 to 4294967295"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


# name: (what a value must be, whether it is)
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "prompt": ("a text in quotes", _is_text),
    "negative_prompt": ("a text in quotes", lambda v: isinstance(v, str)),
    "seed": (SEED, is_seed),
    "scheduler": ("a scheduler such as ddim", _is_text),
    "guidance_scale": ("a number, 0 or greater", lambda v: is_number(v, 0)),
    "num_inference_steps": ("a whole number greater than 0", lambda v: is_whole(v, 1)),
    "adapter_weight": ("a number", is_number),
    "step": ("a whole number, 0 or greater, or null", lambda v: v is None or is_whole(v, 0)),
    "run": ("the folder of a finished run", _is_text),
}
LISTS = {"prompt": "prompts", "seed": "seeds"}  # an axis may stand for the list of a key
OTHER_NAMES = {
    "sampler": "scheduler",
    "cfg": "guidance_scale",
    "guidance": "guidance_scale",
    "steps": "num_inference_steps",
    "lora": "adapter_weight",
    "checkpoint": "step",
    "prompts": "prompt",
    "seeds": "seed",
    "subject": "run",
}


def quote_axes(overrides: Sequence[str]) -> list[str]:
    """Quote the values of `grid.x`, `grid.y`, `grid.z` and `layout`, which are texts to Hydra.

    The commas of an axis are no sweep, and the braces of a layout no dictionary.

    >>> quote_axes(["grid.x=seed=0,1", "seed=0,1"])
    ["grid.x='seed=0,1'", 'seed=0,1']
    """
    result = []
    for override in overrides:
        key, _, value = override.partition("=")
        is_text = key in {"layout", *(f"grid.{place}" for place in PLACES)}
        if is_text and value[:1] not in ("'", '"', "", "$") and value != "null":
            override = f"{key}={quoted(value)}"
        result.append(override)
    return result


def parse_axis(key: str, text: Any) -> Axis:
    """Read one axis: a name and its values, in Hydra's own syntax.

    Raises:
        UserError: names the key, and what is wrong with its name or with a value.
    """
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{key}={text} is no axis: write 'NAME=VALUE,VALUE', as in {_EXAMPLE}.")
    name, has_values, _ = text.strip().partition("=")
    if name not in KINDS:
        meant = OTHER_NAMES.get(name) or next(iter(get_close_matches(name, KINDS, n=1)), None)
        hint = f"did you mean {meant}?" if meant else f"choose one of {', '.join(KINDS)}."
        raise UserError(f"{key}: there is no axis {name}: {hint}")
    if not has_values:
        if name in LISTS:
            return Axis(name, ())
        raise UserError(f"{key}={name} has no values: write '{name}=VALUE,VALUE'.")
    values = _values(key, text)
    what, holds = KINDS[name]
    for value in values:
        if not holds(value):
            raise UserError(f"{key}: {name}={value} is not usable: it must be {what}.")
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        raise UserError(f"{key}: {name}={twice} is there twice: name each value once.")
    return Axis(name, tuple(values))


_EXAMPLE = "grid.x='guidance_scale=1.5,3,7.5'"


def _values(key: str, text: str) -> list[Any]:
    try:
        override = OverridesParser.create().parse_override(text)
        if override.is_sweep_override():
            found: list[Any] = list(override.sweep_iterator())
        else:
            value: Any = override.value()
            found = value if isinstance(value, list) else [value]
    except (HydraException, ValueError, NotImplementedError):
        raise UserError(
            f"{key} cannot be read at {text}: put a text with spaces or any of ,=[]{{}}() in "
            'quotes of its own, as in \'grid.y=prompt="a {subject}, asleep","a red {subject}"\'.'
        ) from None
    return [_plain(value) for value in found]


def _plain(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    return Override._convert_value(value)


def parse_axes(grid: Any) -> dict[str, Axis]:
    """Read the axes that a `grid` block has, by their place, `x`, `y` and `z`.

    Raises:
        UserError: as `parse_axis`, or one name on two axes.
    """
    axes = {p: parse_axis(f"grid.{p}", grid[p]) for p in PLACES if grid[p] is not None}
    seen: dict[str, str] = {}
    for place, axis in axes.items():
        if axis.name in seen:
            raise UserError(
                f"grid.{place} varies {axis.name}, and so does grid.{seen[axis.name]}: give each "
                "axis a name of its own."
            )
        seen[axis.name] = place
    return axes


def label(name: str, value: Any, seen: Sequence[Any]) -> str:
    """Write a value of an axis as it stands beside the pictures; `seen` are all of the axis."""
    if name in ("prompt", "scheduler"):
        return str(value)
    if name == "run":
        return run_label(str(value), [str(each) for each in seen])
    if name == "negative_prompt":
        return f"without {value}" if value else "no negative prompt"
    if name == "step" and value is None:
        return "exported"
    words = {"num_inference_steps": "steps", "guidance_scale": "guidance"}
    return f"{words.get(name, name.replace('_', ' '))} {value}"


def run_label(folder: str, folders: Sequence[str]) -> str:
    """Name a run by the parts of its folder's name that the others do not share.

    `ppl=False,subject=dog` beside `ppl=True,subject=dog` => `ppl=False`.
    """
    parts = [Path(each).name.split(",") for each in folders]
    shared = set(parts[0]).intersection(*parts[1:]) if len(parts) > 1 else set()
    own = [part for part in Path(folder).name.split(",") if part not in shared]
    return ", ".join(own) or Path(folder).name

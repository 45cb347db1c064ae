"""Checks of settings that come from the configuration; a message names the key at fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, TypeVar

from dreambooth.errors import UserError

Settings = TypeVar("Settings")


def build(
    cls: type[Settings], key: str, values: Mapping[str, object], others: Sequence[str] = ()
) -> Settings:
    """Make a settings dataclass from a block of the configuration, such as `method.token`.

    Args:
        others: fields of the block that are read elsewhere, for messages.

    Raises:
        UserError: a field that the dataclass does not have, one that is missing, or a value that
            it refuses.
    """
    dataclass: Any = cls
    known = {field.name: field.default is MISSING for field in fields(dataclass)}
    for name in values:
        if name not in known:
            offered = [*known, *others]
            near = get_close_matches(str(name), offered, n=1, cutoff=0.5)
            hint = f"did you mean {key}.{near[0]}?" if near else f"use {', '.join(offered)}."
            raise UserError(f"{key} has no field {name}: {hint}")
    missing = [name for name, required in known.items() if required and name not in values]
    if missing:
        raise UserError(f"{key} lacks {missing[0]}: set {key}.{missing[0]}.")
    return cls(**values)


def require_integer(key: str, value: object, least: int) -> None:
    """Refuse what is not a whole number of at least `least`; a boolean is none.

    >>> require_integer("method.token.num_vectors", 4, least=1)
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{key}={value} must be a whole number, {least} or greater.")


def require_number(
    key: str, value: object, allowed: Callable[[float], bool], described: str
) -> None:
    """Refuse what is not a number, a boolean included, and one that is not `allowed`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not allowed(value):
        raise UserError(f"{key}={value} must be a number {described}.")

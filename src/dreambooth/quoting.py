"""Overrides written so that Hydra, and a shell before it, read them as they were meant."""

from __future__ import annotations

import re
import shlex


def quoted(text: object) -> str:
    """Any text as one of Hydra's strings: `lr=1,seed=0` => `'lr=1,seed=0'`."""
    # a backslash speaks only before a quote, where each is doubled
    escaped = re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + m[2].replace("'", "\\'"), str(text))
    return f"'{escaped}'"


def typed(override: str) -> str:
    """An override as a user types it: `run='a b'` => `"run='a b'"`."""
    plain = not set(override) & set('"$`\\!')
    return f'"{override}"' if plain else shlex.quote(override)

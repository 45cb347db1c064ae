"""Quote overrides for Hydra and the shell, and texts for a terminal."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from dreambooth.errors import UserError


def quoted(text: object) -> str:
    """Write any text as a Hydra string, a plain path as it is: `lr=1,seed=0` => `'lr=1,seed=0'`.

    >>> print(quoted("outputs/2026-01-01/dog"), quoted("a dog"))
    outputs/2026-01-01/dog 'a dog'
    """
    if re.fullmatch(r"[\w./-]*/[\w./-]*", str(text), re.ASCII):
        return str(text)
    # Hydra's strings escape a quote, and backslashes only where they stand before a quote
    escaped = re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + m[2].replace("'", "\\'"), str(text))
    return f"'{escaped}'"


def quote_paths(overrides: Iterable[str]) -> list[str]:
    """Quote values that are paths of this machine: `run=multirun/study/ppl=True,subject=dog`.

    Folders of a sweep are named by their settings, and Hydra would read these as its own grammar,
    as it does the `~` of a home folder, which is written out.
    """
    return [_with_quoted_path(override) for override in overrides]


def _with_quoted_path(override: str) -> str:
    key, _, value = override.partition("=")
    if value.startswith("~/"):
        return f"{key}={quoted(Path(value).expanduser())}"
    is_grammar = any(sign in value for sign in ",=[]{}()") and value[:1] not in ("'", '"')
    if is_grammar and ("/" in value or "=" in value) and _exists(value):
        return f"{key}={quoted(value)}"
    return override


def _exists(value: str) -> bool:
    try:
        return Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # a text too long for a name, say
        return False


def typed(override: str) -> str:
    """Write an override as a user types it in a shell: `run='a b'` => `"run='a b'"`."""
    if shlex.quote(override) == override:
        return override
    plain = not set(override) & set('"$`\\!')
    return f'"{override}"' if plain else shlex.quote(override)


def require_utf8(what: str, text: str) -> None:
    """Refuse a path or another text of the system that no record could hold.

    Raises:
        UserError: names it.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(text).decode(errors="replace")
        raise UserError(f"{what} {shown} is not UTF-8: rename it in UTF-8.") from None


def printable(text: str) -> str:
    """Write out control characters, with which a text of a stranger could steer a terminal.

    >>> printable("a dog" + chr(27) + "[2J" + chr(10))
    'a dog\\\\x1b[2J\\n'
    """
    plain = (c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
    return "".join(plain)

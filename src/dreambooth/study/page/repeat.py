"""How a run or a sweep is made again: its command, and the versions that made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dreambooth.quoting import typed

# where the results went and what runs share, which another may choose
FOLDERS = ("hydra.run.dir=", "hydra.sweep.dir=", "cache_dir=")
MULTIRUN = "hydra.mode=MULTIRUN"  # what Hydra notes for -m


def command_of(folder: Path, shown: Callable[[str], str] = str) -> str | None:
    """Read the command that made a run's or a sweep's folder from Hydra's notes; None without.

    Args:
        shown: rewrites each override, before it is quoted for a shell.
    """
    sweep, run = folder / "multirun.yaml", folder / ".hydra" / "overrides.yaml"
    try:
        if sweep.exists():
            overrides = yaml.safe_load(sweep.read_text("utf-8"))["hydra"]["overrides"]
            words = [*overrides["task"], *overrides["hydra"]]
        else:
            words = yaml.safe_load(run.read_text("utf-8"))
        words = [shown(str(word)) for word in words if not str(word).startswith(FOLDERS)]
    except (OSError, yaml.YAMLError, LookupError, TypeError):
        return None
    several = sweep.exists() and (MULTIRUN in words or not _is_preset(words))
    texts = [typed(word) for word in words if not (several and word == MULTIRUN)]
    return " ".join(["python train.py", *(["-m"] if several else []), *texts])


def versions_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions in a run's record, by name; {} for a run that did not record them."""
    return {name: str(value) for name, value in (record.get("program") or {}).items() if value}


def _is_preset(words: list[str]) -> bool:
    """Tell whether the command names a preset, which may be a sweep of its own."""
    return any(word.startswith("experiment=") for word in words)

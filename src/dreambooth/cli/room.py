"""Refuse runs that the disk cannot hold, before the first of them begins."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.study.sizes import GIB, disk_of_runs

Plain = Mapping[str, Any]
# what leaves less on the disk, from the mildest: keys and values
SMALLER = (
    {"checkpoint.keep_when_finished": 0},
    {"checkpoint.keep_when_finished": 0, "export.dtype": "float16"},
    {"checkpoint.keep_when_finished": 0, "export.kind": "none"},
)


def free_bytes(folder: str | Path) -> int:
    """Return what is free on the file system of a folder that may not exist yet."""
    path = Path(folder).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def refuse_full_disk(configs: Sequence[Plain]) -> None:
    """Refuse runs that write more than is free; what an unknown model needs is not known.

    Raises:
        UserError: says what they write, what is free, and which settings would fit.
    """
    need = disk_of_runs(configs) if configs else None
    if need is None:
        return
    folder = Path(configs[0]["output_dir"])
    free = free_bytes(folder)
    if need <= free:
        return
    several = len(configs) > 1
    what = f"these {len(configs)} runs" if several else "this run"
    place = folder.parent if several else folder
    fixes = [(keys, disk_of_runs([_with(config, keys) for config in configs])) for keys in SMALLER]
    fits = [
        f"{' '.join(f'{k}={v}' for k, v in keys.items())} ({size / GIB:.1f} GiB)"
        for keys, size in fixes
        if size is not None and size <= free
    ]
    advice = f"pass {', or '.join(fits)}, or " if fits else ""
    raise UserError(
        f"{place} has {free / GIB:.1f} GiB free, and {what} would write about {need / GIB:.1f} GiB "
        f"of models, checkpoints and pictures: {advice}choose a folder on a larger disk."
    )


def _with(config: Plain, keys: Mapping[str, Any]) -> Plain:
    """Copy a configuration with other values of some keys of its blocks."""
    changed = dict(config)
    for key, value in keys.items():
        block, name = key.split(".")
        changed[block] = {**changed[block], name: value}
    return changed

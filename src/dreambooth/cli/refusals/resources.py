"""Say what a run needs, and refuse what the disk or the memory cannot hold, before it begins."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import readable_size
from dreambooth.study.costs.disk import disk_of_runs
from dreambooth.study.costs.sizes import GIB
from dreambooth.study.costs.step_memory import Memory

Plain = Mapping[str, Any]
# times the memory that there is: estimates are off by a tenth, and some can be paged out
ROOM = 1.25
# what leaves less on the disk, from the mildest: keys and values
NO_CHECKPOINTS = {"checkpoint.keep_when_finished": 0}
SMALLER = (
    NO_CHECKPOINTS,
    {**NO_CHECKPOINTS, "export.dtype": "float16"},
    {**NO_CHECKPOINTS, "export.dtype": "float16", "reuse": "off"},
    {**NO_CHECKPOINTS, "export.kind": "lora", "reuse": "off"},
    {**NO_CHECKPOINTS, "export.kind": "none", "reuse": "off"},
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
    needs = disk_of_runs(configs) if configs else None
    if needs is None:
        return
    need = needs.total
    folder = Path(configs[0]["output_dir"])
    free = free_bytes(folder)
    if need <= free:
        return
    several = len(configs) > 1
    what = f"these {len(configs)} runs" if several else "this run"
    place = folder.parent if several else folder
    fixes = [(keys, disk_of_runs([_with(config, keys) for config in configs])) for keys in SMALLER]
    fits = [
        f"{' '.join(f'{k}={v}' for k, v in keys.items())} ({fixed.total / GIB:.1f} GiB)"
        for keys, fixed in fixes
        if fixed is not None and fixed.total <= free
    ]
    advice = f"pass {', or '.join(fits)}, or " if fits else ""
    raise UserError(
        f"{place} has {free / GIB:.1f} GiB free, and {what} would write about {need / GIB:.1f} GiB "
        f"of models, checkpoints and pictures: {advice}choose a folder on a larger disk."
    )


def show_needs(config: Plain, memory: Memory | None, there: float) -> None:
    """Print what training needs of memory, and the run of the disk, as far as it is known.

    Args:
        there: the memory that there is, in GiB.
    """
    from rich.console import Console  # only where it is shown
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    if memory is not None:
        parts = {f.name: getattr(memory, f.name) for f in fields(memory)}
        listed = ", ".join(f"{name} {size:.2f}" for name, size in parts.items() if size >= 0.005)
        whole = f"about {memory.total:.2f} GiB while training, of {there:.1f}"
        table.add_row("memory", f"{whole}: {listed}")
    needs = disk_of_runs([config])
    if needs is not None:
        free = free_bytes(config["output_dir"]) / GIB
        table.add_row(
            "disk", f"about {readable_size(needs.total)}, of {free:.0f} GiB that are free"
        )
    if table.row_count:
        Console().print(table, highlight=False)


def refuse_small_memory(config: Plain, memory: Memory | None, there: float) -> None:
    """Refuse a training that needs far more memory than there is.

    Raises:
        UserError: says what it needs, what there is, and the largest part.
    """
    if memory is None or memory.total <= ROOM * there:
        return
    advice = {
        "activations": "lower resolution or batch_size, or set gradient_checkpointing=true",
        "weights": "choose a smaller model or adapter, frozen_dtype=float16, or offload=true",
    }
    parts = {field.name: getattr(memory, field.name) for field in fields(memory)}
    largest = max(parts, key=lambda name: parts[name])
    fix = advice.get(largest, "train less, as method=lora does, or choose optimizer=adamw_8bit")
    adapter = config["method"].get("adapter") or config["method"].get("lora") or {}
    is_wide = max(adapter.get("r", 0), adapter.get("rank", 0)) > 256
    fix = "lower the adapter's rank" if is_wide and largest != "activations" else fix
    raise UserError(
        f"training would need about {memory.total:,.1f} GiB of memory, most of it for {largest} "
        f"({parts[largest]:,.1f} GiB), and there are {there:.1f} GiB: {fix}."
    )


def _with(config: Plain, keys: Mapping[str, Any]) -> Plain:
    """Copy a configuration with other values of some keys of its blocks."""
    changed = dict(config)
    for key, value in keys.items():
        block, _, name = key.partition(".")
        name, value = (name, value) if name else ("enabled", value == "on")  # reuse=off
        changed[block] = {**changed[block], name: value}
    return changed

"""Many runs side by side: one row per run, and one per setting with means over subjects."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dreambooth.errors import UserError
from dreambooth.files import atomic
from dreambooth.sampling.draw import torch_device
from dreambooth.study.runs import read_rows
from dreambooth.study.settings import OVER, by_setting, varying

SHORT = {"CLIP-T class_only": "CLIP-T", "CLIP-T with_id": "CLIP-T id", "DIV of class": "DIV class"}


@dataclass(frozen=True)
class ReportSpec:
    """What report.py shows: finished runs below `runs`, under one evaluation's scores.

    `other_subjects` adds PRES over a class's other subjects, for which `device`, `encoders_dir`
    and `cache_dir` say where its network runs and lies.
    """

    runs: Path
    evaluation: str | None
    other_subjects: bool
    device: str
    encoders_dir: str | None
    cache_dir: str


def report(spec: ReportSpec) -> int:
    """Print and write both tables; 0.

    Raises:
        UserError: there is no finished run below `folder`, or no GPU.
    """
    runs, note = read_rows(spec.runs, spec.evaluation), None
    if not runs:
        raise UserError(
            f"runs={spec.runs} holds no finished run (a folder with run.json): give the "
            "output folder of train.py."
        )
    if spec.other_subjects:
        from dreambooth.study.other_subjects import add_other_subjects

        device, keys = torch_device(spec.device), varying(runs)
        try:
            add_other_subjects(runs, keys, device, spec.encoders_dir, spec.cache_dir)
        except UserError as error:
            note = f"PRES over other subjects is left out: {error}"
    print_table(spec.runs, runs)
    if note:
        Console().print(note, highlight=False)
    return 0


def rows(folder: Path, runs: Sequence[dict] | None = None) -> list[dict[str, Any]]:
    """One row a run: its name, what differs, scores under variant ids, last losses, costs."""
    runs = read_rows(folder) if runs is None else runs
    keys = varying(runs)
    table = []
    for run in runs:
        costs = run["record"]["costs"]
        row = {"run": run["run"], **{key: run["settings"].get(key) for key in keys}}
        row |= {"evaluation": run["metrics"].get("evaluation"), **run["scores"], **run["losses"]}
        table.append(row | {"seconds": costs["seconds"], "memory_gib": costs["peak_memory_gib"]})
    return table


def print_table(folder: Path, runs: Sequence[dict] | None = None) -> None:
    """Print all runs and the settings' means, and write `runs.csv` and `settings.csv`."""
    runs = read_rows(folder) if runs is None else runs
    keys = varying(runs)
    inner_last = sorted(keys, key=lambda key: key in OVER)  # a setting's subjects stand together
    runs = sorted(runs, key=lambda r: [_order(r["settings"].get(key)) for key in inner_last])
    names = {variant: name for run in runs for variant, name in run["names"].items()}
    shown = {v: SHORT.get(n, n) for v, n in names.items() if not v.startswith("real_ref.")}
    table = rows(folder, runs)
    _write(folder / "runs.csv", table)
    headers = {k: _header(k) for k in keys} or {"run": "run"}
    headers |= {**_distinct(shown), "seconds": "s", "memory_gib": "GiB"}
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a pipe or a log has no edge to wrap at
    console.print(_table(f"{len(table)} runs: {folder}", table, headers))
    settings = by_setting(runs, keys)
    _write(folder / "settings.csv", settings)
    if any(line["subjects"] > 1 or line["runs"] > 1 for line in settings):
        for line in settings:
            line |= {v: _with_interval(line, v) for v in shown if v in line}
        headers = {k: _header(k) for k in keys if k not in OVER}
        headers |= {"subjects": "subjects", "runs": "runs", **_distinct(shown)}
        console.print(_table("means over subjects (95 % interval)", settings, headers))
    legend = Table.grid(padding=(0, 2))
    for variant, header in _distinct(shown).items():
        legend.add_row(header, variant, style="dim")
    console.print(legend)


def _order(value: Any) -> tuple:
    """Numbers by size, then anything else by its text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, value, "") if is_number else (1, 0, str(value))


def _header(key: str) -> str:
    """`subject.name` => `subject`, `scored.name` => `evaluation`, `scored.steps` => `steps`."""
    short = key.removesuffix(".name").removeprefix("scored.")
    return "evaluation" if short == "scored" else short


def _distinct(shown: dict[str, str]) -> dict[str, str]:
    """Variant => column header; variants of one metric have columns of their own, numbered."""
    headers = {}
    for variant, name in shown.items():
        alike = [v for v in shown if shown[v] == name]
        headers[variant] = name if len(alike) == 1 else f"{name} {alike.index(variant) + 1}"
    return headers


def _with_interval(line: dict, variant: str) -> str:
    low, high = line[f"{variant}.low_95"], line[f"{variant}.high_95"]
    return f"{line[variant]:.3f}" + (f" ({low:.3f} to {high:.3f})" if low is not None else "")


def _table(title: str, lines: Sequence[dict], headers: dict[str, str]) -> Table:
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    present = {key: name for key, name in headers.items() if any(key in line for line in lines)}
    for name in present.values():
        table.add_column(name, overflow="fold", min_width=5)
    for line in lines:
        table.add_row(*(_cell(key, line.get(key)) for key in present))
    return table


def _cell(key: str, value: Any) -> str:
    if isinstance(value, float):
        is_score = key.partition(".")[0] in ("dino", "clip_i", "clip_t", "pres", "div", "div_class")
        return f"{value:.3f}" if is_score else f"{value:.4g}"
    return "" if value is None else escape(str(value))


def _write(path: Path, lines: Sequence[dict]) -> None:
    columns = list(dict.fromkeys(key for line in lines for key in line))
    with atomic(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(lines)

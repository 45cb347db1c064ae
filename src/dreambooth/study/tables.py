"""Many runs side by side: a table of runs, and one of settings with means over subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dreambooth.errors import UserError
from dreambooth.files import write_csv
from dreambooth.sampling.draw import torch_device
from dreambooth.study.other_subjects import with_other_subjects
from dreambooth.study.scored_runs import ScoredRun, read_runs
from dreambooth.study.settings import OVER, by_setting, varying
from dreambooth.study.sweeps import Unfinished, unfinished

SHORT = {"CLIP-T class_only": "CLIP-T", "CLIP-T with_id": "CLIP-T id", "DIV of class": "DIV class"}
SCORES = ("dino", "clip_i", "clip_t", "pres", "div", "div_class")  # how variant ids begin


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
    """Print and write both tables; return 0.

    Raises:
        UserError: no finished run below the folder, none that was scored as asked, or no GPU.
    """
    runs, note = read_runs(spec.runs, spec.evaluation), None
    if not runs:
        others = "".join(f"\n  {u.name}: {u.state} ({u.reason})" for u in unfinished(spec.runs))
        raise UserError(
            f"runs={spec.runs} holds no finished run (a folder with run.json): give the "
            f"output folder of train.py.{others}"
        )
    if spec.evaluation is not None and not any(run.metrics for run in runs):
        known = sorted({name for run in runs for name in run.run.evaluations})
        other = f", or choose one of {', '.join(known)}" if known else ""
        raise UserError(
            f"evaluation={spec.evaluation} has scored no run below {spec.runs}: score them with "
            f"evaluate.py{other}."
        )
    if spec.other_subjects:
        keys, device = varying(runs), torch_device(spec.device)
        try:
            runs = with_other_subjects(runs, keys, device, spec.encoders_dir, spec.cache_dir)
        except UserError as error:
            note = f"PRES over other subjects is left out: {error}"
    print_tables(spec.runs, runs)
    if note:
        Console().print(note, highlight=False)
    return 0


def print_tables(folder: Path, runs: Sequence[ScoredRun] | None = None) -> None:
    """Print all runs and the settings' means, and write `runs.csv` and `settings.csv`.

    Runs that failed or are missing are listed after the others, with their reasons.

    Args:
        runs: those to show; by default every finished run below `folder`.
    """
    runs, others = read_runs(folder) if runs is None else runs, unfinished(folder)
    keys = varying(runs)
    inner_last = sorted(keys, key=lambda key: key in OVER)  # a setting's subjects stand together
    runs = sorted(runs, key=lambda run: [_order(run.settings.get(key)) for key in inner_last])
    names = {variant: name for run in runs for variant, name in run.metric_names.items()}
    shown = {v: SHORT.get(n, n) for v, n in names.items() if not v.startswith("real_ref.")}
    table, settings, scores = runs_table(runs), by_setting(runs, keys), _distinct(shown)
    write_csv(folder / "runs.csv", with_unfinished(table, others))
    write_csv(folder / "settings.csv", settings)
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a pipe or a log has no edge to wrap at
    headers = {key: _header(key) for key in keys} or {"run": "run"}
    headers |= {**scores, "seconds": "s", "memory_gib": "GiB"}
    console.print(_table(f"{len(table)} runs: {folder}", table, headers))
    if others:
        title = f"{len(others)} runs that did not finish"
        headers = {"run": "run", "state": "state", "reason": "reason"}
        console.print(_table(title, with_unfinished([], others), headers))
    if any(row["subjects"] > 1 or row["runs"] > 1 for row in settings):
        for row in settings:
            row |= {variant: _with_interval(row, variant) for variant in shown if variant in row}
        headers = {key: _header(key) for key in keys if key not in OVER}
        headers |= {"subjects": "subjects", "runs": "runs", **scores}
        console.print(_table("means over subjects (95 % interval)", settings, headers))
    legend = Table.grid(padding=(0, 2))
    for variant, header in scores.items():
        legend.add_row(header, variant, style="dim")
    console.print(legend)


def runs_table(runs: Sequence[ScoredRun]) -> list[dict[str, Any]]:
    """List the runs: name, settings that differ, scores by variant id, last losses, costs."""
    keys = varying(runs)
    return [
        {
            "run": run.name,
            **{key: run.settings.get(key) for key in keys},
            "evaluation": run.metrics.get("evaluation"),
            **run.scores,
            **run.run.last_losses(),
            "seconds": run.run.record["costs"]["seconds"],
            "memory_gib": run.run.record["costs"]["peak_memory_gib"],
        }
        for run in runs
    ]


def with_unfinished(
    table: Sequence[Mapping[str, Any]], others: Sequence[Unfinished]
) -> list[dict[str, Any]]:
    """Add the runs that did not finish, and columns with their state and reason, if there are any.

    A run that failed or was stopped after its training keeps its row.
    """
    rows = {row["run"]: dict(row) for row in table}
    for run in others:
        own = {"run": run.name, "state": run.state, "reason": run.reason}
        rows[run.name] = {**rows.get(run.name, {}), **own}
    return list(rows.values())


def _order(value: Any) -> tuple:
    """Sort numbers by size, then anything else by its text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, value, "") if is_number else (1, 0, str(value))


def _header(key: str) -> str:
    """Shorten a key: `subject.name` => `subject`, `scored.name` => `evaluation`."""
    short = key.removesuffix(".name").removeprefix("scored.")
    return "evaluation" if short == "scored" else short


def _distinct(shown: Mapping[str, str]) -> dict[str, str]:
    """Name each variant's column; variants of one metric are numbered."""
    headers = {}
    for variant, name in shown.items():
        alike = [v for v in shown if shown[v] == name]
        headers[variant] = name if len(alike) == 1 else f"{name} {alike.index(variant) + 1}"
    return headers


def _with_interval(row: Mapping[str, Any], variant: str) -> str:
    low, high = row[f"{variant}.low_95"], row[f"{variant}.high_95"]
    return f"{row[variant]:.3f}" + (f" ({low:.3f} to {high:.3f})" if low is not None else "")


def _table(title: str, rows: Sequence[Mapping[str, Any]], headers: Mapping[str, str]) -> Table:
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    present = {key: name for key, name in headers.items() if any(key in row for row in rows)}
    for name in present.values():
        table.add_column(name, overflow="fold", min_width=5)
    for row in rows:
        table.add_row(*(_cell(key, row.get(key)) for key in present))
    return table


def _cell(key: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if key.partition(".")[0] in SCORES else f"{value:.4g}"
    return "" if value is None else escape(str(value))

"""Many runs side by side: a table of runs, the answer to a study, and their files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from dreambooth.errors import UserError
from dreambooth.files import write_csv
from dreambooth.quoting import quoted, typed
from dreambooth.sampling.draw import torch_device
from dreambooth.scratch import remove_leftovers
from dreambooth.study.answers.answer_files import FILES, write_answer
from dreambooth.study.answers.answer_rows import build_answer
from dreambooth.study.answers.settings import by_setting, in_order, varying
from dreambooth.study.finished.other_subjects import with_other_subjects
from dreambooth.study.finished.scored_runs import ScoredRun, read_readable
from dreambooth.study.finished.sweeps import Unfinished, find_unfinished
from dreambooth.study.looks import attempted, write_looks
from dreambooth.study.printing import print_answer, print_legend, print_runs
from dreambooth.training.logs.costs import reused_steps


@dataclass(frozen=True)
class ReportSpec:
    """What report.py shows: finished runs below `runs`, under one evaluation's scores.

    `other_subjects` adds PRES over a class's other subjects, for which `device`, `encoders_dir`
    and `cache_dir` say where its network runs and lies. `wandb` logs the study to W&B too.
    """

    runs: Path
    evaluation: str | None
    other_subjects: bool
    device: str
    encoders_dir: str | None
    cache_dir: str
    wandb: bool


def report(spec: ReportSpec) -> int:
    """Print and write both tables; return 0.

    Raises:
        UserError: no finished run below the folder, none that was scored as asked, or no GPU.
    """
    (runs, unreadable), note = read_readable(spec.runs, spec.evaluation), None
    unfinished = [*find_unfinished(spec.runs), *unreadable]
    if not runs:
        others = "".join(f"\n  {u.name}: {u.state} ({u.reason})" for u in unfinished)
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
    print_tables(spec.runs, runs, unfinished, spec.wandb)
    if note:
        Console().print(note, highlight=False)
    return 0


def print_tables(
    folder: Path,
    runs: Sequence[ScoredRun] | None = None,
    unfinished: Sequence[Unfinished] = (),
    wandb: bool = False,
) -> None:
    """Print all runs and the answer; write `runs.csv`, `settings.csv`, `answer.*`, page, figures.

    Args:
        runs: those to show; by default every finished run below `folder`.
        unfinished: the runs of a sweep that failed, did not end or are missing. One that has a
            record all the same is not shown as finished.
        wandb: whether the study is logged to W&B too, in the group of its runs.
    """
    if runs is None:
        runs, unreadable = read_readable(folder)
        unfinished = [*unfinished, *unreadable]
    names = {run.name for run in unfinished}
    runs = in_order([run for run in runs if run.name not in names])
    answer = build_answer(runs, unfinished)
    for place in (folder, folder / "figures"):
        remove_leftovers(place)
    write_csv(folder / "runs.csv", runs_table(runs, unfinished))
    write_csv(folder / "settings.csv", by_setting(runs, varying(runs)))
    write_answer(folder, answer)
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160  # a pipe or a log has no edge to wrap at
    print_runs(console, runs, answer)
    print_answer(console, answer)
    print_legend(console, answer)
    looks = write_looks(folder, runs, answer)
    written = ", ".join(("runs.csv", "settings.csv", *FILES, *looks))
    console.print(Text(f"Written to {folder}: {written}"))
    drawing = next((r.run.folder for r in runs if (r.run.folder / "model").is_dir()), None)
    if drawing is not None:  # printed without rich, which would break the line
        print("Draw with a run, such as: python generate.py", typed(f"run={quoted(drawing)}"))
    if wandb:
        from dreambooth.study.wandb_summary import log_study  # matplotlib takes a second

        attempted("The summary in W&B", lambda: log_study(folder, runs, answer))


def runs_table(
    runs: Sequence[ScoredRun], unfinished: Sequence[Unfinished] = ()
) -> list[dict[str, Any]]:
    """List the runs: name, state, settings that differ, scores by variant id, last losses, costs.

    `<variant>.low_95` and `.high_95` are a run's own interval. An unfinished run has a reason, and
    neither settings nor scores.
    """
    keys = varying(runs)
    finished = [
        {
            "run": run.name,
            "state": "finished",
            **{key: run.settings.get(key) for key in keys},
            "evaluation": run.metrics.get("evaluation"),
            **_with_intervals(run),
            **run.run.last_losses(),
            "seconds": run.run.record["costs"]["seconds"],
            "memory_gib": run.run.record["costs"]["peak_memory_gib"],
            "reused_steps": reused_steps(run.run.record["costs"]),
        }
        for run in runs
    ]
    others = [{"run": run.name, "state": run.state, "reason": run.reason} for run in unfinished]
    return [*finished, *others]


def _with_intervals(run: ScoredRun) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variant, score in run.scores.items():
        values[variant] = score
        if variant in run.intervals:
            low, high = run.intervals[variant]
            values |= {f"{variant}.low_95": low, f"{variant}.high_95": high}
    return values

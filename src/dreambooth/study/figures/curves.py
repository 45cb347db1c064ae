"""Figures over training steps: losses, and the scores of a small prompt set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from dreambooth.study.answer import Answer
from dreambooth.study.columns import columns_of
from dreambooth.study.figures.style import GREY, colours, panels
from dreambooth.study.page.run_view import losses
from dreambooth.study.scored_runs import ScoredRun

Line = Mapping[float, float]
"""Values by step."""


def losses_figure(runs: Sequence[ScoredRun], answer: Answer) -> Figure | None:
    """Draw instance and prior losses apart: each run's, and the mean of each setting."""
    found = {run.name: losses(run.run) for run in runs}
    names = [name for name in ("instance", "prior") if any(name in own for own in found.values())]
    lines = {
        f"{name} loss": {
            run: {step: value for step, value in own[name]}
            for run, own in found.items()
            if name in own
        }
        for name in names
    }
    return _figure(lines, answer) if lines else None


def scores_figure(runs: Sequence[ScoredRun], answer: Answer) -> Figure | None:
    """Draw the scores while training: each run's, and the mean of each setting."""
    curves = {run.name: run.run.curve() for run in runs}
    variants = dict.fromkeys(key for curve in curves.values() for row in curve for key in row)
    names = {column.variant: f"{column.header} {column.arrow}" for column in columns_of(runs)}
    lines: dict[str, dict[str, Line]] = {}
    for variant in variants:
        if variant not in ("step", "harmonic_mean"):
            lines[names.get(variant, variant)] = {
                run: {row["step"]: row[variant] for row in curve if variant in row}
                for run, curve in curves.items()
                if curve
            }
    return _figure(lines, answer) if lines else None


def _figure(lines: Mapping[str, Mapping[str, Line]], answer: Answer) -> Figure:
    figure, axes = panels(len(lines))
    colour, rows = colours(answer.rows), [row for row in answer.rows if row.kind != "real"]
    of_run = {run: row.name for row in rows for run in row.runs}
    for axis, (title, of_runs) in zip(axes, lines.items(), strict=True):
        for run, line in of_runs.items():
            shade = colour.get(of_run.get(run, ""), GREY)
            axis.plot(list(line), list(line.values()), color=shade, alpha=0.3, linewidth=0.8)
        for row in rows:
            mean = mean_line([of_runs[run] for run in row.runs if of_runs.get(run)])
            if mean:
                steps, values = list(mean), list(mean.values())
                axis.plot(steps, values, color=colour[row.name], linewidth=2, label=row.name)
        axis.set_title(title, fontsize="medium", loc="left")
        axis.set_xlabel("step", fontsize="small")
    handles = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if len(handles) > 1:
        place = "outside lower center"
        figure.legend(handles.values(), handles, loc=place, ncols=4, frameon=False)
    return figure


def mean_line(lines: Sequence[Line]) -> dict[float, float]:
    """Average lines at the steps that all of them have."""
    if not lines:
        return {}
    steps = [step for step in lines[0] if all(step in line for line in lines)]
    return {step: sum(line[step] for line in lines) / len(lines) for step in steps}

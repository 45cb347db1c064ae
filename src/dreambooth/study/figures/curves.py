"""Figures over training steps: losses, and the scores of a small prompt set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dreambooth.study.answers.answer import Answer
from dreambooth.study.answers.columns import columns_of
from dreambooth.study.figures.looks import legend_below, looks
from dreambooth.study.figures.style import GREY, panels
from dreambooth.study.finished.scored_runs import ScoredRun
from dreambooth.study.page.run_view import losses

Line = Mapping[float, float]
"""Values by step."""


def losses_figure(runs: Sequence[ScoredRun], answer: Answer) -> Figure | None:
    """Draw instance and prior losses apart: each run's, and the smoothed mean of each setting."""
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
    return _figure(lines, answer, smoothed) if lines else None


def scores_figure(runs: Sequence[ScoredRun], answer: Answer) -> Figure | None:
    """Draw the scores while training: each run's, and the mean of each setting."""
    curves = {run.name: run.run.curve() for run in runs}
    names = {column.variant: f"{column.header} {column.arrow}" for column in columns_of(runs)}
    drawn = {key for curve in curves.values() for row in curve for key in row}
    lines: dict[str, dict[str, Line]] = {}
    for variant in [*(v for v in names if v in drawn), *sorted(drawn - set(names))]:
        if variant not in ("step", "harmonic_mean"):
            lines[names.get(variant, variant)] = {
                run: {row["step"]: row[variant] for row in curve if variant in row}
                for run, curve in curves.items()
                if curve
            }
    return _figure(lines, answer) if lines else None


def _figure(
    lines: Mapping[str, Mapping[str, Line]], answer: Answer, shown: Callable[[Line], Line] = dict
) -> Figure:
    """Draw a panel for each title: a thin line for each run, a thick one for each setting.

    `shown` makes the thick line of a setting's mean.
    """
    figure, axes = panels(len(lines))
    look = looks(answer.rows)
    of_run = {run: look[row.name] for row in answer.rows if row.name in look for run in row.runs}
    groups = {each.group: each.colour for each in look.values()}
    for axis, (title, of_runs) in zip(axes, lines.items(), strict=True):
        for run, line in of_runs.items():
            shade = of_run[run].colour if run in of_run else GREY
            style = {"color": shade, "alpha": 0.3, "linewidth": 0.8}
            axis.plot(list(line), list(line.values()), marker=_dot(line), **style)
        for group, colour in groups.items():
            own = [of_runs.get(run) for run, each in of_run.items() if each.group == group]
            mean = shown(mean_line([line for line in own if line]))
            if mean:
                style = {"color": colour, "linewidth": 2}
                axis.plot(list(mean), list(mean.values()), marker=_dot(mean), **style)
        axis.set_title(title, fontsize="medium", loc="left")
        axis.set_xlabel("step", fontsize="small")
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    legend_below(figure, answer.rows)
    return figure


def _dot(line: Line) -> str | None:
    """Return the marker of a line that is a single point."""
    return "." if len(line) == 1 else None


def smoothed(line: Line) -> dict[float, float]:
    """Average each point with its neighbours, a twentieth of the line on either side.

    >>> smoothed({step: float(step % 2) for step in range(40)})[20]
    0.4
    """
    values = list(line.values())
    half = len(values) // 20
    near = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return {step: sum(own) / len(own) for step, own in zip(line, near, strict=True)}


def mean_line(lines: Sequence[Line]) -> dict[float, float]:
    """Average lines at the steps that all of them have."""
    if not lines:
        return {}
    steps = [step for step in lines[0] if all(step in line for line in lines)]
    return {step: sum(line[step] for line in lines) / len(lines) for step in steps}

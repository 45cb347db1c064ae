"""Figures of scores: each subject in two settings, the Pareto plot, and maps of two settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure

from dreambooth.metrics.aggregate import pareto_front
from dreambooth.study.answers.answer import Answer, Row
from dreambooth.study.answers.settings import short
from dreambooth.study.figures.looks import FEW, legend_below, looks
from dreambooth.study.figures.style import GREY, colours, panels
from dreambooth.study.finished.scored_runs import ScoredRun
from dreambooth.study.page.study_view import number_settings, numbers, shown, tradeoff


def paired_figure(answer: Answer, row: Row) -> Figure | None:
    """Draw each subject's score under a row's baseline and under the row, a panel per metric."""
    base = next((other for other in answer.rows if other.name == row.baseline), None)
    columns = [column for column in answer.columns if column.variant in row.differences]
    if base is None or not columns:
        return None
    figure, axes = panels(len(columns), 2.4, 2.6)
    colour = colours(answer.rows)[row.name]
    for axis, column in zip(axes, columns, strict=True):
        difference = row.differences[column.variant]
        pairs = [
            (base.scores[column.variant].per_subject[s], row.scores[column.variant].per_subject[s])
            for s in difference.per_subject
        ]
        for pair in pairs:
            axis.plot((0, 1), pair, color=colour, alpha=0.35, linewidth=1)
        means = [sum(values) / len(values) for values in zip(*pairs, strict=True)]
        axis.plot((0, 1), means, color=colour, linewidth=2.5, marker="o", markersize=4)
        names = [name.replace(", ", "\n").replace("$", r"\$") for name in (base.name, row.name)]
        axis.set_xticks((0, 1), names, fontsize="small")
        axis.set_xlim(-0.3, 1.3)
        interval = difference.interval
        text = f"{difference.value:+.3f}" + (
            f" ({interval[0]:+.3f} to {interval[1]:+.3f})" if interval else ""
        )
        axis.set_title(f"{column.header} {column.arrow}\n{text}", fontsize="small", loc="left")
    return figure


def pareto_figure(runs: Sequence[ScoredRun], answer: Answer) -> Figure | None:
    """Draw subject fidelity over prompt fidelity: a mark per run, a large one per setting."""
    pair = tradeoff(answer.columns)
    if pair is None:
        return None
    x, y = pair["prompt"], pair["subject"]
    points = {
        run.name: (run.scores[x], run.scores[y])
        for run in runs
        if x in run.scores and y in run.scores
    }
    if len(points) < 2:
        return None
    figure, (axis,) = panels(1, 5.2, 4)
    look = looks(answer.rows)
    for row in [row for row in answer.rows if row.kind != "real"]:
        own = [points[run] for run in row.runs if run in points]
        if own:
            style: dict[str, Any] = {"c": look[row.name].colour, "marker": look[row.name].marker}
            axis.scatter(*zip(*own, strict=True), s=16, linewidths=0, alpha=0.7, **style)
            mean = [sum(values) / len(own) for values in zip(*own, strict=True)]
            size = 90 if len(look) <= FEW else 45
            axis.scatter(*mean, s=size, edgecolors="black", linewidths=0.7, zorder=3, **style)
    values = list(points.values())
    _draw_front(axis, [values[i] for i in pareto_front(values)])
    header = {column.variant: column.header for column in answer.columns}
    axis.set(xlabel=f"prompt fidelity, {header[x]} →", ylabel=f"subject fidelity, {header[y]} →")
    legend_below(figure, answer.rows, has_markers=True)
    return figure


def pareto_steps_figure(answer: Answer) -> Figure | None:
    """Draw subject over prompt fidelity while training: a line per setting, a mark per step.

    The steps that no other step of any setting dominates are named, and joined.
    """
    front = next((each for each in answer.fronts if each.over == "steps"), None)
    if front is None:
        return None
    figure, (axis,) = panels(1, 5.2, 4)
    look = looks(answer.rows)
    for row in [row for row in answer.rows if row.kind != "real"]:
        own = [(p.prompt, p.subject) for p in front.points if p.row == row.name]
        if own:
            style: dict[str, Any] = {
                "color": look[row.name].colour,
                "marker": look[row.name].marker,
            }
            axis.plot(*zip(*own, strict=True), linewidth=1, markersize=4, alpha=0.8, **style)
    for point in front.best:
        place = (point.prompt, point.subject)
        axis.annotate(
            str(point.step), place, (4, 4), textcoords="offset points", fontsize="x-small"
        )
    _draw_front(axis, [(point.prompt, point.subject) for point in front.best])
    axis.set(xlabel="prompt fidelity, CLIP-T →", ylabel="subject fidelity, DINO →")
    axis.set_title("while training, steps of the front named", fontsize="small", loc="left")
    legend_below(figure, answer.rows, has_markers=True)
    return figure


def _draw_front(axis: Any, best: Sequence[tuple[float, float]]) -> None:
    """Join the points of a front by the steps of a staircase."""
    for (right, low), (left, high) in pairwise(sorted(best, reverse=True)):
        axis.plot((right, right, left), (low, high, high), color=GREY, linestyle=":", linewidth=1)


def map_figure(runs: Sequence[ScoredRun], answer: Answer) -> Figure | None:
    """Draw the scores as maps over two settings that are numbers: learning rate x steps."""
    keys = number_settings(runs)
    if not keys or not answer.columns:
        return None
    x, y = keys
    columns, rows = numbers(runs, x), numbers(runs, y)
    figure, axes = panels(len(answer.columns), 2.6, 2.4)
    for axis, column in zip(axes, answer.columns, strict=True):
        cells = [[_mean(runs, {x: a, y: b}, column.variant) for a in columns] for b in rows]
        colours_up = "viridis_r" if column.lower_is_better else "viridis"
        axis.grid(False)
        image = axis.imshow(cells, aspect="auto", cmap=colours_up, origin="lower")
        low, high = image.get_clim()
        for i, line in enumerate(cells):
            for j, value in enumerate(line):
                light = (value - low > 0.55 * (high - low)) != column.lower_is_better
                text = "" if math.isnan(value) else f"{value:.3f}"
                style: dict[str, Any] = {"color": "black" if light else "white"}
                axis.text(j, i, text, ha="center", va="center", fontsize="x-small", **style)
        axis.set_xticks(range(len(columns)), [shown(v) for v in columns], fontsize="small")
        axis.set_yticks(range(len(rows)), [shown(v) for v in rows], fontsize="small")
        axis.set(xlabel=short(x), ylabel=short(y))
        axis.set_title(f"{column.header} {column.arrow}", fontsize="medium", loc="left")
    return figure


def _mean(runs: Sequence[ScoredRun], setting: dict[str, Any], variant: str) -> float:
    """Average a score over the runs of a setting; not a number without any."""
    values = [
        run.scores[variant]
        for run in runs
        if variant in run.scores and all(run.settings.get(k) == v for k, v in setting.items())
    ]
    return sum(values) / len(values) if values else float("nan")

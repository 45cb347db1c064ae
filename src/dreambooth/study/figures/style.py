"""How all figures look, and how one is saved: as PNG for a screen and as PDF for a paper."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dreambooth.files import atomic
from dreambooth.study.answers.answer import Row

GREY = "#85858c"  # of a baseline, and of runs in no row
COLOURS = ("#0b7d86", "#c4541a", "#6b4fb8", "#a27a00", "#b5396f", "#3566b0", "#4d7c2f")
MARKERS = "osD^vP*X"
DPI = 160


def colours(rows: Sequence[Row]) -> dict[str, str]:
    """Give every row a colour: grey to baselines, as on the page."""
    baselines = {row.baseline for row in rows if row.baseline}
    others = [row.name for row in rows if row.kind != "real" and row.name not in baselines]
    found = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(others)}
    return {row.name: found.get(row.name, GREY) for row in rows}


def panels(count: int, width: float = 3.1, height: float = 2.6) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` panels side by side, four in a row; sizes of one are in inches."""
    across = min(count, 4)
    down = -(-count // across)
    figure = Figure(figsize=(width * across, height * down), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for left_over in axes[count:]:
        left_over.remove()
    for each in axes[:count]:
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize="small")
        each.grid(axis="y", color="0.92", linewidth=0.8)
        each.set_axisbelow(True)
    return figure, axes[:count]


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name.png` and `name.pdf` into a folder; return both paths."""
    paths = []
    for kind in ("png", "pdf"):
        path = folder / f"{name}.{kind}"
        facts = {"Software": None} if kind == "png" else {"CreationDate": None}
        with atomic(path) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box for an emoji
            figure.savefig(temporary, format=kind, dpi=DPI, metadata=facts)
        paths.append(path)
    return paths

"""The curve of a run as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from dreambooth.files import atomic

NAMES = {"dino": "DINO ↑", "clip_i": "CLIP-I ↑", "clip_t": "CLIP-T ↑", "pres": "PRES ↓"}


def draw_curve(rows: list[dict[str, float]], path: Path, best: int | None) -> None:
    """Write one panel per metric over optimizer steps, as PNG; the best step is a dashed line."""
    variants = [key for key in rows[0] if key.partition(".")[0] in NAMES]
    panels = list(dict.fromkeys(key.partition(".")[0] for key in variants))
    figure = Figure(figsize=(3.2 * len(panels), 2.8), layout="constrained")
    steps = [row["step"] for row in rows]
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for key in variants:
            if key.partition(".")[0] == panel:
                label = key.split(".")[-3] if panel == "clip_t" else None
                axes.plot(steps, [row[key] for row in rows], marker="o", markersize=3, label=label)
        if best is not None:
            axes.axvline(best, linestyle="--", linewidth=1, color="0.5")
        axes.set(title=NAMES[panel], xlabel="step")
        axes.spines[["top", "right"]].set_visible(False)
        if panel == "clip_t":
            axes.legend(fontsize="x-small", frameon=False)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)

"""Write the figures of a study into `figures/`: those that what varies in it calls for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import count
from pathlib import Path

from matplotlib.figure import Figure

from dreambooth.sampling.manifest import slug
from dreambooth.study.answers.answer import Answer
from dreambooth.study.figures.comparisons import (
    map_figure,
    paired_figure,
    pareto_figure,
    pareto_steps_figure,
)
from dreambooth.study.figures.curves import losses_figure, scores_figure
from dreambooth.study.figures.sheets import settings_sheet, steps_sheet, subjects_sheet
from dreambooth.study.figures.style import save
from dreambooth.study.finished.scored_runs import ScoredRun
from dreambooth.study.page.study_view import labels

FOLDER = "figures"
SHEETS = 4  # of each kind: of the first subjects, and of the first settings

Named = tuple[str, Callable[[], Figure | None]]


def write_figures(folder: Path, runs: Sequence[ScoredRun], answer: Answer) -> list[Path]:
    """Write every figure that the runs have something for, as PNG and PDF; return the paths.

    Figures of an earlier report that this one does not draw are removed.
    """
    written: list[Path] = []
    for name, draw in _figures(runs, answer):
        figure = draw()
        if figure is not None:
            written += save(figure, folder / FOLDER, _unused(name, {p.stem for p in written}))
    for kind in ("png", "pdf"):
        for path in (folder / FOLDER).glob(f"*.{kind}"):
            if path not in written:
                path.unlink()
    return written


def _figures(runs: Sequence[ScoredRun], answer: Answer) -> Iterator[Named]:
    yield "losses", lambda: losses_figure(runs, answer)
    yield "scores-while-training", lambda: scores_figure(runs, answer)
    yield "pareto", lambda: pareto_figure(runs, answer)
    yield "pareto-steps", lambda: pareto_steps_figure(answer)
    yield "map", lambda: map_figure(runs, answer)
    compared = [row for row in answer.rows if row.baseline and row.differences]
    for row in compared[:SHEETS]:
        name = "paired" if len(compared) == 1 else f"paired-{slug(row.name)}"
        yield name, lambda row=row: paired_figure(answer, row)
    for subject in list(dict.fromkeys(run.subject for run in runs))[:SHEETS]:
        yield f"settings-{slug(subject)}", lambda s=subject: settings_sheet(runs, answer, s)
    for row in [row for row in answer.rows if row.kind != "real"][:SHEETS]:
        yield f"subjects-{slug(row.name)}", lambda row=row: subjects_sheet(runs, row.runs)
    named = zip(runs, labels(runs, answer.rows), strict=True)
    for run, label in [n for n in named if any(n[0].run.folder.glob("samples/step-*"))][:SHEETS]:
        yield f"steps-{slug(label)}", lambda run=run: steps_sheet(run)


def _unused(name: str, taken: Collection[str]) -> str:
    """Number a name that is taken: long settings can begin alike."""
    numbered = (name if n == 1 else f"{name}-{n}" for n in count(1))
    return next(candidate for candidate in numbered if candidate not in taken)

"""Sheets of pictures like those of papers: settings side by side, and subjects x prompts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dreambooth.errors import UserError
from dreambooth.files import read_csv
from dreambooth.study.answer import Answer
from dreambooth.study.page.run_view import template
from dreambooth.study.scored_runs import ScoredRun

CELL, GAP = 128, 8  # pixels of a picture on a sheet, and between two
SUBJECTS, SETTINGS = 10, 8  # on one sheet
INCH = 110  # pixels of a sheet's pictures per inch of the figure

Cells = Sequence[Sequence[Path | None]]


def settings_sheet(runs: Sequence[ScoredRun], answer: Answer, subject: str) -> Figure | None:
    """Draw a subject's samples: a row per prompt, a column per setting, the photos on the left."""
    own = [run for run in runs if run.subject == subject]
    by_name = {run.name: run for run in own}
    columns: list[tuple[str, ScoredRun]] = []
    for row in answer.rows:
        first = next((by_name[name] for name in row.runs if name in by_name), None)
        if row.kind != "real" and first is not None:
            columns.append((row.name, first))
    columns = columns[:SETTINGS]
    pictures = [samples_of(run) for _, run in columns]
    prompts = list(dict.fromkeys(key for found in pictures for key in found))
    if len(columns) < 2 or not prompts:
        return None
    photos = _photos(columns[0][1])
    cells = [
        [_at(photos, number), *(found.get(key) for found in pictures)]
        for number, key in enumerate(prompts)
    ]
    words = [_words(own[0], key) for key in prompts]
    return sheet(["photos", *(name for name, _ in columns)], words, cells)


def subjects_sheet(runs: Sequence[ScoredRun], names: Sequence[str]) -> Figure | None:
    """Draw the runs of one setting: a row per subject with a photo, a column per prompt."""
    by_subject: dict[str, ScoredRun] = {}
    for run in runs:
        if run.name in names:
            by_subject.setdefault(run.subject, run)
    chosen = list(by_subject.items())[:SUBJECTS]
    pictures = [samples_of(run) for _, run in chosen]
    prompts = list(dict.fromkeys(key for found in pictures for key in found))
    if len(chosen) < 2 or not prompts:
        return None
    cells = [
        [_at(_photos(run), 0), *(found.get(key) for key in prompts)]
        for (_, run), found in zip(chosen, pictures, strict=True)
    ]
    words = [key.replace("{subject}", "…").replace("{class}", "(class noun)") for key in prompts]
    return sheet(["photo", *words], [name for name, _ in chosen], cells)


def steps_sheet(run: ScoredRun) -> Figure | None:
    """Draw a run's samples while it trained: a row per prompt, a column per step."""
    folders = sorted((run.run.folder / "samples").glob("step-*"))
    if not folders:
        return None
    names = [*(folder.name for folder in folders if folder.is_dir()), "final"]
    pictures = [samples_of(run, name) for name in names]
    prompts = list(dict.fromkeys(key for found in pictures for key in found))
    cells = [[found.get(key) for found in pictures] for key in prompts]
    columns = [name.removeprefix("step-").lstrip("0") or "0" for name in names]
    return sheet(columns, [_words(run, key) for key in prompts], cells) if prompts else None


def samples_of(run: ScoredRun, name: str = "final") -> dict[str, Path]:
    """Return the sample of each prompt's first seed, by the prompt without the subject's words."""
    folder = run.run.folder / "samples" / name
    try:
        rows = read_csv(folder / "manifest.csv")
    except (UserError, OSError):
        return {}
    found: dict[str, Path] = {}
    for row in rows:
        found.setdefault(template(run.run, row["prompt"]), folder / row["file"])
    return found


def sheet(columns: Sequence[str], rows: Sequence[str], cells: Cells) -> Figure:
    """Draw pictures in a grid with a name over each column and beside each row.

    A picture that is missing is left grey.
    """
    step = CELL + GAP
    canvas = np.full((len(rows) * step - GAP, len(columns) * step - GAP, 3), 255, np.uint8)
    for i, line in enumerate(cells):
        for j, path in enumerate(line):
            canvas[i * step : i * step + CELL, j * step : j * step + CELL] = _pixels(path)
    left, top = 1.5, 0.5  # inches for the names
    width, height = canvas.shape[1] / INCH, canvas.shape[0] / INCH
    figure = Figure(figsize=(left + width + 0.1, top + height + 0.1))
    size = figure.get_size_inches()
    axes = figure.add_axes((left / size[0], 0.1 / size[1], width / size[0], height / size[1]))
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.axis("off")
    for j, name in enumerate(columns):
        axes.text(
            j * step + CELL / 2, -10, _wrapped(name, 20), ha="center", va="bottom", fontsize=8
        )
    for i, name in enumerate(rows):
        axes.text(-12, i * step + CELL / 2, _wrapped(name, 24), ha="right", va="center", fontsize=8)
    return figure


def _pixels(path: Path | None) -> np.ndarray:
    """Read a picture as `[CELL, CELL, 3]`; grey for one that is missing."""
    try:
        if path is None:
            raise OSError
        with Image.open(path) as image:
            small = image.width < CELL
            kernel = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
            return np.asarray(image.convert("RGB").resize((CELL, CELL), kernel))
    except OSError:
        return np.full((CELL, CELL, 3), 235, np.uint8)


def _wrapped(text: str, width: int) -> str:
    lines = textwrap.wrap(text, width)[:3]
    return "\n".join(line.replace("$", r"\$") for line in lines)


def _words(run: ScoredRun, key: str) -> str:
    """Fill a prompt's template with a run's own words."""
    record = run.run.record
    words = {"{subject}": record.get("subject_phrase"), "{class}": record["subject"]["class_noun"]}
    for field, word in words.items():
        key = key.replace(field, word or "…")
    return key


def _photos(run: ScoredRun) -> Sequence[Path]:
    return run.run.training_photos if "photos" in run.run.record else ()


def _at(paths: Sequence[Path], number: int) -> Path | None:
    return paths[number] if number < len(paths) else None

"""Sheets of pictures like those of papers: settings side by side, and subjects x prompts."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dreambooth.errors import UserError
from dreambooth.files import read_csv
from dreambooth.study.answers.answer import Answer
from dreambooth.study.answers.settings import words
from dreambooth.study.figures.looks import spread
from dreambooth.study.finished.scored_runs import ScoredRun
from dreambooth.study.page.run_view import template

CELL, GAP = 128, 8  # pixels of a picture on a sheet, and between two
SUBJECTS, SETTINGS = 10, 8  # on one sheet
INCH = 110  # pixels of a sheet's pictures per inch of the figure

Cells = Sequence[Sequence[Path | None]]


def settings_sheet(runs: Sequence[ScoredRun], answer: Answer, subject: str) -> Figure | None:
    """Draw a subject's samples: a row per prompt, a column per setting, the photos on the left."""
    own = [run for run in runs if run.subject == subject]
    by_name = {run.name: run for run in own}
    drawn = {
        row.name: next(by_name[name] for name in row.runs if name in by_name)
        for row in answer.rows
        if row.kind != "real" and any(name in by_name for name in row.runs)
    }
    rows, held = spread([row for row in answer.rows if row.name in drawn], SETTINGS)
    told = words(held)
    columns = [(_without(row.name, told), drawn[row.name]) for row in rows]
    pictures = [samples_of(run) for _, run in columns]
    prompts = list(dict.fromkeys(key for found in pictures for key in found))
    if len(columns) < 2 or not prompts:
        return None
    photos = _photos(columns[0][1])
    cells = [
        [_at(photos, number), *(found.get(key) for found in pictures)]
        for number, key in enumerate(prompts)
    ]
    phrases = {run.run.record.get("subject_phrase") for _, run in columns}
    shown = [_words(own[0], key if len(phrases) == 1 else _without_phrase(key)) for key in prompts]
    return sheet(["photos", *(name for name, _ in columns)], shown, cells, told)


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
    shown = [_without_phrase(key).replace("{class}", "(class noun)") for key in prompts]
    return sheet(["photo", *shown], [name for name, _ in chosen], cells)


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


def sheet(columns: Sequence[str], rows: Sequence[str], cells: Cells, title: str = "") -> Figure:
    """Draw pictures in a grid with a name over each column and beside each row.

    A picture that is missing is left grey. `title` says what all pictures share.
    """
    step = CELL + GAP
    canvas = np.full((len(rows) * step - GAP, len(columns) * step - GAP, 3), 255, np.uint8)
    for i, line in enumerate(cells):
        for j, path in enumerate(line):
            canvas[i * step : i * step + CELL, j * step : j * step + CELL] = _pixels(path)
    names = [_wrapped(name, 21, 6) for name in columns]
    # inches for the names
    left, top = 1.5, 0.2 + 0.13 * max(name.count("\n") + 1 for name in names) + 0.2 * bool(title)
    width, height = canvas.shape[1] / INCH, canvas.shape[0] / INCH
    figure = Figure(figsize=(left + width + 0.1, top + height + 0.1))
    size = figure.get_size_inches()
    axes = figure.add_axes((left / size[0], 0.1 / size[1], width / size[0], height / size[1]))
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.axis("off")
    if title:
        figure.text(
            left / size[0], 1 - 0.08 / size[1], title.replace("$", r"\$"), va="top", fontsize=8
        )
    for j, name in enumerate(names):
        axes.text(j * step + CELL / 2, -8, name, ha="center", va="bottom", fontsize=8)
    for i, name in enumerate(rows):
        text = _wrapped(name, 24, 5)
        axes.text(-12, i * step + CELL / 2, text, ha="right", va="center", fontsize=8)
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


def _wrapped(text: str, width: int, most: int) -> str:
    """Break a name into lines: each setting on its own, and long words after `_` or `=`."""
    parts = [part for line in text.split(", ") for part in textwrap.wrap(line, width * 2)]
    lines = []
    for part in parts if "=" in text else textwrap.wrap(text, width):
        lines.append("")
        for piece in re.split(r"(?<=[_= ])", part):
            if lines[-1] and len(lines[-1] + piece.rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    return "\n".join(line.strip().replace("$", r"\$") for line in lines[:most])


def _without(name: str, told: str) -> str:
    """Leave out of a setting's name what a title tells of all."""
    shared = told.split(", ")
    return ", ".join(part for part in name.split(", ") if part not in shared) or name


def _words(run: ScoredRun, key: str) -> str:
    """Fill a prompt's template with a run's own words."""
    record = run.run.record
    words = {"{subject}": record.get("subject_phrase"), "{class}": record["subject"]["class_noun"]}
    for field, word in words.items():
        key = key.replace(field, word or "…")
    return key


def _without_phrase(key: str) -> str:
    """Write a prompt's template for runs that call the subject differently."""
    return key.replace("{subject}", "…")


def _photos(run: ScoredRun) -> Sequence[Path]:
    return run.run.training_photos if "photos" in run.run.record else ()


def _at(paths: Sequence[Path], number: int) -> Path | None:
    return paths[number] if number < len(paths) else None

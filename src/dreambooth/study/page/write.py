"""Write `report.html`, the page of a study, and `run.html`, the page of one run."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dreambooth.files import atomic, readable_size
from dreambooth.study.answers.answer import Answer
from dreambooth.study.answers.columns import columns_of
from dreambooth.study.answers.effect_lines import HEADING, effect_lines
from dreambooth.study.finished.scored_runs import ScoredRun
from dreambooth.study.page.pictures import Pictures
from dreambooth.study.page.repeat import command_of, versions_of
from dreambooth.study.page.run_view import run_view
from dreambooth.study.page.study_view import RUN_PAGE, column_view, shown, study_view

log = logging.getLogger(__name__)

STUDY_PAGE = "report.html"
INLINE_RUNS = 300  # of a larger study the pictures lie beside the page, and load as they are seen
STYLE = ("style.css",)
SCRIPTS = ("core.js", "chart.js")
STUDY_SCRIPTS = (*SCRIPTS, "compare.js", "table.js", "study.js")
PLACES = ("output_dir", "cache_dir")  # settings that say where files are, and change nothing
RUN_SCRIPTS = (*SCRIPTS, "run.js")


def write_study_page(folder: Path, runs: Sequence[ScoredRun], answer: Answer) -> Path:
    """Write `report.html` of the runs below `folder`; return its path.

    The page is one file. Where its pictures are too many for that, they lie in `report_pictures/`.
    """
    pictures = Pictures(folder / "report_pictures", beside=len(runs) > INLINE_RUNS)
    data = study_view(folder, runs, answer, pictures)
    newest = max(runs, key=lambda run: run.run.written_at, default=None)
    context = {
        "title": (answer.published and answer.published.title) or folder.resolve().name,
        "answer": answer,
        "effects": effect_lines(answer),
        "effects_heading": HEADING,
        "models": sorted({shown(run.settings.get("model.name")) for run in runs}),
        "subjects": _subjects(data),
        "command": command_of(folder),
        "versions": versions_of(newest.run.record) if newest else {},
        "seconds": math.fsum(view["seconds"] or 0 for view in data["runs"]),
        "bytes": sum(view["bytes"] or 0 for view in data["runs"]),
        "folder": _from_here(folder),
    }
    return _write(folder / STUDY_PAGE, "study.html", data, pictures, context, STUDY_SCRIPTS)


def write_run_page(folder: Path) -> Path:
    """Write `run.html` of a finished run into its folder; return its path.

    Raises:
        UserError: the run's record cannot be read.
    """
    run = ScoredRun.read(folder, folder.resolve().name, None)
    pictures = Pictures(folder / "run_pictures")
    columns = columns_of([run])
    data = {
        "runs": [run_view(run, pictures, evaluation=True)],
        "columns": [column_view(column) for column in columns],
    }
    settings = {
        key: _without_folders(value)
        for key, value in run.settings.items()
        if not key.startswith(("published", "scored", *PLACES))
    }
    words = {"model": "model.name", "method": "method.name"}
    facts = [f"{name} {shown(settings[key])}" for name, key in words.items() if key in settings]
    facts += [f"{key} {shown(settings[key])}" for key in ("ppl", "lr", "seed") if key in settings]
    context = {
        "title": run.run.config.get("instance_prompt") or run.subject,
        "eyebrow": ["Run", run.subject, *facts],
        "stages": _stages(run.run.record.get("costs", {})),
        "verified": run.run.record.get("verified"),
        "settings": dict(sorted(settings.items())),
        "command": command_of(folder),
        "versions": versions_of(run.run.record),
        "folder": folder.resolve().name,
    }
    return _write(folder / RUN_PAGE, "run.html", data, pictures, context, RUN_SCRIPTS)


def _stages(costs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stages of a run's costs whose record is whole."""
    parts = ("seconds", "peak_memory_gib", "bytes")
    stages = costs.get("stages", {})
    return {name: stage for name, stage in stages.items() if all(part in stage for part in parts)}


def _without_folders(value: Any) -> Any:
    """Leave out where files are on this machine: a page is sent to others.

    >>> _without_folders("/home/me/photos/dog"), _without_folders("a sks dog")
    ('dog', 'a sks dog')
    """
    if isinstance(value, list | tuple):
        return [_without_folders(one) for one in value]
    is_path = isinstance(value, str) and Path(value).is_absolute()
    return Path(value).name if is_path else value


def _from_here(folder: Path) -> str:
    """Write a folder as a command names it here; elsewhere by its name alone."""
    path, here = folder.resolve(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def _subjects(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the photos of each subject, of its first run that has any."""
    found: dict[str, Any] = {}
    for view in data["runs"]:
        found[view["subject"]] = found.get(view["subject"]) or view["photos"]
    return found


def _write(
    path: Path,
    template: str,
    data: dict[str, Any],
    pictures: Pictures,
    context: Mapping[str, Any],
    scripts: Sequence[str],
) -> Path:
    data |= {"pictures": pictures.sources(), "beside": pictures.beside}
    html = (
        _environment()
        .get_template(template)
        .render(
            **context,
            data=data,
            made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            style=Markup("\n".join(_text(name) for name in STYLE)),
            script=Markup("\n".join(_text(name) for name in scripts)),
        )
    )
    with atomic(path) as temporary:
        temporary.write_text(html, "utf-8")
    return path


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dreambooth.study.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": lambda value: f"{value:.3f}",
        "signed": lambda value: f"{value:+.3f}".replace("-", "−"),
        "duration": duration,
        "size": readable_size,
        "shown": shown,
    }
    return environment


@cache
def _text(name: str) -> str:
    """Read a style sheet or script of this package; none of them may close its own element."""
    return (files("dreambooth.study.page") / "templates" / name).read_text("utf-8")


def duration(seconds: float) -> str:
    """Write a duration for a reader.

    >>> duration(64.6), duration(4000), duration(100000)
    ('65 s', '1 h 7 min', '27 h 47 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"

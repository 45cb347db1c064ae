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

from dreambooth.files import atomic
from dreambooth.study.answer import Answer
from dreambooth.study.page.pictures import Pictures
from dreambooth.study.page.repeat import command_of, versions_of
from dreambooth.study.page.run_view import run_view
from dreambooth.study.page.study_view import RUN_PAGE, labels, shown, study_view, tradeoff
from dreambooth.study.scored_runs import ScoredRun

log = logging.getLogger(__name__)

STUDY_PAGE = "report.html"
INLINE_RUNS = 300  # of a larger study the pictures lie beside the page, and load as they are seen
STYLE = ("style.css",)
SCRIPTS = ("core.js", "chart.js")
STUDY_SCRIPTS = (*SCRIPTS, "compare.js", "table.js", "study.js")


def write_study_page(folder: Path, runs: Sequence[ScoredRun], answer: Answer) -> Path:
    """Write `report.html` of the runs below `folder`; return its path.

    The page is one file. Where its pictures are too many for that, they lie in `report_pictures/`.
    """
    pictures = Pictures(folder / "report_pictures", beside=len(runs) > INLINE_RUNS)
    data = study_view(folder, runs, answer, pictures)
    newest = max(runs, key=lambda run: run.run.written_at)
    context = {
        "title": (answer.published and answer.published.title) or folder.resolve().name,
        "answer": answer,
        "models": sorted({shown(run.settings.get("model.name")) for run in runs}),
        "subjects": _subjects(data),
        "command": command_of(folder),
        "versions": versions_of(newest.run.record),
        "seconds": math.fsum(view["seconds"] or 0 for view in data["runs"]),
        "bytes": sum(view["bytes"] or 0 for view in data["runs"]),
        "folder": str(folder),
    }
    return _write(folder / STUDY_PAGE, "study.html", data, pictures, context, STUDY_SCRIPTS)


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
    html = _environment().get_template(template).render(
        **context,
        data=data,
        made=datetime.now().astimezone().isoformat(" ", "minutes"),
        style=Markup("\n".join(_text(name) for name in STYLE)),
        script=Markup("\n".join(_text(name) for name in scripts)),
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
        "megabytes": lambda value: f"{value / 2**20:,.0f} MiB",
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

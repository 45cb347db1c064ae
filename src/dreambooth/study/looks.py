"""The page and the figures of a report, which never fail it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from dreambooth.study.answers.answer import Answer
from dreambooth.study.finished.scored_runs import ScoredRun

Result = TypeVar("Result")
log = logging.getLogger(__name__)


def write_looks(folder: Path, runs: Sequence[ScoredRun], answer: Answer) -> list[str]:
    """Write `report.html` and `figures/`; return what was written, by name.

    Whatever goes wrong is one line of warning, for the runs are done and the tables are written.
    """
    from dreambooth.study.figures.write import write_figures  # matplotlib takes a second
    from dreambooth.study.page.write import write_study_page

    figures = attempted("figures", lambda: write_figures(folder, runs, answer))
    page = attempted("report.html", lambda: write_study_page(folder, runs, answer))
    names = [page.name] if page else []
    return [*names, f"figures/ ({len(figures)} files)"] if figures else names


def attempted(name: str, write: Callable[[], Result]) -> Result | None:
    """Call a writer; return what it returns, or None after a warning of one line."""
    try:
        return write()
    except Exception as error:  # whatever is wrong with a picture, finished runs are worth more
        words = " ".join(str(error).split()) or type(error).__name__
        log.warning("%s was not written (%s): everything else is complete.", name, words)
        return None

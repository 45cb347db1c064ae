"""What a page shows of one run, as JSON values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.evaluation.write import AGAIN
from dreambooth.files import read_csv
from dreambooth.records import read_table
from dreambooth.study.finished.runs import Run
from dreambooth.study.finished.scored_runs import ScoredRun
from dreambooth.study.page.pictures import Pictures
from dreambooth.training.logs.costs import reused_steps

POINTS = 150  # of a curve: more than that is no wider than a line on a screen
LOSSES = {"instance": "loss/instance", "prior": "loss/prior"}


def run_view(scored: ScoredRun, pictures: Pictures, evaluation: bool = False) -> dict[str, Any]:
    """Collect a run's scores, costs, losses, curve and pictures; what is missing is empty.

    Args:
        evaluation: also the pictures that were scored, each with its scores.
    """
    run = scored.run
    costs = run.record.get("costs", {})
    view = {
        "name": scored.name,
        "subject": scored.subject,
        "scores": {variant: _number(value) for variant, value in scored.scores.items()},
        "intervals": {v: [_number(x) for x in pair] for v, pair in scored.intervals.items()},
        "seconds": _number(costs.get("seconds")),
        "memory": _number(costs.get("peak_memory_gib")),
        "bytes": costs.get("bytes_written"),
        "reused": reused_steps(costs),
        "losses": losses(run),
        "curve": [{k: _number(v) for k, v in row.items()} for row in _or_none(run.curve) or []],
        "samples": samples(run, pictures),
        "photos": [pictures.add(path) for path in _photos(run)],
    }
    return {**view, "evaluation": evaluation_pictures(scored, pictures)} if evaluation else view


def samples(run: Run, pictures: Pictures) -> list[dict[str, Any]]:
    """List a run's sample pictures at each step, in order; `final` is last.

    Each has `label`, `step` (None for `final`) and `pictures`: rows of `key` (the prompt without
    the subject's words, and the seed, which are alike in runs of other subjects), `prompt`, `seed`
    and `picture`, a number or None.
    """
    steps = []
    for manifest in sorted(run.folder.glob("samples/*/manifest.csv")):
        folder = manifest.parent
        number = folder.name.removeprefix("step-")
        if folder.name != "final" and not number.isdigit():
            continue
        rows = [
            {
                "key": f"{template(run, row['prompt'])}\n{row.get('seed', '')}",
                "prompt": row["prompt"],
                "seed": row.get("seed", ""),
                "picture": pictures.add(folder / Path(row["file"]).name),
            }
            for row in _or_none(lambda path=manifest: read_csv(path)) or []
            if row.get("prompt") and row.get("file")
        ]
        step = int(number) if number.isdigit() else None
        label = "final" if step is None else str(step)
        steps.append({"label": label, "step": step, "pictures": rows})
    return sorted(steps, key=lambda entry: math.inf if entry["step"] is None else entry["step"])


def template(run: Run, prompt: str) -> str:
    """Write a prompt as runs of other subjects share it: `a sks dog` => `a {subject}`."""
    phrase, noun = run.record.get("subject_phrase"), run.record["subject"].get("class_noun")
    if phrase and phrase in prompt:
        return prompt.replace(phrase, "{subject}")
    return re.sub(rf"\b{re.escape(noun)}\b", "{class}", prompt) if noun else prompt


def losses(run: Run) -> dict[str, list[list[float]]]:
    """Return the logged losses as points `[step, loss]`, averaged down to `POINTS` points each."""
    rows, result = _or_none(run.log) or [], {}
    for name, column in LOSSES.items():
        numbers = [(float(row["step"]), _number(row.get(column))) for row in rows]
        points = [(step, loss) for step, loss in numbers if loss is not None]
        if any(loss for _, loss in points):  # without prior preservation that loss is logged as 0
            result[name] = _thinned(points)
    return result


def evaluation_pictures(scored: ScoredRun, pictures: Pictures) -> list[dict[str, Any]]:
    """List the pictures that were scored: prompt, seed, picture and `scores` by variant id."""
    name = scored.metrics.get("evaluation")
    folder = scored.run.folder / "evaluation" / str(name)
    path = folder / "scores.csv"
    lines = (_or_none(lambda: read_table(path, scored.metrics, AGAIN)) or []) if name else []
    return [
        {
            "set": line["set"],
            "prompt": line["prompt"],
            "seed": line.get("seed", ""),
            "picture": pictures.add(folder / Path(line["file"]).name),
            "scores": {v: _number(line[v]) for v in scored.scores if line.get(v)},
        }
        for line in lines
        if line.get("set") in ("subject", "class") and line.get("file")
    ]


def _photos(run: Run) -> Sequence[Any]:
    return run.training_photos if "photos" in run.record else ()


def _thinned(points: Sequence[tuple[float, float]]) -> list[list[float]]:
    """Average neighbouring points, so that at most `POINTS` are left."""
    width = -(-len(points) // POINTS) or 1
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    return [
        [
            round(math.fsum(p[0] for p in g) / len(g), 1),
            _number(math.fsum(p[1] for p in g) / len(g)),
        ]
        for g in groups
    ]


def _number(value: Any) -> Any:
    """Round a number to five figures; None for what is none, or not finite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return float(f"{number:.5g}") if math.isfinite(number) else None


def _or_none(read: Callable[[], Any]) -> Any:
    """Call a reader of a file; None if the file cannot be read or holds something else."""
    try:
        return read()
    except (UserError, OSError, ValueError, LookupError):
        return None

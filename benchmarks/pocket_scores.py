"""Put the world's ground truth beside a study's scores, and test whether both order runs alike.

    python train.py experiment=paper_table3 photos.root=null hydra.sweep.dir=DIR
    python benchmarks/pocket_scores.py DIR [DIR ...] [--by ppl,lr] [--out JSON] [--sheet PNG]

Reads every finished run below the folders. Their subjects must be rendered ones, whose class,
colour and context are known; a run on other photos is refused. The probe, trained only on rendered
scenes, reads the truth off the images that were scored. Printed are the means of the truth for each
setting of --by, over subjects, with 95 % bootstrap intervals, and Spearman's rank correlation
between each score and its truth: over the runs of each subject that were scored alike, if they are
at least six, and its mean over subjects. (Runs of several subjects in one list would correlate
because subjects differ.)

  DINO, CLIP-I          subject: share of images with the subject's class and main colour (without
                        prompts that ask for another colour)
  CLIP-T                prompt: share of images with the class and the context that was asked for
                        (of prompts with a context of the world)
  PRES                  drift: share of images of the class prompt with the subject's main colour
  DIV of class          variety: probability that two images of the class prompt differ in colour
                        or context
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchmetrics.functional import spearman_corrcoef

from dreambooth.errors import UserError
from dreambooth.files import write_json
from dreambooth.pocket import world
from dreambooth.pocket.embedded import rendered_photos, weights_folder
from dreambooth.pocket.pretraining import probe
from dreambooth.sampling.grid import grid
from dreambooth.sampling.manifest import Item, read_manifest
from dreambooth.study.answers.paired import Mean
from dreambooth.study.finished.runs import Run, find_runs
from dreambooth.training.resuming.fingerprint import flat

TRUTH = {
    "dino": "subject",
    "clip_i": "subject",
    "clip_t": "prompt",
    "pres": "drift",
    "div_class": "variety",
}
LEAST = 6  # runs of a subject that a rank correlation needs
Row = dict[str, Any]


def variety(readings: list[tuple]) -> float:
    """Compute the probability that two readings differ, drawn without replacement (Simpson)."""
    count = len(readings)
    same = sum(n * (n - 1) for n in Counter(readings).values())
    return 1 - same / (count * (count - 1))


def asked_context(prompt: str) -> str | None:
    """Return the world's context that a prompt ends with, if any."""
    for context, phrase in world.CONTEXTS.items():
        if phrase and prompt.lower().endswith(phrase.lower()):
            return context
    return None


def truths(items: list[Item], seen: list[dict[str, str]], who: world.Identity) -> dict[str, float]:
    """Compute the four shares of one run; `seen` is the probe's reading of each item."""
    own, prompt, class_images = [], [], []
    for item, picture in zip(items, seen, strict=True):
        if item.set == "class":
            class_images.append(picture)
            continue
        right_class = picture["class"] == who.class_noun
        if not any(item.prompt.startswith(f"a {color} ") for color in world.COLORS):
            own.append(right_class and picture["color"] == who.main_color)
        context = asked_context(item.prompt)
        if context is not None:
            prompt.append(right_class and picture["context"] == context)
    return {
        "subject": float(np.mean(own)),
        "prompt": float(np.mean(prompt)),
        "drift": float(np.mean([picture["color"] == who.main_color for picture in class_images])),
        "variety": variety([(p["color"], p["context"]) for p in class_images]),
    }


def scores(run: Run) -> dict[str, float]:
    """Read each metric's mean by its short name; of CLIP-T the `class_only` variant."""
    kept = {}
    for variant, value in run.metrics()["scores"].items():
        name = variant.split(".")[0]
        if name in TRUTH and ".with_id." not in variant:
            kept[name] = value["mean"]
    return kept


def check_rendered(run: Run) -> None:
    """Refuse a run on photos that the world did not render: their truth is not known."""
    subject, photos = run.config["subject"], run.record["photos"]
    with tempfile.TemporaryDirectory() as place:
        own = rendered_photos(subject["class_noun"], subject["name"], len(photos), place)
    if {Path(photo).parent.name for photo in photos} != {own.name}:
        raise UserError(
            f"{run.folder} was not trained on the world's photos of {subject['name']}, but on "
            f"{Path(photos[0]).parent}: leave it out, or repeat it with photos.root=null "
            "subject.photos=null."
        )


def measure(run: Run, judge: probe.Probe, by: Sequence[str]) -> Row:
    """Collect one run's subject, settings, scores and truth."""
    subject = run.config["subject"]
    who = world.subject_identity(subject["class_noun"], subject["name"])
    images = run.folder / "evaluation" / run.metrics()["evaluation"]
    items = read_manifest(images)
    pixels = [np.asarray(Image.open(images / item.file).convert("RGB")) for item in items]
    row: Row = {"subject.name": subject["name"], "evaluation": run.metrics()["evaluation"]}
    row |= {key: flat(run.config).get(key) for key in by}
    return row | scores(run) | truths(items, probe.judge(judge, np.stack(pixels)), who)


def row_of(run: Run) -> list[Image.Image]:
    """Open the first picture of the first five prompts, and three of the class prompt."""
    folder = run.folder / "evaluation" / run.metrics()["evaluation"]
    items = read_manifest(folder)
    shown = [item for item in items if item.set == "subject" and item.seed == 0][:5]
    shown += [item for item in items if item.set == "class"][:3]
    return [Image.open(folder / item.file) for item in shown]


def sheet(runs: list[Run], by: Sequence[str], target: Path) -> None:
    """Write one row of pictures per run, under its settings."""
    rows = [row_of(run) for run in runs]
    keys = ("subject.name", *by)
    knobs = [", ".join(f"{key} {flat(run.config).get(key)}" for key in keys) for run in runs]
    grid([image for row in rows for image in row], len(rows[0]), knobs, cell=96).save(target)


def correlations(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Compute Spearman's rho between each score and its truth, for each subject and on average.

    Returns:
        score => subject => rho over its runs that were scored alike; `mean`, `low_95` and
        `high_95` (bootstrap over subjects).
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row["subject.name"], row["evaluation"]), []).append(row)
    found: dict[str, dict[str, float]] = {}
    for name, truth in TRUTH.items():
        per_subject: dict[str, list[float]] = {}
        for (subject, _), members in sorted(groups.items()):
            both = [(r[name], r[truth]) for r in members if name in r]
            if len(both) >= LEAST:
                pairs = torch.tensor(both, dtype=torch.float64)
                rho = spearman_corrcoef(pairs[:, 0], pairs[:, 1]).item()
                per_subject.setdefault(subject, []).append(0.0 if math.isnan(rho) else rho)
        rhos = {subject: sum(values) / len(values) for subject, values in per_subject.items()}
        if rhos:
            found[name] = rhos | interval_of(rhos)
    return found


def interval_of(values: Mapping[str, float]) -> dict[str, float]:
    """Average over subjects, with a 95 % bootstrap interval over them if they are several."""
    mean = Mean.over(values)
    ends = dict(zip(("low_95", "high_95"), mean.interval, strict=True)) if mean.interval else {}
    return {"mean": mean.value, **ends}


def truth_table(rows: Sequence[Row], by: Sequence[str]) -> list[Row]:
    """Average the truth over the subjects of each setting: one row per setting."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in by), []).append(row)
    table = []
    for values, members in groups.items():
        line: Row = dict(zip(by, values, strict=True))
        for truth in dict.fromkeys(TRUTH.values()):
            per_subject: dict[str, list[float]] = {}
            for row in members:
                per_subject.setdefault(row["subject.name"], []).append(row[truth])
            means = {name: sum(each) / len(each) for name, each in per_subject.items()}
            line |= {"subjects": len(means), truth: interval_of(means)}
        table.append(line)
    return table


def cell(value: Any) -> str:
    """Write a value or a mean with its interval."""
    if not isinstance(value, dict):
        return str(value)
    ends = "{low_95:.2f} to {high_95:.2f}".format(**value) if "low_95" in value else ""
    return f"{value['mean']:.2f} ({ends})" if ends else f"{value['mean']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="with runs on rendered subjects")
    parser.add_argument("--by", default="ppl,lr,max_steps", help="settings that set runs apart")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--sheet", type=Path, help="write pictures of every run")
    args = parser.parse_args()
    by = args.by.split(",")
    try:
        judge = probe.load_probe(weights_folder())
        found = sorted({path for folder in args.folders for path in find_runs(folder)})
        runs = [Run.read(folder) for folder in found]
        for run in runs:
            check_rendered(run)
        rows = [measure(run, judge, by) for run in runs]
    except UserError as error:
        raise SystemExit(str(error)) from None
    table = truth_table(rows, by)
    columns = [*by, "subjects", *dict.fromkeys(TRUTH.values())]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for line in table:
        print("| " + " | ".join(cell(line[column]) for column in columns) + " |")
    rho = correlations(rows)
    for name, values in rho.items():
        count = len(values.keys() - {"mean", "low_95", "high_95"})
        print(f"{name:10s} with {TRUTH[name]:8s} rho {cell(values)} over {count} subjects")
    if args.sheet:
        sheet(runs, by, args.sheet)
    if args.out:
        write_json(args.out, {"runs": rows, "truth": table, "rho": rho})


if __name__ == "__main__":
    main()

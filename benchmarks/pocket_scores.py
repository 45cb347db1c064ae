"""Put the world's ground truth beside a study's scores, and test whether both order runs alike.

    python train.py experiment=paper_table3 photos.root=null hydra.sweep.dir=DIR
    python benchmarks/pocket_scores.py DIR [DIR ...] [--by ppl,lr] [--out JSON] [--sheet PNG]

Reads every finished run below the folders. Their subjects must be rendered ones, whose class,
colour and context are known; a run on other photos is refused. The probe, trained only on rendered
scenes, reads the truth off the images that were scored. Printed are the means of the truth for each
setting of --by, over subjects, with 95 % bootstrap intervals, the paired differences from the
lowest setting over the subjects that both have, and Spearman's rank correlation between each score
and its truth: over the runs of each subject that were scored alike, if they are at least six, and
its mean over subjects. (Runs of several subjects in one list would correlate because subjects
differ.)

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
from dreambooth.study.answers.paired import Mean, paired_differences
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
    return as_values(Mean.over(values))


def as_values(mean: Mean) -> dict[str, float]:
    """Write a mean as JSON values: `mean`, and `low_95` and `high_95` if it has an interval."""
    ends = dict(zip(("low_95", "high_95"), mean.interval, strict=True)) if mean.interval else {}
    return {"mean": mean.value, **ends}


def truth_table(rows: Sequence[Row], by: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """Average the truth over the subjects of each setting, and its differences from the lowest.

    Returns:
        One line per setting, in order; one per setting but the first, over the subjects that both
        have.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in by), []).append(row)
    means = {setting: truth_means(groups[setting]) for setting in sorted(groups, key=in_order)}
    baseline = next(iter(means.values()))
    compared = {
        setting: paired_differences(own, baseline)
        for setting, own in means.items()
        if own is not baseline
    }
    return [line(by, *each) for each in means.items()], [
        line(by, *each) for each in compared.items() if each[1]
    ]


def in_order(setting: tuple) -> list[tuple]:
    """Return what sorts settings: null first, numbers and switches by size, then words."""
    return [(value is not None, isinstance(value, str), value or 0) for value in setting]


def truth_means(rows: Sequence[Row]) -> dict[str, Mean]:
    """Average each truth over the subjects of some runs, with equal weights."""
    found = {}
    for truth in dict.fromkeys(TRUTH.values()):
        per_subject: dict[str, list[float]] = {}
        for row in rows:
            per_subject.setdefault(row["subject.name"], []).append(row[truth])
        found[truth] = Mean.over({name: sum(v) / len(v) for name, v in per_subject.items()})
    return found


def line(by: Sequence[str], setting: tuple, means: Mapping[str, Mean]) -> Row:
    """Write a setting and its means as a line of a table."""
    subjects = next(iter(means.values())).subjects
    values = {truth: as_values(mean) for truth, mean in means.items()}
    return {**dict(zip(by, setting, strict=True)), "subjects": subjects, **values}


def cell(value: Any, sign: str = "") -> str:
    """Write a value or a mean with its interval."""
    if not isinstance(value, dict):
        return str(value)
    numbers = [f"{value[key]:{sign}.2f}" for key in ("mean", "low_95", "high_95") if key in value]
    return "{} ({} to {})".format(*numbers) if len(numbers) == 3 else numbers[0]


def show(lines: Sequence[Row], columns: Sequence[str], sign: str = "") -> None:
    """Print a table in Markdown."""
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for each in lines:
        print("| " + " | ".join(cell(each[column], sign) for column in columns) + " |")


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
    table, differences = truth_table(rows, by)
    columns = [*by, "subjects", *dict.fromkeys(TRUTH.values())]
    show(table, columns)
    if any("low_95" in each["subject"] for each in differences):  # over several subjects
        first = ", ".join(f"{key} {table[0][key]}" for key in by)
        print(f"\nminus {first}, over the subjects that both have:\n")
        show(differences, columns, "+")
    rho = correlations(rows)
    for name, values in rho.items():
        count = len(values.keys() - {"mean", "low_95", "high_95"})
        print(f"{name:10s} with {TRUTH[name]:8s} rho {cell(values)} over {count} subjects")
    if args.sheet:
        sheet(runs, by, args.sheet)
    if args.out:
        truth = {"truth": table, "differences": differences}
        write_json(args.out, {"runs": rows, **truth, "rho": rho})


if __name__ == "__main__":
    main()

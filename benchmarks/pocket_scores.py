"""Test whether the scores order runs as the world's ground truth does.

    python train.py -m subject=dog ppl=true,false lr=1e-4,3e-4,6e-4 max_steps=100,300 \\
        evaluation=paper evaluation.images_per_prompt=2 \\
        photos.root=null hydra.sweep.dir=DIR
    python benchmarks/pocket_scores.py DIR [DIR ...] [--out scores.json] [--sheet scores.png]

Reads every finished run below the folders. Their subjects must be rendered ones, whose class,
colour and context are known; a run on other photos is refused. The probe, trained only on rendered
scenes, reads the truth off the images that were scored. Printed is Spearman's rank correlation over
the runs between each score and its truth:

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
import tempfile
from collections import Counter
from pathlib import Path

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
from dreambooth.sampling.store import Item, read_manifest
from dreambooth.study.runs import Run, find_runs

TRUTH = {
    "dino": "subject",
    "clip_i": "subject",
    "clip_t": "prompt",
    "pres": "drift",
    "div_class": "variety",
}
KNOBS = ("ppl", "lr", "max_steps")


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


def measure(run: Run, judge: probe.Probe) -> dict[str, float]:
    """Collect one run's settings, scores and truth."""
    subject = run.config["subject"]
    who = world.subject_identity(subject["class_noun"], subject["name"])
    images = run.folder / "evaluation" / run.metrics()["evaluation"]
    items = read_manifest(images)
    pixels = [np.asarray(Image.open(images / item.file).convert("RGB")) for item in items]
    knobs = {name: run.config[name] for name in KNOBS}
    return knobs | scores(run) | truths(items, probe.judge(judge, np.stack(pixels)), who)


def row_of(run: Run) -> list[Image.Image]:
    """Open the first picture of the first five prompts, and three of the class prompt."""
    folder = run.folder / "evaluation" / run.metrics()["evaluation"]
    items = read_manifest(folder)
    shown = [item for item in items if item.set == "subject" and item.seed == 0][:5]
    shown += [item for item in items if item.set == "class"][:3]
    return [Image.open(folder / item.file) for item in shown]


def sheet(runs: list[Run], target: Path) -> None:
    """Write one row of pictures per run, under its settings."""
    rows = [row_of(run) for run in runs]
    knobs = [", ".join(f"{name} {run.config[name]}" for name in KNOBS) for run in runs]
    grid([image for row in rows for image in row], len(rows[0]), knobs, cell=96).save(target)


def correlations(rows: list[dict[str, float]]) -> dict[str, float]:
    """Compute Spearman's rho over the runs between each score and its truth."""

    def column(name: str) -> torch.Tensor:
        return torch.tensor([float(row[name]) for row in rows])

    return {
        name: spearman_corrcoef(column(name), column(truth)).item() for name, truth in TRUTH.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="with runs on rendered subjects")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--sheet", type=Path, help="write pictures of every run")
    args = parser.parse_args()
    try:
        judge = probe.load_probe(weights_folder())
        found = sorted({path for folder in args.folders for path in find_runs(folder)})
        if len(found) < 3:
            raise UserError(
                f"{len(found)} finished runs below {args.folders}: at least 3 are needed."
            )
        runs = [Run.read(folder) for folder in found]
        for run in runs:
            check_rendered(run)
        runs.sort(key=lambda run: tuple(run.config[name] for name in KNOBS))
        rows = [measure(run, judge) for run in runs]
    except UserError as error:
        raise SystemExit(str(error)) from None
    columns = [*KNOBS, *TRUTH, *dict.fromkeys(TRUTH.values())]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in rows:
        cells = (f"{row[c]:.3f}" if c not in KNOBS else str(row[c]).lower() for c in columns)
        print("| " + " | ".join(cells) + " |")
    rho = correlations(rows)
    for name, value in rho.items():
        print(f"{name:10s} with {TRUTH[name]:8s} rho {value:+.2f} over {len(rows)} runs")
    if args.sheet:
        sheet(runs, args.sheet)
    if args.out:
        write_json(args.out, {"runs": rows, "rho": rho})


if __name__ == "__main__":
    main()

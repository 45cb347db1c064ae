"""Measure how far textual inversion gets on the pocket model, over settings of train.py.

    python benchmarks/pocket_inversion.py --out JSON [--subjects 4] [--seconds 0] \\
        'NAME: key=value key=value ...' ...

Every setting trains `method=textual_inversion` with its overrides on each subject, and its figures
join those that the JSON file holds already; --seconds begins no further training after that time,
so that a long search can be made in pieces. Printed is a Markdown table of all of them, with 95 %
bootstrap intervals over subjects. Binding and context are those of pocket_effects.py:

  binding   share of pictures of "a <token>" whose nearest of 20 identities of the class is the
            subject (chance 5 %)
  context   share of pictures of "a <token> in the jungle" and the like that show the context

Two rows train nothing: `class`, pictures of "a dog", and `words`, of the subject's true caption,
such as "a brown spotted dog". The second is what the vocabulary can say of the subject.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from pocket_effects import (
    CONTEXTS,
    IDENTITIES,
    OWN,
    PLACES,
    Judges,
    Subject,
    draw,
    subject_figures,
    train,
)
from pocket_quality import own_encoder

from dreambooth.errors import UserError
from dreambooth.files import write_json
from dreambooth.metrics.aggregate import bootstrap_interval
from dreambooth.metrics.lpips_networks import pocket_distance
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.pocket import world
from dreambooth.pocket.embedded import weights_folder
from dreambooth.pocket.pretraining import probe
from dreambooth.pocket.world.captions import PATTERN_WORDS
from dreambooth.sampling.spec import Sampling
from dreambooth.study.finished.runs import Run

WORDS = ("class", "words")  # rows of the untrained model
# of the pictures, as conf/model/pocket.yaml recommends
SAMPLING = Sampling("DDIMScheduler", 20, 3.0, 64, 16)


def caption(subject: Subject) -> str:
    """Name what the world's captions can say of a subject: colour, pattern and class."""
    who = world.subject_identity(subject.noun, subject.name)
    words = (who.main_color, PATTERN_WORDS[who.pattern], subject.noun)
    return " ".join(word for word in words if word)


def measure(
    subject: Subject, setting: str, options: list[str], judges: Judges, args: argparse.Namespace
) -> dict[str, Any]:
    """Train one subject with a setting, unless it is one of WORDS, and judge its pictures."""
    if setting in WORDS:
        model = StableDiffusion.from_pretrained(str(weights_folder()))
        phrase, sampling = subject.noun if setting == "class" else caption(subject), SAMPLING
    else:
        args.options = ["method=textual_inversion", *options]
        run = Run.read(train(subject, False, args))
        model, phrase, sampling = run.load_model(), run.record["subject_phrase"], run.sampling
    places = [world.CONTEXTS[CONTEXTS[i % len(CONTEXTS)]] for i in range(args.images)]
    own = draw(model, [f"a {phrase}"] * args.images, OWN, sampling)
    placed = draw(model, [f"a {phrase} {place}" for place in places], PLACES, sampling)
    photos = (subject.photos, *subject.others(IDENTITIES - 1))
    figures = subject_figures(own, placed, [judges.dino.images(p) for p in photos], judges)
    if setting not in WORDS:
        figures["seconds"] = run.record["costs"]["phase_0"]["seconds"]
        shutil.rmtree(run.folder)
    args.sheets.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate((*own[:4], *placed[:2])):
        image.save(args.sheets / f"{setting.replace('/', '-')}-{subject.name}-{number}.png")
    return figures


def table(settings: dict[str, dict[str, Any]]) -> str:
    """Write the figures of all settings as Markdown, the best binding last."""
    lines = ["| setting | overrides | binding | context | seconds |", "|---|---|---|---|---|"]
    rows = []
    for name, setting in settings.items():
        subjects = setting["subjects"]
        cells, names = [], sorted(subjects)
        for figure in ("binding", "context"):
            values = [subjects[s][figure] for s in names]
            interval = bootstrap_interval(values, names, seed=0)
            span = f" ({interval[0]:.0%} to {interval[1]:.0%})" if interval else ""
            each = ", ".join(f"{v:.0%}" for v in values)
            cells.append(
                f"{np.mean(values):.0%}{span}: {each}"
                if figure == "binding"
                else f"{np.mean(values):.0%}"
            )
        seconds = [s["seconds"] for s in subjects.values() if "seconds" in s]
        cells.append(f"{np.mean(seconds):.0f}" if seconds else "")
        mean = np.mean([s["binding"] for s in subjects.values()])
        overrides = " ".join(setting["options"])
        rows.append(
            (
                mean,
                f"| {name} | `{overrides}` | {' | '.join(cells)} |"
                if overrides
                else f"| {name} | | {' | '.join(cells)} |",
            )
        )
    return "\n".join([*lines, *(row for _, row in sorted(rows, key=lambda row: row[0]))])


def run(args: argparse.Namespace) -> None:
    """Measure what is missing, one setting after another, and print the table."""
    started, nouns = time.monotonic(), ["dog", *(n for n in world.CLASSES if n != "dog")]
    args.runs, args.model = args.runs.resolve(), "pocket"
    args.model_hash, args.sheets = "pocket", args.runs / "sheets"
    settings = json.loads(args.out.read_text()) if args.out.exists() else {}
    wanted = {name: [] for name in WORDS}
    for each in args.settings:
        name, _, options = each.partition(":")
        wanted[name.strip()] = options.split()
    dino = own_encoder("dino", weights_folder())
    judges = Judges(dino, pocket_distance(dino), probe.load_probe(weights_folder()))
    for name, options in wanted.items():
        row = settings.setdefault(name, {"options": options, "subjects": {}})
        if row["options"] != options:
            raise UserError(f"{args.out} has {name} with other overrides: give it another name.")
        for i in range(args.subjects):
            subject = Subject(f"held-out-{i:02d}", nouns[i % len(nouns)])
            late = args.seconds and time.monotonic() - started > args.seconds
            if subject.name in row["subjects"] or late:
                continue
            row["subjects"][subject.name] = measure(subject, name, options, judges, args)
            print(name, subject.noun, row["subjects"][subject.name], flush=True)
            write_json(args.out, settings)
    print(table({name: row for name, row in settings.items() if row["subjects"]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subjects", type=int, default=4)
    parser.add_argument("--images", type=int, default=16, help="per prompt: 8, 12, 16 ...")
    parser.add_argument("--seconds", type=float, default=0, help="0: until all is measured")
    parser.add_argument("--runs", type=Path, default=Path("outputs/pocket_inversion"))
    parser.add_argument("--out", type=Path, required=True, help="JSON of all figures")
    parser.add_argument("settings", nargs="*", help="'NAME: key=value ...' for train.py")
    args = parser.parse_args()
    try:
        run(args)
    except UserError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()

"""Measure DreamBooth's effects on the pocket model over held-out subjects, with and without PPL.

    python benchmarks/pocket_effects.py [--subjects 10] [--out effects.json] [key=value ...]
    python benchmarks/pocket_effects.py --model pocket_flow [...]

Every subject is trained twice as a user would do it (`python train.py subject=world ... ppl=true`);
further key=value pairs go to train.py. Finished runs in --runs with the same weights, options and
configuration files are used again. The figures are means over subjects, with a 95 % bootstrap
interval over subjects, of the model before training (base), without PPL (plain) and with it (ppl),
or of some of them (--kinds ppl):

  binding     share of pictures of "a sks dog" whose nearest of 20 identities of the class (mean
              pocket DINO similarity to five photos of each) is the subject. Chance is 5 %; the base
              model shows what the rare word leans to without training
  context     share of pictures of "a sks dog in the jungle" and in other contexts in which the
              probe finds the context
  drift       mean pocket DINO similarity of pictures of "a dog" to the subject's photos (PRES)
  diversity   mean pairwise pocket LPIPS of pictures of "a dog" (DIV)

The sheet has one row per subject: photos; "a dog" before training, without PPL and with it; "a sks
dog in the jungle" without PPL and with it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import commands
import numpy as np
from PIL import Image
from pocket_quality import load, own_encoder
from pocket_truth import look
from torch import Tensor

from dreambooth.cli.configuration.configs import CONF
from dreambooth.errors import UserError
from dreambooth.files import cache_key, file_hash, write_json
from dreambooth.metrics.aggregate import bootstrap_interval
from dreambooth.metrics.encoders import Encoder
from dreambooth.metrics.fidelity import allpairs_scores
from dreambooth.metrics.lpips_networks import pocket_distance
from dreambooth.metrics.perceptual import PerceptualDistance
from dreambooth.model.interface import BaseModel
from dreambooth.pocket import world
from dreambooth.pocket.embedded import is_embedded, model_path, weights_folder, weights_hash
from dreambooth.pocket.pretraining import probe
from dreambooth.sampling import draw as sampling
from dreambooth.sampling.grid import grid
from dreambooth.sampling.spec import Sampling
from dreambooth.study.finished.runs import Run

ROOT = CONF.parent
CONTEXTS = ("jungle", "snow", "beach", "city")  # of the paper's prompts
IDENTITIES = 20
KINDS = ("base", "plain", "ppl")
# picture seeds, far from those that prior.seed gave to the class images of training
OWN, PLACES, CLASS = 10**6, 2 * 10**6, 3 * 10**6


@dataclass(frozen=True)
class Subject:
    """A held-out subject of the world."""

    name: str
    noun: str

    @property
    def photos(self) -> list[Image.Image]:
        """The five pictures that train.py renders for this name."""
        return shown(world.subject_identity(self.noun, self.name))

    def others(self, count: int) -> list[list[Image.Image]]:
        """Render photos of other held-out identities of the class, which differ from each other."""
        names = [self.name, *(f"other-{i}" for i in range(10 * count))]
        looks: dict[tuple, world.Identity] = {}
        for who in (world.subject_identity(self.noun, name) for name in names):
            looks.setdefault(look(who), who)
        return [shown(who) for who in list(looks.values())[1 : count + 1]]


def shown(who: world.Identity) -> list[Image.Image]:
    """Render an identity's photos."""
    return [Image.fromarray(world.render(scene)) for scene in world.subject_scenes(who)]


def configuration(conf: Path = CONF) -> dict[str, str]:
    """Hash every file that configures a training, so that changed defaults make a new run."""
    files = {path.relative_to(conf).as_posix(): path for path in conf.rglob("*.yaml")}
    return {name: file_hash(path) for name, path in files.items() if name != "pretrain.yaml"}


def train(subject: Subject, ppl: bool, args: argparse.Namespace) -> Path:
    """Return the folder of the finished run, training it now if it is missing."""
    key = cache_key(weights=args.model_hash, options=args.options, configuration=configuration())
    folder = args.runs / f"{subject.name}-{'ppl' if ppl else 'plain'}-{key}"
    if not (folder / "run.json").exists():
        arguments = [
            "subject=world",
            f"subject.name={subject.name}",
            f"subject.class_noun='{subject.noun}'",
            f"subject.live={str(subject.noun in world.LIVE).lower()}",
            f"ppl={str(ppl).lower()}",
            "logger=csv",
            "evaluation=none",
            "photos.root=null",
            "samples.every_n_steps=0",
            "samples.seeds=[0]",
            f"model={args.model}" if is_embedded(args.model) else f"model.path='{args.model}'",
            f"hydra.run.dir='{folder}'",
            *args.options,
        ]
        commands.run("train.py", arguments)
    return folder


@dataclass
class Judges:
    """The networks that judge pictures; none was trained on generated ones."""

    dino: Encoder
    distance: PerceptualDistance
    probe: probe.Probe


def draw(model: BaseModel, prompts: list[str], seed: int, settings: Sampling) -> list[Image.Image]:
    """Draw one picture per prompt, with seeds from `seed` on."""
    return sampling.draw(model, prompts, range(seed, seed + len(prompts)), settings)


def class_figures(images: list[Image.Image], photos: Tensor, judges: Judges) -> dict[str, float]:
    """Compute drift (against photo features `[P,D]`) and diversity of class pictures."""
    similarity = allpairs_scores(judges.dino.images(images), photos)
    pairs = np.triu_indices(len(images), 1)
    spread = judges.distance.distance(images, 16)[pairs[0], pairs[1]]
    return {"drift": similarity.mean().item(), "diversity": spread.mean().item()}


def subject_figures(
    own: list[Image.Image], placed: list[Image.Image], candidates: list[Tensor], judges: Judges
) -> dict[str, float]:
    """Compute binding and context of pictures with the identifier.

    Args:
        own, placed: pictures of the subject, and of the subject in CONTEXTS in turn.
        candidates: photo features `[P,D]` of each identity, the subject first.
    """
    features = judges.dino.images(own)
    scores = np.stack([allpairs_scores(features, photos).numpy() for photos in candidates])
    seen = probe.judge(judges.probe, np.stack([np.asarray(image) for image in placed]))
    asked = [CONTEXTS[i % len(CONTEXTS)] for i in range(len(placed))]
    right = [each["context"] == context for each, context in zip(seen, asked, strict=True)]
    return {"binding": float((scores.argmax(0) == 0).mean()), "context": float(np.mean(right))}


def measure(subject: Subject, base: BaseModel, judges: Judges, args) -> tuple[dict, list]:
    """Measure one subject: figures by model, and its row of the sheet."""
    photos, others = subject.photos, subject.others(IDENTITIES - 1)
    candidates = [judges.dino.images(p) for p in (photos, *others)]
    trained = [kind for kind in args.kinds if kind != "base"]
    runs = {kind: Run.read(train(subject, kind == "ppl", args)) for kind in trained}
    figures, rows = {}, {}
    for name in args.kinds:
        # the base model draws with the settings of the trained ones
        run = runs.get(name, runs[trained[0]])
        model = run.load_model() if name in runs else base
        phrase, plain = run.record["subject_phrase"], [run.config["class_prompt"]] * args.images
        own = draw(model, [f"a {phrase}"] * args.images, OWN, run.sampling)
        places = [world.CONTEXTS[CONTEXTS[i % len(CONTEXTS)]] for i in range(args.images)]
        placed = draw(model, [f"a {phrase} {p}" for p in places], PLACES, run.sampling)
        rows[name] = draw(model, plain, CLASS, run.sampling)
        figures[name] = class_figures(rows[name], candidates[0], judges)
        figures[name] |= subject_figures(own, placed, candidates, judges)
        rows[f"{name} jungle"] = placed[:: len(CONTEXTS)]
    shown_rows = [*args.kinds, *(f"{kind} jungle" for kind in trained)]
    return figures, [photos[:2], *(rows[kind][:2] for kind in shown_rows)]


def summary(per_subject: dict[str, dict]) -> dict[str, dict]:
    """Compute mean and interval over subjects of each figure and of differences of models."""
    names, table = sorted(per_subject), {}
    kinds = [kind for kind in KINDS if kind in per_subject[names[0]]]
    for figure in ("binding", "context", "drift", "diversity"):
        columns = {model: [per_subject[n][model][figure] for n in names] for model in kinds}
        for more, less in combinations([*reversed(columns)], 2):
            columns[f"{more} - {less}"] = list(np.subtract(columns[more], columns[less]))
        table[figure] = {
            model: {"mean": float(np.mean(v)), "interval": bootstrap_interval(v, names, seed=0)}
            for model, v in columns.items()
        }
    return table


def sheet(rows: list[list[list[Image.Image]]], subjects: list[Subject], path: Path) -> None:
    """Write the sheet: one row per subject, two pictures of each kind."""
    images = [image for row in rows for pair in row for image in pair]
    labels = [
        f"{s.name}: photos | a {s.noun} before | without PPL | with PPL | a sks {s.noun} in "
        "the jungle, without | with"
        for s in subjects
    ]
    grid(images, len(images) // len(rows), labels, cell=128).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--images", type=int, default=32, help="per prompt: 8, 12, 16 ...")
    parser.add_argument(
        "--model", default="pocket", help="pocket, pocket_flow, or a folder like pocket's"
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help="of models")
    parser.add_argument("--runs", type=Path, default=Path("outputs/pocket_effects"))
    parser.add_argument("--out", type=Path, help="write figures here, and the sheet beside it")
    parser.add_argument("options", nargs="*", help="key=value for train.py")
    args = parser.parse_args()
    try:
        run(args)
    except UserError as error:
        raise SystemExit(str(error)) from None


def check_images(count: int) -> None:
    """Refuse a count that gives contexts unequal shares, or fewer than two pictures each."""
    if count < 2 * len(CONTEXTS) or count % len(CONTEXTS):
        raise UserError(
            f"--images {count} cannot be shared by {len(CONTEXTS)} contexts: give a multiple of "
            f"{len(CONTEXTS)}, at least {2 * len(CONTEXTS)}."
        )


def run(args: argparse.Namespace) -> None:
    """Measure every subject, print the table, and write figures and sheet."""
    check_images(args.images)
    args.kinds = [kind for kind in KINDS if kind in args.kinds.split(",")]
    if not {"plain", "ppl"} & {*args.kinds}:
        raise UserError("--kinds must name plain, ppl or both, and base where it is wanted.")
    if not is_embedded(args.model):
        args.model = str(Path(args.model).resolve())
    weights, args.runs = Path(model_path(args.model)), args.runs.resolve()
    base = load(weights)
    args.model_hash = base.weights_hash()  # what a run starts from; judges do not count
    facts = {"weights": weights_hash(weights), "images": args.images, "options": args.options}
    judging = weights_folder() if is_embedded(args.model) else weights
    dino = own_encoder("dino", judging)
    judges = Judges(dino, pocket_distance(dino), probe.load_probe(judging))
    # dog first, and every class once before one comes again
    nouns = ["dog", *(noun for noun in world.CLASSES if noun != "dog")]
    subjects = [Subject(f"held-out-{i:02d}", nouns[i % len(nouns)]) for i in range(args.subjects)]
    per_subject, rows = {}, []
    for subject in subjects:
        per_subject[subject.name], row = measure(subject, base, judges, args)
        rows.append(row)
        print(subject.name, subject.noun, per_subject[subject.name], flush=True)
    table = summary(per_subject)
    for figure, models in table.items():
        for model, value in models.items():
            low, high = value["interval"] or (float("nan"),) * 2
            print(f"{figure:10s} {model:12s} {value['mean']:7.3f}  [{low:.3f}, {high:.3f}]")
    if args.out:
        facts["subjects"] = {s.name: s.noun for s in subjects}
        write_json(args.out, {**facts, "figures": table, "per_subject": per_subject})
        if tuple(args.kinds) == KINDS:
            sheet(rows, subjects, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()

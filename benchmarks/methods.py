"""Compare the methods on the embedded model over subjects whose truth is known.

    python benchmarks/methods.py DIR [--subjects dog,cat,teapot,vase,bear_plushie]
        [--methods "full;LoRA"] [--kept] [--images 16] [--page docs/results/methods.md]
        [key=value ...]

Every subject is trained by every method as a user would do it (`python train.py subject=dog`), at
the model's recommended settings, without reuse, so that seconds are those of a whole training;
further key=value pairs go to train.py. A training and its measurements are one record in
DIR/records, which is kept: a later call with the same settings goes on from there, and only the
pictures and the record of a run stay on the disk. Means are over subjects, with a 95 % bootstrap
interval over subjects. A page that is there keeps what stands below its first heading `##`.

  binding     share of pictures of "a sks dog" (or of the method's own words) whose nearest of 20
              identities of the class is the subject (mean pocket DINO similarity). Chance is 5 %
  context     share of pictures in four contexts in which the probe finds the context
  drift       mean pocket DINO similarity of pictures of "a dog" to the subject's photos
  diversity   mean pairwise pocket LPIPS of pictures of "a dog"
  dino, ...   the scores of evaluation=quick
  s, CPU s    seconds of the training steps, and of the processor for all that train.py does, which
              a busy machine changes less; GiB: peak of the training
  trained     parameters that train, in the largest phase, of a word the whole embedding matrix, of
              which its rows alone change; file: of the export, in MB
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import commands
from hydra import compose, initialize_config_dir
from methods_page import FEW, SCORES, SHARES, SHOWN, Record, differences, strips, table
from omegaconf import OmegaConf
from PIL import Image
from pocket_effects import (
    CLASS,
    CONTEXTS,
    IDENTITIES,
    OWN,
    PLACES,
    Judges,
    Subject,
    check_images,
    class_figures,
    draw,
    subject_figures,
)
from pocket_quality import own_encoder

from dreambooth.cli.configuration import resolvers  # noqa: F401  registers what the YAML files use
from dreambooth.cli.configuration.configs import CONF
from dreambooth.errors import UserError
from dreambooth.files import bytes_of, cache_key, write_json
from dreambooth.metrics.lpips_networks import pocket_distance
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.pocket import world
from dreambooth.pocket.embedded import weights_folder
from dreambooth.pocket.pretraining import probe
from dreambooth.study.finished.runs import Run

ROOT = CONF.parent
METHODS: dict[str, list[str]] = {
    "full": ["method=full"],
    "full, no PPL": ["method=full", "ppl=false"],
    "full, PPL by prediction": ["method=full", "prior.kind=prediction"],
    "full + text encoder": ["method=full", "train_text_encoder=true"],
    "LoRA": ["method=lora"],
    "LoRA, no PPL": ["method=lora", "ppl=false"],
    "DoRA": ["method=dora"],
    "LoKr": ["method=lokr"],
    "OFT": ["method=oft"],
    "textual inversion": ["method=textual_inversion"],
    "pivotal tuning": ["method=pivotal_tuning"],
    "TI, then full": ["method=ti_then_full"],
    "custom diffusion": ["method=custom_diffusion"],
}
COMMON = (
    "photos.root=null",
    "logger=csv",
    "evaluation=quick",
    "reuse=off",
    "samples.every_n_steps=0",
    "samples.seeds=[0]",
    "checkpoint.every_n_steps=100000",
    "checkpoint.keep=1",
)


@dataclass(frozen=True)
class Job:
    """One training and its measurements; `options` go to train.py besides the method's own."""

    root: Path
    subject: str
    method: str
    options: tuple[str, ...]
    images: int

    @property
    def overrides(self) -> list[str]:
        """What train.py is told, but for the places."""
        return [f"subject={self.subject}", *COMMON, *METHODS[self.method], *self.options]

    @property
    def place(self) -> Path:
        """The folder of the record and its pictures."""
        return self.root / "records" / self.subject / cache_key(method=self.method)[:16]

    def key(self, weights: str) -> str:
        """Hash what the record depends on: the composed settings, the weights, the pictures."""
        with initialize_config_dir(str(CONF), version_base="1.3"):
            places = ["output_dir=x", "cache_dir=x"]
            cfg = compose("train", [*self.overrides, *places])
        settings: Any = OmegaConf.to_container(cfg, resolve=True)
        del settings["model"]["recommended"]  # what of it this method takes is in other keys
        return cache_key(settings=settings, weights=weights, images=self.images)

    def record(self, key: str) -> Record | None:
        """Read the record, if it is of the same settings."""
        try:
            record = json.loads((self.place / "record.json").read_text())
        except (OSError, ValueError):
            return None
        return record if record["key"] == key else None

    def train(self) -> tuple[Run, float]:
        """Train now, from the newest checkpoint if it was interrupted; with the CPU seconds."""
        folder = self.root / "runs" / self.subject / self.place.name
        command = [sys.executable, str(ROOT / "train.py"), *self.overrides]
        command += [f"cache_dir='{self.root / 'cache'}'", f"hydra.run.dir='{folder}'"]
        before = _cpu_seconds()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{' '.join(command)} failed: {(done.stdout + done.stderr)[-2000:]}")
        return Run.read(folder), _cpu_seconds() - before


def _cpu_seconds() -> float:
    """Add up the processor's seconds of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def pictures(
    model: StableDiffusion, phrase: str, class_prompt: str, run: Run, count: int
) -> dict[str, list[Image.Image]]:
    """Draw `count` pictures of the subject, of the subject in contexts, and of the class."""
    places = [world.CONTEXTS[CONTEXTS[i % len(CONTEXTS)]] for i in range(count)]
    asked = {
        "own": ([f"a {phrase}"] * count, OWN),
        "placed": ([f"a {phrase} {place}" for place in places], PLACES),
        "class": ([class_prompt] * count, CLASS),
    }
    return {k: draw(model, prompts, seed, run.sampling) for k, (prompts, seed) in asked.items()}


def costs(run: Run) -> Record:
    """Read what a run cost: seconds of its steps, peak memory, parameters, size of its files."""
    record = run.record["costs"]
    phases = [value for name, value in record.items() if name.startswith("phase_")]
    return {
        "steps": sum(phase["steps"] for phase in phases),
        "seconds": sum(phase["seconds"] for phase in phases),
        "memory": record["stages"]["training"]["peak_memory_gib"],
        "trained": max(phase["trained_parameters"] for phase in phases),
        "file": bytes_of([run.folder / "model"]) / 1e6,
    }


def scores(run: Run) -> Record:
    """Read each metric's mean by its short name; of CLIP-T the `class_only` variant."""
    found = {}
    for variant, value in run.metrics()["scores"].items():
        name = variant.split(".")[0]
        if name in SCORES and ".with_id." not in variant:
            found[name] = value["mean"]
    return found


def measure(job: Job, key: str, judges: Judges) -> Record:
    """Train, draw, judge, and keep the record and some pictures instead of the run."""
    run, cpu_seconds = job.train()
    noun = run.record["subject"]["class_noun"]
    subject = Subject(job.subject, noun)
    photos = [judges.dino.images(p) for p in (subject.photos, *subject.others(IDENTITIES - 1))]
    words = (run.record["subject_phrase"], run.config["class_prompt"])
    drawn = pictures(run.load_model(), *words, run, job.images)
    record = {"key": key, "subject": job.subject, "class_noun": noun, "method": job.method}
    record["cpu_seconds"] = cpu_seconds
    record |= costs(run) | scores(run)
    record |= class_figures(drawn["class"], photos[0], judges)
    record |= subject_figures(drawn["own"], drawn["placed"], photos, judges)
    job.place.mkdir(parents=True, exist_ok=True)
    for kind, count in SHOWN.items():
        for number, image in enumerate(drawn[kind][:count]):
            image.save(job.place / f"{kind}-{number}.png")
    write_json(job.place / "record.json", record)
    shutil.rmtree(run.folder)
    return record


def page(records: Sequence[Record], args: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """Write the page and its pictures beside it."""
    subjects = sorted({record["subject"] for record in records})
    names = {s: f"{args.page.stem}_{s}.png" for s in subjects[:2]}
    nouns = {record["subject"]: record["class_noun"] for record in records}
    for subject, name in names.items():
        strips(jobs, Subject(subject, nouns[subject]), args.page.parent / name)
    options = "".join(f" {option}" for option in args.options)
    definitions = (__doc__ or "").split("\n\n")[-1].rstrip()
    lines = [
        "# The methods side by side",
        "",
        f"Means over subjects of the drawn world ({', '.join(subjects)}; a method may have fewer), "
        f"with 95 % bootstrap intervals over subjects from {FEW} on, on the embedded model at the "
        "settings that `conf/model/pocket.yaml` recommends for each method; "
        f"{args.images} pictures of a kind.",
        "",
        "```",
        f"python benchmarks/methods.py DIR --subjects {','.join(subjects)}{options}",
        "```",
        "",
        *table(records, args.methods),
        "",
        "Paired differences, over the subjects that both methods have; bold where the interval "
        "excludes 0:",
        "",
        *differences(records, args.methods, args.methods[0]),
        "",
        "```text",
        definitions,
        "```",
        "",
        *(f"![{subject}, one row for each method]({name})" for subject, name in names.items()),
    ]
    commands.write_page(args.page, "\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path, metavar="DIR", help="records are kept here")
    parser.add_argument("--subjects", default="dog,cat,teapot,vase,bear_plushie")
    parser.add_argument("--methods", help=f"some of: {', '.join(METHODS)}, separated by ;")
    parser.add_argument("--images", type=int, default=16, help="of each kind: 8, 12, 16 ...")
    parser.add_argument("--page", type=Path, help="write this page, and pictures beside it")
    parser.add_argument("--kept", action="store_true", help="train nothing: show what is kept")
    parser.add_argument("options", nargs="*", help="key=value for train.py")
    args = parser.parse_intermixed_args()  # options may stand last
    try:
        run(args)
    except UserError as error:
        raise SystemExit(str(error)) from None


def run(args: argparse.Namespace) -> None:
    """Measure what is missing, subject by subject, and print the table after each."""
    check_images(args.images)
    args.root = args.root.resolve()
    args.methods = args.methods.split(";") if args.methods else list(METHODS)
    unknown = [name for name in args.methods if name not in METHODS]
    if unknown:
        raise UserError(f"there is no method {unknown[0]}: choose {'; '.join(METHODS)}.")
    jobs = [
        Job(args.root, subject, method, tuple(args.options), args.images)
        for subject in args.subjects.split(",")
        for method in args.methods
    ]
    weights = weights_folder()
    base = StableDiffusion.from_pretrained(str(weights)).weights_hash()
    dino = own_encoder("dino", weights)
    judges = Judges(dino, pocket_distance(dino), probe.load_probe(weights))
    records, failed = [], []
    for job in jobs:
        key = job.key(base)
        found = job.record(key)
        if found is None and args.kept:
            continue
        try:
            record = found or measure(job, key, judges)
        except UserError as error:  # the others are worth their time
            print(error, flush=True)
            failed.append(f"{job.subject} {job.method}")
            continue
        records.append(record)
        shown = {name: round(record[name], 3) for name in (*SHARES, "dino", "clip_t", "seconds")}
        print(job.subject, job.method, "(kept)" if found else "", shown, flush=True)
    print("\n".join(table(records, args.methods)))
    if args.page and records:
        page(records, args, jobs)
    if failed:
        raise UserError(f"{len(failed)} trainings failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()

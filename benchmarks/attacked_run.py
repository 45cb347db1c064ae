"""The run that the campaign attacks: its settings, what it makes, and how two of them compare."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import faults

TRAIN = (
    "max_steps=2",
    "batch_size=1",
    "checkpoint.every_n_steps=1",
    "checkpoint.best=harmonic",
    "prior.num_class_images=2",
    "prior.num_inference_steps=1",
    "sampling.num_inference_steps=1",
    "samples.seeds=[0]",
    "samples.prompts=['a {subject}']",
    "samples.every_n_steps=1",
    "evaluation.images_per_prompt=1",
    "evaluation.class_images=0",
    "evaluation.metrics=[dino]",
    "evaluation.every_n_steps=1",
    "export.layouts=[diffusers,single_file]",
    "logger=csv",
    "trainer=cpu",
    "cache_dir=cache",
    "hydra.run.dir=run",
)
GENERATE = ("run=run", "prompts=['a {subject}']", "seeds=[0]", "output_dir=drawn")
EVALUATE = ("run=run", "evaluation.metrics=[dino]", "evaluation.class_images=0", "cache_dir=cache")
EVALUATE += ("evaluation.images_per_prompt=1",)
REPORT = ("runs=.",)

MADE = ("model", "exports", "samples", "evaluation", "metrics.csv", "curve.csv", "run.json")
MADE += ("checkpoints/best.safetensors",)
# what another session of a run measures anew, in records and in columns of metrics.csv
TIMES = ("costs", "cost", "images_made", "images_per_second", "memory", "seconds")
TIMES += ("sha256", "tables", "commit")  # hashes of what holds times, and what it ran on


Facts = dict[str, str]  # file => what it holds, or its hash


class Untouched:
    """A run that nothing has touched, and another one whose files are put in the place of its."""

    def __init__(self, work: Path) -> None:
        self.work, self.whole, self.other = work, work / "whole", work / "other"
        for folder, more in ((self.whole, ()), (self.other, ("seed=1", "subject=cat"))):
            settings, done = " ".join((str(faults.ROOT), *TRAIN, *more)), folder / "done"
            if not done.exists() or done.read_text() != settings:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                ended = faults.run("train.py", [*TRAIN, *more], folder, self._counting(folder))
                assert ended.code == 0, ended.printed
                done.write_text(settings)
        self.boundaries = int((self.whole / "boundaries").read_text())

    def _counting(self, folder: Path) -> Callable[[], None]:
        """Count a run's boundaries into a file."""

        def count(number: int, when: str) -> None:
            (folder / "boundaries").write_text(str(number + 1))

        return lambda: faults.on_boundaries(count)

    @cached_property
    def made(self) -> Facts:
        """What the untouched run has made."""
        return made(self.whole)

    @cached_property
    def drawn(self) -> Facts:
        """The pictures that `GENERATE` draws with the untouched run."""
        return self._after("generate.py", GENERATE, "drawn/images", pictures)

    @cached_property
    def report(self) -> Facts:
        """The tables of the untouched run's report."""
        return self._after("report.py", REPORT, ".", tables)

    def _after(
        self, script: str, arguments: tuple[str, ...], place: str, read: Callable[[Path], Facts]
    ) -> Facts:
        folder = self.work / "used"
        shutil.rmtree(folder, ignore_errors=True)
        for part in ("run", "cache"):
            shutil.copytree(self.whole / part, folder / part)
        ended = faults.run(script, arguments, folder)
        assert ended.code == 0, ended.printed
        return read(folder / place)

    def another(self, name: Path) -> Path | None:
        """Find a file of the same kind that is another run's, or another one of this run."""
        found = [p for p in self.other.rglob(f"*{name.suffix}") if p.is_file()]
        near = [p for p in found if p.parent.name == name.parent.name or p.name == name.name]
        return min(near or found, default=None, key=lambda p: p.name != name.name)


def differing(ours: Facts, theirs: Facts) -> list[str]:
    """Name what is not the same in both."""
    return [key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)]


def made(folder: Path) -> Facts:
    """Hash what the run below a folder has made, but for times and for where it lies.

    Weights, pictures, scores, logs and the record; not pages, which hold times, nor checkpoints,
    which count the batches of their own session.
    """
    run = folder / "run"
    places = [run / name for name in MADE]
    files = [
        p for place in places for p in (sorted(place.rglob("*")) if place.is_dir() else [place])
    ]
    return {str(p.relative_to(run)): _fact(p, folder) for p in files if _counts(p, run)}


def _counts(path: Path, run: Path) -> bool:
    return path.is_file() and not any(part[0] == "." for part in path.relative_to(run).parts)


def _fact(path: Path, folder: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".csv":
        rows = csv.DictReader(io.StringIO(data.decode()))
        data = json.dumps([_plain(row) for row in rows]).encode()
    elif path.suffix == ".json":
        data = json.dumps(_plain(json.loads(data)), sort_keys=True).encode()
    elif path.suffix == ".safetensors":
        end = 8 + int.from_bytes(data[:8], "little")  # of a header in any order
        data = json.dumps(json.loads(data[8:end]), sort_keys=True).encode() + data[end:]
    for place in (folder, folder.parent):
        data = data.replace(f"{place}/".encode(), b"")
    return hashlib.sha256(data.replace(b"../cache", b"cache")).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if not k.startswith(TIMES)}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def tables(folder: Path) -> Facts:
    """Read the tables of a report, but for times."""
    found = {}
    for name in ("runs.csv", "answer.csv"):
        with open(folder / name, newline="") as file:
            found[name] = json.dumps([_plain(row) for row in csv.DictReader(file)])
    return found


def pictures(folder: Path) -> Facts:
    """Hash the pictures of a folder by their numbers; their names end in one that is new."""
    from PIL import Image

    found = {}
    for path in sorted(folder.glob("*.png")):
        name = path.name.rsplit("_", 1)[0]
        found[name] = hashlib.sha256(Image.open(path).tobytes()).hexdigest()
    return found

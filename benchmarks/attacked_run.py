"""The run that the campaign attacks: its settings, what it makes, and how two of them compare."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import faults
from filelock import FileLock

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
    "trainer.log_every_n_steps=1",
    "trainer=cpu",
    "cache_dir=cache",
    "hydra.run.dir=run",
)
ALONE = (*TRAIN, "reuse=off")  # takes over no training of another run
OTHER = (*TRAIN, "seed=1", "subject=cat")  # whose files are put in the place of the first run's
EXTENDED = (*TRAIN, "max_steps=3")
# other weights, with neither scores nor a curve of their own
CHANGED = (*TRAIN, "seed=1", "resume=null", "checkpoint.best=null", "evaluation=none")
CHANGED = tuple(each for each in CHANGED if not each.startswith("evaluation."))
GENERATE = ("run=run", "prompts=['a {subject}']", "seeds=[0]", "output_dir=drawn")
EVALUATE = ("run=run", "evaluation.metrics=[dino]", "evaluation.class_images=0", "cache_dir=cache")
EVALUATE += ("evaluation.images_per_prompt=1",)
REPORT = ("runs=.", "cache_dir=cache")
BESIDE = "beside"  # holds the whole run beside a damaged one

MADE = ("model", "exports", "samples", "evaluation", "metrics.csv", "curve.csv", "run.json")
MADE += ("superseded", "checkpoints/best.safetensors")
# what another session of a run measures anew, in records and in columns of metrics.csv
TIMES = ("costs", "cost", "images_made", "images_per_second", "memory", "seconds")
TIMES += ("sha256", "tables", "commit")  # hashes of what holds times, and what it ran on


Facts = dict[str, str]  # file => what it holds, or its hash
Rows = dict[str, dict[str, str]]  # name of a run => its row in runs.csv


class Untouched:
    """Runs that nothing has touched: one for each of the settings that are attacked."""

    def __init__(self, work: Path) -> None:
        self.work, self.whole, self.other = work, work / "whole", work / "other"
        self.folders = {TRAIN: self.whole, ALONE: work / "alone", OTHER: self.other}
        self.later = {EXTENDED: work / "extended", CHANGED: work / "changed"}  # of the whole one
        work.mkdir(parents=True, exist_ok=True)
        with FileLock(work / "making.lock"):  # another shard may make them
            for settings, folder in {**self.folders, **self.later}.items():
                self._make(settings, folder)

    def _make(self, settings: tuple[str, ...], folder: Path) -> None:
        done = folder / "done"
        text = " ".join((str(faults.ROOT), faults.commit(), *TRAIN, *settings))
        if done.exists() and done.read_text() == text:
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if settings in self.later:
            self.copy(folder)
        ended = faults.run("train.py", settings, folder, self._counting(folder))
        assert ended.code == 0, ended.printed
        done.write_text(text)

    def _counting(self, folder: Path) -> Callable[[], None]:
        """Count a run's boundaries into a file."""

        def count(number: int, when: str) -> None:
            (folder / "boundaries").write_text(str(number + 1))

        return lambda: faults.on_boundaries(count)

    def copy(self, folder: Path, parts: Sequence[str] = ("run", "cache")) -> None:
        """Copy the whole run, its cache or both into a folder."""
        for part in parts:
            shutil.copytree(self.whole / part, folder / part)

    def boundaries(self, settings: Sequence[str] = TRAIN) -> int:
        """Return how many boundaries the run of these settings has."""
        return int((self.folder(settings) / "boundaries").read_text())

    def made(self, settings: Sequence[str] = TRAIN) -> Facts:
        """What the untouched run of these settings has made."""
        return _made_once(self.folder(settings))

    def folder(self, settings: Sequence[str] = TRAIN) -> Path:
        """Return where the untouched run of these settings lies."""
        return {**self.folders, **self.later}[tuple(settings)]

    @cached_property
    def drawn(self) -> Facts:
        """The pictures that `GENERATE` draws with the untouched run."""
        return pictures(self._after("generate.py", GENERATE) / "drawn/images")

    @cached_property
    def scored(self) -> Facts:
        """The tables of `EVALUATE` on the untouched run."""
        return scores(self._after("evaluate.py", EVALUATE))

    @cached_property
    def report(self) -> Rows:
        """The report's rows of the untouched run, and of the same one beside it."""
        return self.report_of(TRAIN)

    @cache  # noqa: B019
    def report_of(self, settings: Sequence[str]) -> Rows:
        """The report's rows of the untouched run of these settings, and of the whole one."""
        return rows(self._after("report.py", REPORT, self.folder(settings)) / "runs.csv")

    def _after(self, script: str, arguments: tuple[str, ...], run: Path | None = None) -> Path:
        folder = self.work / f"used-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        for part in ("run", "cache"):
            shutil.copytree((run or self.whole) / part, folder / part)
        self.copy(folder / BESIDE, ["run"])
        ended = faults.run(script, arguments, folder)
        assert ended.code == 0, ended.printed
        return folder

    def another(self, name: Path) -> Path | None:
        """Find a file of the same kind that is another run's, or another one of this run."""
        found = [p for p in self.other.rglob(f"*{name.suffix}") if p.is_file()]
        near = [p for p in found if p.parent.name == name.parent.name or p.name == name.name]
        return min(near or found, default=None, key=lambda p: p.name != name.name)


@cache
def _made_once(folder: Path) -> Facts:
    return made(folder)


def differing(ours: Facts, theirs: Facts) -> list[str]:
    """Name what is not the same in both."""
    return [key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)]


def made(folder: Path, origin: Path | None = None) -> Facts:
    """Hash what the run below a folder has made, but for times and for where it lies.

    Weights, pictures, scores, logs and the record; not pages, which hold times, nor checkpoints,
    which count the batches of their own session.

    Args:
        origin: where the run was copied from, which its record may still name.
    """
    run = folder / "run"
    places = [run / name for name in MADE]
    files = [
        p for place in places for p in (sorted(place.rglob("*")) if place.is_dir() else [place])
    ]
    return {
        str(p.relative_to(run)): _fact(p, (folder, origin or folder, folder.parent))
        for p in files
        if _counts(p, run)
    }


def _counts(path: Path, run: Path) -> bool:
    return path.is_file() and not any(part[0] == "." for part in path.relative_to(run).parts)


def _fact(path: Path, places: Iterable[Path]) -> str:
    data = path.read_bytes()
    if path.suffix == ".csv":
        rows = csv.DictReader(io.StringIO(data.decode()))
        data = json.dumps([_plain(row) for row in rows]).encode()
    elif path.suffix == ".json":
        data = json.dumps(_plain(json.loads(data)), sort_keys=True).encode()
    elif path.suffix == ".safetensors":
        end = 8 + int.from_bytes(data[:8], "little")  # of a header in any order
        data = json.dumps(json.loads(data[8:end]), sort_keys=True).encode() + data[end:]
    for place in places:
        data = data.replace(f"{place}/".encode(), b"")
    return hashlib.sha256(data.replace(b"../cache", b"cache")).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if not k.startswith(TIMES)}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def scores(folder: Path) -> Facts:
    """Hash what a run below a folder was scored with, tables and pictures, but for earlier ones."""
    found = {n: fact for n, fact in made(folder).items() if n.startswith("evaluation/")}
    return {name: fact for name, fact in found.items() if "/superseded/" not in name}


def means(folder: Path) -> set[tuple[str, float]]:
    """Read every score that lies below a folder, whatever it is of."""
    found = set()
    for path in folder.rglob("metrics.json"):
        with suppress(ValueError, KeyError, OSError):
            found |= {(k, v["mean"]) for k, v in json.loads(path.read_text())["scores"].items()}
    return found


def rows(path: Path, key: str = "run") -> Rows:
    """Read a table's rows by one column, but for times and empty cells; none where it is not."""
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        return {
            row[key]: _plain({k: v for k, v in row.items() if v}) for row in csv.DictReader(file)
        }


def is_part(row: Mapping[str, str], whole: Mapping[str, str]) -> bool:
    """Tell whether a row holds nothing but what another one holds."""
    return row.items() <= whole.items()


def pictures(folder: Path) -> Facts:
    """Hash the pictures of a folder by their numbers; their names end in one that is new."""
    from PIL import Image

    found = {}
    for path in sorted(folder.glob("*.png")):
        name = path.name.rsplit("_", 1)[0]
        found[name] = hashlib.sha256(Image.open(path).tobytes()).hexdigest()
    return found

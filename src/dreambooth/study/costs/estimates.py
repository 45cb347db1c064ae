"""What runs will cost, from what earlier ones on the same device cost or from the model's size."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from dreambooth.study.costs.disk import Needs, disk_of_runs
from dreambooth.study.costs.plan import Training, Work, final_samples, scored_images
from dreambooth.study.costs.step_memory import memory_of

Plain = Mapping[str, Any]
NEWEST = 200  # records that are read
# where they lie below a folder: DATE/TIME/RUN in that of all sweeps. No deeper: the folder may be a
# user's home, or the root of the disk
DEPTHS = ("run.json", "*/run.json", "*/*/run.json", "*/*/*/run.json")
# costs depend on these keys of a configuration, beside what `Rates` is multiplied by
ALIKE = ("model.path", "resolution", "method.name", "train_text_encoder", "trainer.precision")
ALIKE += ("gradient_checkpointing", "optimizer._target_")


@dataclass(frozen=True)
class Rates:
    """What a unit of work costs.

    Args:
        train: seconds for a training image.
        draw: seconds for a denoising step of an image.
        score: seconds to score an image, beside drawing it.
        other: seconds of a run for everything else, such as loading and exporting.
        memory_gib: peak.
    """

    train: float
    draw: float
    score: float
    other: float
    memory_gib: float

    @classmethod
    def of_record(cls, record: Plain) -> Rates:
        """Read the rates of a finished run from its run.json.

        Raises:
            ValueError: a run that did not train all of its steps itself, in one session.
        """
        config, costs = record["config"], record["costs"]
        stages, work = costs["stages"], Work.of([config])
        steps = config["sampling"]["num_inference_steps"]
        draw = stages["samples"]["seconds"] / final_samples(config) / steps
        images, train = 0, 0.0
        for training in work.trainings:
            phase = costs[f"phase_{training.number}"]
            if phase["steps"] != training.steps:
                raise ValueError
            images += phase["steps"] * training.images_per_step
            train += phase["seconds"] - (training.samples + training.scored) * draw * steps
        scored, score = scored_images(config), 0.0
        if scored and "evaluation" in stages:
            score = max(0.0, stages["evaluation"]["seconds"] / scored - draw * steps)
        other = costs["seconds"] - sum(stage["seconds"] for stage in stages.values())
        other += sum(stages[n]["seconds"] for n in ("export", "verification") if n in stages)
        return cls(train / images, draw, score, other, costs["peak_memory_gib"])

    @classmethod
    def median_of(cls, several: Sequence[Rates]) -> Rates:
        """Return the median of each rate, and the highest peak."""
        middle = {key: median(vars(each)[key] for each in several) for key in vars(several[0])}
        return cls(**{**middle, "memory_gib": max(each.memory_gib for each in several)})


# `train.py subject=dog` with the embedded model on one core of an Intel Xeon, November 2026
POCKET = Rates(train=0.033, draw=0.011, score=0.03, other=2.0, memory_gib=1.3)
POCKET_SIDE = 64  # its resolution


@dataclass(frozen=True)
class Earlier:
    """Finished runs below some folders, by which others are estimated."""

    folders: Sequence[Path]
    device: str

    def rates(self, config: Plain) -> tuple[Rates | None, str]:
        """Return the rates of a run, and where they come from in words; None where unknown."""
        like = [
            Rates.of_record(record)
            for record in self.records
            if all(_select(record["config"], key) == _select(config, key) for key in ALIKE)
        ]
        if like:
            runs = f"{len(like)} earlier run{'' if len(like) == 1 else 's'}"
            return Rates.median_of(like), f"{runs} on {self.device}"
        if config["model"]["path"] == "pocket" and self.device == "cpu":
            return POCKET, "one run of method=full on one CPU core"
        return None, f"the sizes of {config['model']['name']}'s networks"

    @cached_property
    def records(self) -> list[Plain]:
        """The newest records that were made on this device."""
        found = ((f, path) for f in self.folders for depth in DEPTHS for path in f.glob(depth))
        paths = {path for folder, path in found if not _is_hidden(path.relative_to(folder))}
        newest = sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)[:NEWEST]
        return [record for record in _read(newest) if record["device"] == self.device]


def _is_hidden(path: Path) -> bool:
    """Tell whether a path leads through a hidden folder, such as one of a file being written."""
    return any(part.startswith(".") for part in path.parts)


def _read(paths: Iterable[Path]) -> Iterator[Plain]:
    """Read the records that are whole, of this version, and of runs that trained."""
    for path in paths:
        try:
            record = json.loads(path.read_text())
            if record["finished"] and record["device"]:
                Rates.of_record(record)
                yield record
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            continue


@dataclass(frozen=True)
class Estimate:
    """What some work will cost; None where it is unknown.

    Args:
        memory_gib: of the run that needs most.
        sources: what the figures come from, in words.
    """

    seconds: float | None
    memory_gib: float | None
    disk: Needs | None
    sources: Sequence[str]


def estimate(work: Work, earlier: Earlier) -> Estimate:
    """Estimate work by earlier runs, else by a measured table, else by the model's size."""
    found = [earlier.rates(config) for config in work.configs]
    sources = list(dict.fromkeys(source for _, source in found))
    known = {id(c): each for c, (each, _) in zip(work.configs, found, strict=True) if each}
    memory = []
    for config in work.configs:
        each = known.get(id(config))
        memory.append(_memory(config, each, earlier.device))
    return Estimate(
        _seconds(work, known) if len(known) == len(work.configs) else None,
        None if None in memory else max(memory),
        disk_of_runs(work.configs),
        sources,
    )


def _memory(config: Plain, rates: Rates | None, device: str) -> float | None:
    """Return the peak of earlier runs that are alike, else what the architecture says."""
    if rates is not None and (rates is not POCKET or config["resolution"] == POCKET_SIDE):
        return rates.memory_gib  # without the libraries that the rest needs
    memory = memory_of(config, on_gpu=device != "cpu")
    return None if memory is None else memory.total


def _seconds(work: Work, rates: Mapping[int, Rates]) -> float:
    """Add up the seconds of all work, by the rates of each configuration's id."""
    seconds = sum(_seconds_of_training(t, rates[id(t.config)]) for t in work.trainings)
    seconds += sum(_seconds_of_end(config, rates[id(config)]) for config in work.configs)
    for config, count in work.class_images:
        seconds += count * config["prior"]["num_inference_steps"] * rates[id(config)].draw
    return seconds


def _seconds_of_training(training: Training, rates: Rates) -> float:
    """Add up the seconds of a phase, with what is drawn and scored while it trains."""
    steps = training.config["sampling"]["num_inference_steps"]
    drawn = (training.samples + training.scored) * steps * rates.draw
    train = training.steps * training.images_per_step * rates.train
    return train + drawn + training.scored * rates.score


def _seconds_of_end(config: Plain, rates: Rates) -> float:
    """Add up the seconds of a run beside its training: load, export, draw, score."""
    steps, scored = config["sampling"]["num_inference_steps"], scored_images(config)
    drawn = (final_samples(config) + scored) * steps * rates.draw
    return rates.other + drawn + scored * rates.score


def _select(config: Plain, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value

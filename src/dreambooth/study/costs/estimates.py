"""What runs will cost: from what earlier ones on the same device cost, or from the architecture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dreambooth.study.costs.disk import Needs, disk_of_runs
from dreambooth.study.costs.guesses import Guess, guessed, in_words
from dreambooth.study.costs.plan import Training, Work, final_samples, scored_images
from dreambooth.study.costs.rates import POCKET, POCKET_SIDE, Rates
from dreambooth.study.costs.sizes import ON_GPU
from dreambooth.study.costs.step_memory import memory_of

Plain = Mapping[str, Any]
NEWEST = 200  # records that are read
# where they lie below a folder: DATE/TIME/RUN in that of all sweeps. No deeper: the folder may be a
# user's home, or the root of the disk
DEPTHS = ("run.json", "*/run.json", "*/*/run.json", "*/*/*/run.json")
# costs depend on these keys of a configuration, beside what `Rates` is multiplied by
ALIKE = ("model.path", "resolution", "method.name", "train_text_encoder", "trainer.precision")
ALIKE += ("gradient_checkpointing", "optimizer._target_")
NOTHING = Rates(train=0.0, draw=0.0, score=0.0, other=0.0, memory_gib=0.0)


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
        guess: how the seconds were guessed that no finished run tells, in words; "" without any.
    """

    seconds: float | None
    memory_gib: float | None
    disk: Needs | None
    sources: Sequence[str]
    guess: str = ""


def estimate(work: Work, earlier: Earlier) -> Estimate:
    """Estimate work by earlier runs, else by a measured table, else by the model's architecture."""
    found = [earlier.rates(config) for config in work.configs]
    sources = list(dict.fromkeys(source for _, source in found))
    known = {id(c): each for c, (each, _) in zip(work.configs, found, strict=True) if each}
    others = {id(c): guessed(c, earlier.device) for c in work.configs if id(c) not in known}
    guesses = {key: guess for key, guess in others.items() if guess is not None}
    rates = known | {key: guess.rates for key, guess in guesses.items()}
    memory = []
    for config in work.configs:
        each = known.get(id(config))
        memory.append(_memory(config, each, earlier.device))
    return Estimate(
        _seconds(work, rates) if len(rates) == len(work.configs) else None,
        None if None in memory else max(memory),
        disk_of_runs(work.configs),
        sources,
        _guess(work, guesses) if len(rates) == len(work.configs) else "",
    )


def _guess(work: Work, guesses: Mapping[int, Guess]) -> str:
    """Word the guesses together; "" if there are none."""
    if not guesses:
        return ""
    none = {id(config): NOTHING for config in work.configs}
    operations = _seconds(work, none | {key: guess.operations for key, guess in guesses.items()})
    seconds = _seconds(work, none | {key: guess.rates for key, guess in guesses.items()})
    sources = list(dict.fromkeys(guess.source for guess in guesses.values()))
    return in_words(operations, operations / seconds, sources)


def _memory(config: Plain, rates: Rates | None, device: str) -> float | None:
    """Return the peak of earlier runs that are alike, else what the architecture says."""
    if rates is not None and (rates is not POCKET or config["resolution"] == POCKET_SIDE):
        return rates.memory_gib  # without the libraries that the rest needs
    is_for_gpu = config["trainer"]["accelerator"] in ON_GPU  # which may be elsewhere
    memory = memory_of(config, on_gpu=device != "cpu" or is_for_gpu)
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

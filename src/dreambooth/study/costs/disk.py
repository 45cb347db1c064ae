"""What a run writes, in bytes, by the sizes of its model's networks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.study.costs.plan import Work, final_samples, scored_images, trainings_of
from dreambooth.study.costs.sizes import (
    GIB,
    NETWORKS,
    is_own,
    lora_parameters,
    moments,
    parameters_of,
    trained_parameters,
)

Plain = Mapping[str, Any]
PNG = 1.5  # bytes of a pixel in a PNG of a photo, roughly
LATENTS = 0.5  # bytes of a pixel in cached latents: 4 channels an 8th a side, mean and log variance
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Disk:
    """What a run writes, in bytes.

    Args:
        left: what its folder keeps when it has finished, without what runs share.
        checkpoints: of `left`, its checkpoints, which runs of one training have once.
        while_training: what it needs beside that until it has finished.
        last: its newest checkpoints, which it shares with others through the cache.
        shared: networks that do not train, of which all runs have one copy.
        images: of `left`, what pictures take.
    """

    left: float
    checkpoints: float
    while_training: float
    last: float
    shared: float
    images: float


def disk_of(config: Plain) -> Disk | None:
    """Add up what a run writes; None for an unknown model."""
    sizes = parameters_of(config)
    if sizes is None:
        return None
    phases, keep = config["method"]["phases"], config["checkpoint"]
    kept_at_the_end = _kept_when_finished(keep)
    kept = most = last = 0.0
    for phase in phases:
        trained = sum(trained_parameters(config, phase, sizes).values())
        one = trained * (4 + moments(config) + (4 if config["ema_decay"] else 0))
        saved = -(-phase["max_steps"] // keep["every_n_steps"])
        kept += min(kept_at_the_end, saved) * one
        most += min(keep["keep"] + 1, saved) * one  # a new one is there before an old one goes
        last += one
    own, shared = _exported(config, sizes)
    images = (final_samples(config) + scored_images(config)) * config["resolution"] ** 2 * PNG
    return Disk(own + kept + images, kept, max(0.0, most - kept), last, shared, images)


@dataclass(frozen=True)
class Needs:
    """What runs, one after another, need of the disk, in bytes.

    Args:
        left: what they leave, by what it is.
        while_training: what the largest of them needs beside that until it has finished.
    """

    left: Mapping[str, float]
    while_training: float

    @property
    def total(self) -> float:
        """The most that they need at once, if the largest run is the last one."""
        return sum(self.left.values()) + self.while_training


def disk_of_runs(configs: Iterable[Plain]) -> Needs | None:
    """Add up what runs need of the disk; None if one's model is unknown.

    What runs share, networks that do not train and checkpoints of one training, counts once where
    links can be made between the runs' folders and the cache. The cache's shared trainings count
    within their bound, but not what is there already; its class images, and the base model's, count
    once each, with their latents.
    """
    configs = list(configs)
    disks = [disk_of(config) for config in configs]
    known = [disk for disk in disks if disk is not None]
    if len(known) < len(disks) or not known:
        return None
    shared: dict[str, float] = {}
    checkpoints, ends = 0.0, set[Any]()
    for number, (config, disk) in enumerate(zip(configs, known, strict=True)):
        linked = _device(config["cache_dir"]) == _device(config["output_dir"])
        end = tuple((key, each.steps) for key, each in trainings_of(config, number))
        checkpoints += 0.0 if linked and end in ends else disk.checkpoints
        ends.add(end)
        where = "" if linked else str(config["output_dir"])
        shared[f"{config['model']['path']} {config['export']['dtype']} {where}"] = disk.shared
    own = sum(disk.left - disk.checkpoints - disk.images for disk in known)
    left = {
        "models": own + sum(shared.values()),
        "checkpoints": checkpoints,
        "pictures": sum(disk.images for disk in known),
        "class images": _class_images(configs),
        "shared trainings": _cached(configs, known),
    }
    return Needs(left, max(disk.while_training for disk in known))


def _class_images(configs: Sequence[Plain]) -> float:
    """Add up the class images and the base model's images that the cache gets."""
    work = Work.of(configs)
    drawn = sum(n * config["resolution"] ** 2 * (PNG + LATENTS) for config, n in work.class_images)
    return drawn + sum(n * config["resolution"] ** 2 * PNG for config, n in work.base_images)


def _cached(configs: Sequence[Plain], disks: Sequence[Disk]) -> float:
    """Add up what shared trainings add to the cache, beside what the runs' folders keep of them."""
    new, bound = 0.0, 0.0
    for config, disk in zip(configs, disks, strict=True):
        if config["reuse"]["enabled"]:
            bound = max(bound, config["reuse"]["keep_gib"] * GIB)
            linked = _device(config["cache_dir"]) == _device(config["output_dir"])
            kept = linked and _kept_when_finished(config["checkpoint"]) > 0
            new += 0.0 if kept else disk.last
    if not new:
        return 0.0
    folder = Path(configs[0]["cache_dir"]) / "trained"
    present = sum(path.stat().st_size for path in folder.glob("*/step-*.ckpt"))
    return max(0.0, min(bound, present + new) - present)


def _exported(config: Plain, sizes: Mapping[str, int]) -> tuple[float, float]:
    """Return the bytes of what is exported: a run's own, and what all runs share."""
    block, phases = config["export"], config["method"]["phases"]
    size = BYTES[block["dtype"]]
    kinds = [kind for phase in phases for kind in (phase["unet"], phase["text_encoder"])]
    kind = block["kind"]
    if kind == "auto":
        kind = "full" if any(is_own(each) for each in kinds) else "adapters"
    if kind == "none":
        return 0.0, 0.0
    if kind != "full":
        adapters: dict[str, float] = {}
        for phase in phases:
            trained = trained_parameters(config, phase, sizes).items()
            adapters |= {n: count for n, count in trained if phase.get(n) != "full"}
            if kind == "lora":
                own = (n for n in NETWORKS if is_own(phase.get(n)))
                adapters |= {n: lora_parameters(config, n, block["rank"]) for n in own}
        return sum(adapters.values()) * size, 0.0
    changed = {n for phase in phases for n in NETWORKS if phase.get(n, "frozen") != "frozen"}
    own = sum(sizes[n] for n in changed)
    return own * size, (sum(sizes.values()) - own) * size


def _kept_when_finished(block: Plain) -> int:
    asked, keep = block["keep_when_finished"], block["keep"]
    return asked if asked is not None else keep if keep > 2 else 1


def _device(folder: str) -> int:
    """Return the file system of a folder, or of the nearest one above it that exists."""
    path = Path(folder).absolute()
    while not path.exists():
        path = path.parent
    return os.stat(path).st_dev

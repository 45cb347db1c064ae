"""What a run needs and leaves, by the sizes of its model's networks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from dreambooth.study.costs.plan import final_samples, scored_images
from dreambooth.weights_files import read_header

Plain = Mapping[str, Any]
GIB = 2**30
# bytes of state of a parameter in optimizers that keep other than AdamW's two moments
STATE = {"8bit": 2, "adafactor": 0, "lion": 4, "prodigy": 16}
PNG = 1.5  # bytes of a pixel in a PNG of a photo, roughly
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# parts of a model: what a phase calls the denoiser and the text encoders, and what never trains
NETWORKS = ("unet", "text_encoder", "vae")
PARTS = {
    "unet": ("unet", "transformer"),
    "text_encoder": ("text_encoder", "text_encoder_2"),
    "vae": ("vae", "text_encoder_3"),  # T5
}
# parameters of networks, as the public configurations count them
SD1 = {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863}
SD2 = {"unet": 865_910_724, "text_encoder": 340_387_840, "vae": 83_653_863}
SDXL = {"unet": 2_567_463_684, "text_encoder": 123_060_480 + 694_659_840, "vae": 83_653_863}
SD35_MEDIUM = {
    "unet": 2_243_171_520,
    "text_encoder": 123_650_304 + 694_659_840,
    "vae": 83_819_683 + 4_762_310_656,
}
FLUX2_KLEIN = {"unet": 3_875_544_576, "text_encoder": 4_022_468_096, "vae": 84_046_115}
PARAMETERS = {"sd14": SD1, "sd15": SD1, "sd21": SD2, "sdxl": SDXL, "sd35_medium": SD35_MEDIUM}
PARAMETERS["flux2_klein"] = FLUX2_KLEIN
# parameters of an adapter for each rank, on the layers of model.adapter_targets
SD1_RANK = {"unet": 199_296, "text_encoder": 73_728}
SD2_RANK = {"unet": 207_488, "text_encoder": 188_416}
SDXL_RANK = {"unet": 1_451_520, "text_encoder": 73_728 + 327_680}
SD35_MEDIUM_RANK = {"unet": 586_752, "text_encoder": 73_728 + 327_680}
PER_RANK = {"sd14": SD1_RANK, "sd15": SD1_RANK, "sd21": SD2_RANK, "sdxl": SDXL_RANK}
PER_RANK |= {
    "sd35_medium": SD35_MEDIUM_RANK,
    "flux2_klein": {"unet": 1_044_480, "text_encoder": 0},
}


def parameters_of(config: Plain) -> Mapping[str, int] | None:
    """Count the parameters of each network; None for a model that is neither known nor here."""
    shapes = _shapes_of(config)
    if shapes is None:
        return PARAMETERS.get(config["model"]["name"])
    return {n: sum(_product(s) for s in each.values()) for n, each in shapes.items()}


@dataclass(frozen=True)
class Disk:
    """What a run writes, in bytes.

    Args:
        left: what its folder keeps when it has finished, without what runs share.
        while_training: what it needs beside that until it has finished.
        last: its newest checkpoints, which it shares with others through the cache.
        shared: networks that do not train, of which all runs have one copy.
        images: of `left`, what pictures take.
    """

    left: float
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
    return Disk(own + kept + images, max(0.0, most - kept), last, shared, images)


def disk_of_runs(configs: Iterable[Plain]) -> float | None:
    """Add up what runs write, one after another, in bytes; None if one's model is unknown.

    Shared parts count once where links can be made between the runs' folders and the cache. The
    cache's shared trainings count within their bound, but not what is there already.
    """
    configs = list(configs)
    disks = [disk_of(config) for config in configs]
    known = [disk for disk in disks if disk is not None]
    if len(known) < len(disks) or not known:
        return None
    shared: dict[str, float] = {}
    for config, disk in zip(configs, known, strict=True):
        linked = _device(config["cache_dir"]) == _device(config["output_dir"])
        where = "" if linked else str(config["output_dir"])
        shared[f"{config['model']['path']} {config['export']['dtype']} {where}"] = disk.shared
    total = sum(disk.left for disk in known) + sum(shared.values())
    return total + max(disk.while_training for disk in known) + _cached(configs, known)


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
                adapters |= {n: _of_rank(config, n, block["rank"]) for n in own}
        return sum(adapters.values()) * size, 0.0
    changed = {n for phase in phases for n in NETWORKS if phase.get(n, "frozen") != "frozen"}
    own = sum(sizes[n] for n in changed)
    return own * size, (sum(sizes.values()) - own) * size


def trained_parameters(config: Plain, phase: Plain, sizes: Mapping[str, int]) -> dict[str, float]:
    """Count the parameters that a phase trains in each network; those of a token are few."""
    counts: dict[str, float] = {}
    for network in NETWORKS:
        if phase.get(network) == "full":
            counts[network] = sizes[network]
        elif phase.get(network) == "adapter":
            counts[network] = _adapter(config, network)
        elif isinstance(patterns := phase.get(network), list):
            counts[network] = _matching(config, network, patterns)
    return counts


def _adapter(config: Plain, network: str) -> float:
    """Count the parameters of a network's LoRA; of an unknown kind none, which is nearly right."""
    settings = config["method"].get("adapter") or {}
    is_lora = settings.get("_target_") == "peft.LoraConfig"
    rank, targets = settings.get("r", 0) * is_lora, settings.get("target_modules", ())
    return _of_rank(config, network, rank, tuple(f".{target}.weight" for target in targets))


def _of_rank(
    config: Plain, network: str, rank: int, ends: str | tuple[str, ...] = ".weight"
) -> float:
    """Count the parameters of a LoRA on the layers whose weights' names have one of the ends.

    Of a model that is not here as on the attention projections.
    """
    shapes = _shapes_of(config)
    if shapes is None:
        return rank * PER_RANK.get(config["model"]["name"], {}).get(network, 0)
    layers = [s for name, s in shapes[network].items() if name.endswith(ends) and len(s) > 1]
    return rank * sum(_product(shape[1:]) + shape[0] for shape in layers)


def _matching(config: Plain, network: str, patterns: Sequence[str]) -> float:
    """Count the parameters whose names match; those of a model that is not here as none."""
    shapes = (_shapes_of(config) or {}).get(network, {})
    return sum(
        _product(shape)
        for name, shape in shapes.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    )


def is_own(kind: object) -> bool:
    """Tell whether a kind of training changes a network's own weights, all or some by name."""
    return kind == "full" or isinstance(kind, list)


def moments(config: Plain) -> int:
    """Bytes of optimizer state of a parameter: two moments of AdamW, unless a name is known."""
    name = config["optimizer"]["_target_"].rpartition(".")[2].lower()
    return next((size for word, size in STATE.items() if word in name), 8)


def _kept_when_finished(block: Plain) -> int:
    asked, keep = block["keep_when_finished"], block["keep"]
    return asked if asked is not None else keep if keep > 2 else 1


def _shapes_of(config: Plain) -> Mapping[str, Mapping[str, list[int]]] | None:
    """Read the shapes of a run's base model by network and name; None if it is not here."""
    from dreambooth.pocket.embedded import FOLDERS  # Pillow

    path = config["model"]["path"]
    folder = FOLDERS.get(path, Path(path).expanduser())
    return _shapes(folder, config["model"].get("variant"))


@cache
def _shapes(folder: Path, variant: str | None) -> Mapping[str, Mapping[str, list[int]]] | None:
    """Read the shapes of a local model's tensors; None where a network is not there."""
    shapes = {}
    for network in NETWORKS:
        found = (f for name in PARTS[network] for f in folder.glob(f"{name}/*.safetensors"))
        files = [f for f in found if _is_of(f, variant)]
        try:
            headers = [read_header(file) for file in files]
        except (OSError, ValueError):
            return None
        entries = [
            (f, *each) for f, header in zip(files, headers, strict=True) for each in header.items()
        ]
        own = {f"{f.parent.name}.{n}": e["shape"] for f, n, e in entries if n != "__metadata__"}
        shapes[network] = own
    return shapes if all(shapes.values()) else None


def _is_of(file: Path, variant: str | None) -> bool:
    parts = file.name.removesuffix(".safetensors").split(".")
    return parts[1:] == ([variant] if variant else [])


def _product(shape: Iterable[int]) -> int:
    result = 1
    for side in shape:
        result *= side
    return result


def _device(folder: str) -> int:
    """Return the file system of a folder, or of the nearest one above it that exists."""
    path = Path(folder).absolute()
    while not path.exists():
        path = path.parent
    return os.stat(path).st_dev

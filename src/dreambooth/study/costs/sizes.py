"""How large a model's networks are: their parameters, and those that a phase trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from dreambooth.weights_files import read_header

Plain = Mapping[str, Any]
GIB = 2**30
ON_GPU = ("gpu", "cuda")  # values of trainer.accelerator
# bytes of state of a parameter in optimizers that keep other than AdamW's two moments
STATE = {"8bit": 2, "adafactor": 0, "lion": 4, "prodigy": 16}
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
    return lora_parameters(config, network, rank, tuple(f".{target}.weight" for target in targets))


def lora_parameters(
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

"""What a run of a public model needs at least, by the number of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreambooth.study.plan import final_samples, scored_images

Plain = Mapping[str, Any]
GIB = 2**30
PNG = 1.5  # bytes of a pixel in a PNG of a photo, roughly
# parameters of Stable Diffusion's networks, as the public configurations count them
SD1 = {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863}
SD2 = {"unet": 865_910_724, "text_encoder": 340_387_840, "vae": 83_653_863}
PARAMETERS = {"sd14": SD1, "sd15": SD1, "sd21": SD2}


def memory_of_parameters(config: Plain) -> float | None:
    """Add up what weights, gradients and optimizer state take, in GiB; None for an unknown model.

    What a step itself needs (activations, and adapters) comes on top.
    """
    sizes = PARAMETERS.get(config["model"]["name"])
    if sizes is None:
        return None
    trained = max(_trained(phase, sizes) for phase in config["method"]["phases"])
    moments = 2 if "8bit" in config["optimizer"]["_target_"] else 8  # bytes of a parameter
    frozen = 4 if config["frozen_dtype"] == "float32" else 2
    held = trained * (4 + 4 + moments) + (sum(sizes.values()) - trained) * frozen
    return held / GIB


def bytes_of_parameters(config: Plain) -> float | None:
    """Add up what a run leaves: export, checkpoints and images; None for an unknown model."""
    sizes = PARAMETERS.get(config["model"]["name"])
    if sizes is None:
        return None
    written, checkpoint = 0.0, config["checkpoint"]
    for phase in config["method"]["phases"]:
        saved = -(-phase["max_steps"] // checkpoint["every_n_steps"])
        kept = min(checkpoint["keep"], saved)
        written += kept * _trained(phase, sizes) * 12  # a weight and two moments
    if any(_is_own(phase.get(name)) for phase in config["method"]["phases"] for name in sizes):
        written += sum(sizes.values()) * 4  # the exported pipeline
    images = final_samples(config) + scored_images(config)
    return written + images * config["resolution"] ** 2 * PNG


def _trained(phase: Plain, sizes: Mapping[str, int]) -> int:
    """Count the parameters that a phase trains fully; the other kinds are next to nothing."""
    return sum(size for network, size in sizes.items() if phase.get(network) == "full")


def _is_own(kind: object) -> bool:
    """Tell whether a kind of training changes a network's own weights, all or some by name."""
    return kind == "full" or isinstance(kind, list)

"""The networks that score images: which ones a metric needs, and loading them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.metrics.encoders import ENCODERS, load_encoder
from dreambooth.metrics.features import Encoder
from dreambooth.metrics.lpips_networks import BACKBONES, load_distance, pocket_distance
from dreambooth.metrics.perceptual import PerceptualDistance

METRICS = ("dino", "clip_i", "clip_t", "pres", "div")
FAMILIES = {
    "canonical": {"dino": "dino_vits16", "clip": "clip_b32", "lpips": "alex"},
    "pocket": {"dino": "pocket_dino", "clip": "pocket_clip", "lpips": "pocket"},
}
NETWORKS = (*FAMILIES, *ENCODERS, *BACKBONES)  # what `evaluation.encoders` may name
NEEDS = {"dino": "dino", "pres": "dino", "clip_i": "clip", "clip_t": "clip", "div": "lpips"}


@dataclass
class Encoders:
    """The networks that score; those that no metric asked for are None."""

    family: str | Sequence[str]
    dino: Encoder | None
    clip: Encoder | None
    distance: PerceptualDistance | None

    @property
    def ids(self) -> dict[str, dict[str, str]]:
        """Where each network came from, for the record."""
        both = {"dino": self.dino, "clip": self.clip}
        ids = {
            name: {"model": e.model_id, "variant": e.variant, "weights": e.weights_hash}
            for name, e in both.items()
            if e is not None
        }
        if self.distance is not None:
            distance = self.distance
            ids["lpips"] = {"variant": distance.variant, "weights": distance.weights_hash}
        return ids


def network_names(encoders: str | Sequence[str]) -> dict[str, str]:
    """`[canonical, dinov2_s]` => which network is the `dino`, the `clip` and the `lpips`.

    Of a family or a list of families and networks; of one kind the last one counts.

    Raises:
        UserError: a name that is none of `NETWORKS`.
    """
    names: dict[str, str] = {}
    for name in [encoders] if isinstance(encoders, str) else encoders:
        if name not in NETWORKS:
            raise UserError(f"evaluation.encoders: {name} is not one of {', '.join(NETWORKS)}.")
        kind = ENCODERS[name].kind if name in ENCODERS else "lpips"
        names |= FAMILIES.get(name) or {kind: name}
    return names


def check_networks(encoders: str | Sequence[str], metrics: Sequence[str]) -> dict[str, str]:
    """`network_names`, once they are known to serve the metrics.

    Raises:
        UserError: an unknown network or metric, or one that a metric needs and nobody named.
    """
    names = network_names(encoders)
    for metric in metrics:
        if metric not in METRICS:
            raise UserError(f"evaluation.metrics: {metric} is not one of {', '.join(METRICS)}.")
        if NEEDS[metric] not in names:
            raise UserError(
                f"evaluation.encoders={encoders} names no {NEEDS[metric]} network for {metric}: "
                "add one, or begin the list with canonical or pocket."
            )
    return names


def load_encoders(
    encoders: str | Sequence[str],
    metrics: Sequence[str],
    device: str,
    encoders_dir: str | None,
    cache_dir: str,
) -> Encoders:
    """The networks that `metrics` need; features are kept in `cache_dir`/features.

    Raises:
        UserError: as `check_networks`, or weights that cannot be had.
    """
    names = check_networks(encoders, metrics)
    kinds, options = {NEEDS[m] for m in metrics}, {"device": device, "encoders_dir": encoders_dir}
    loaded = {
        kind: load_encoder(names[kind], **options, cache_dir=Path(cache_dir) / "features")
        for kind in ("dino", "clip")
        if kind in kinds
    }
    distance = None
    if "lpips" in kinds:
        dino = loaded.get("dino")
        shared = names["lpips"] == "pocket" and dino is not None and dino.name == "pocket_dino"
        distance = pocket_distance(dino) if shared else load_distance(names["lpips"], **options)
    return Encoders(encoders, loaded.get("dino"), loaded.get("clip"), distance)

"""The networks that score images: which ones the metrics need, and loading them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.metrics.encoders import ENCODERS, load_encoder
from dreambooth.metrics.features import Encoder
from dreambooth.metrics.lpips_networks import BACKBONES, load_distance, pocket_distance
from dreambooth.metrics.perceptual import PerceptualDistance
from dreambooth.packages import need
from dreambooth.sampling.manifest import SETS, Item

BATCH = 32  # images whose features are computed at once
METRICS = ("dino", "clip_i", "clip_t", "pres", "div", "gallery", "kernel")
FAMILIES = {
    "canonical": {"dino": "dino_vits16", "clip": "clip_b32", "lpips": "alex"},
    "pocket": {"dino": "pocket_dino", "clip": "pocket_clip", "lpips": "pocket"},
}
NETWORKS = (*FAMILIES, *ENCODERS, *BACKBONES)  # what `evaluation.encoders` may name
NEEDS = {"dino": "dino", "pres": "dino", "gallery": "dino", "kernel": "dino"}
NEEDS |= {"clip_i": "clip", "clip_t": "clip", "div": "lpips"}


@dataclass(frozen=True)
class Encoders:
    """The networks that score; those that no metric asked for are None.

    `family` is `evaluation.encoders` as it was set.
    """

    family: str | Sequence[str]
    dino: Encoder | None
    clip: Encoder | None
    distance: PerceptualDistance | None

    def of(self, metric: str) -> Encoder:
        """Return the encoder that `metric` needs, which must be loaded."""
        encoder = self.dino if NEEDS[metric] == "dino" else self.clip
        assert encoder is not None, metric
        return encoder

    def extract(
        self, items: Sequence[Item], files: Sequence[Path], advance: Callable[[int], None]
    ) -> None:
        """Put the features that `score` takes of these files into the cache, and tell how many.

        They are computed in its batches, so that no feature differs by rounding.
        """
        for kind in SETS:
            own = [file for item, file in zip(items, files, strict=True) if item.set == kind]
            for encoder in filter(None, (self.dino, self.clip)):
                for start in range(0, len(own), BATCH):
                    part = own[start : start + BATCH]
                    if encoder is self.dino or kind == "subject":  # CLIP's scores are its alone
                        encoder.images(part, BATCH)
                    advance(len(part))

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
    """Find which network is the `dino`, the `clip` and the `lpips`.

    Args:
        encoders: a family or a network, or a list of them, of which the last of a kind counts:
            `[canonical, dinov2_s]`.

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
    """Return `network_names`, once they are known to serve the metrics.

    Raises:
        UserError: an unknown network or metric, or a metric whose network is not named.
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
    if "div" in metrics and names["lpips"] in BACKBONES:
        need("lpips", "evaluation.metrics=[div]", "leave div out or use evaluation.encoders=pocket")
    return names


def load_encoders(
    encoders: str | Sequence[str],
    metrics: Sequence[str],
    device: str,
    encoders_dir: str | None,
    cache_dir: str | Path,
) -> Encoders:
    """Load the networks that `metrics` need; features of files are kept in `cache_dir`/features.

    Raises:
        UserError: as `check_networks`, or weights that are not available.
    """
    names = check_networks(encoders, metrics)
    kinds, features = {NEEDS[metric] for metric in metrics}, Path(cache_dir) / "features"
    loaded = {
        kind: load_encoder(
            names[kind], device=device, encoders_dir=encoders_dir, cache_dir=features
        )
        for kind in ("dino", "clip")
        if kind in kinds
    }
    dino, distance = loaded.get("dino"), None
    if "lpips" in kinds:
        if dino is not None and (dino.name, names["lpips"]) == ("pocket_dino", "pocket"):
            distance = pocket_distance(dino)
        else:
            distance = load_distance(names["lpips"], device=device, encoders_dir=encoders_dir)
    return Encoders(encoders, dino, loaded.get("clip"), distance)

"""All metrics of one subject's images at once: a row an image, and a summary a variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dreambooth.errors import UserError
from dreambooth.evaluation.plan import Item
from dreambooth.metrics import fidelity, preservation, variants
from dreambooth.metrics.aggregate import bootstrap_interval, mean
from dreambooth.metrics.encoders import ENCODERS, load_encoder
from dreambooth.metrics.features import Encoder
from dreambooth.metrics.perceptual import (
    BACKBONES,
    PerceptualDistance,
    load_distance,
    pocket_distance,
)
from dreambooth.metrics.preprocess import ImageLike
from dreambooth.packages import need

METRICS = ("dino", "clip_i", "clip_t", "pres", "div")
FAMILIES = {
    "canonical": {"dino": "dino_vits16", "clip": "clip_b32", "lpips": "alex"},
    "pocket": {"dino": "pocket_dino", "clip": "pocket_clip", "lpips": "pocket"},
}
NETWORKS = (*FAMILIES, *ENCODERS, *BACKBONES)  # what `evaluation.encoders` may name
NEEDS = {"dino": "dino", "pres": "dino", "clip_i": "clip", "clip_t": "clip", "div": "lpips"}
BOOTSTRAP_SEED = 0


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
    if "div" in metrics and names["lpips"] in BACKBONES:
        need("lpips", "evaluation.metrics=[div]", "leave div out or use encoders=pocket")
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


@dataclass
class Scores:
    """`rows`: what each image is and its scores by variant id; `summary`: one record a variant."""

    rows: list[dict] = field(default_factory=list)
    summary: dict[str, dict] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        variant: str,
        metric: str,
        rows: list[dict],
        scores: Tensor | Sequence[float],
        over: str | None,
        **counts: int,
    ) -> None:
        """Record a variant's scores, one a row; `over` is the column that the interval draws."""
        values = [float(score) for score in scores]
        for row, value in zip(rows, values, strict=True):
            row[variant] = value
        self.summarise(
            variant,
            metric,
            values,
            [r[over] for r in rows] if over else None,
            {"prompt": "prompts", "file": "images", None: None}[over],
            images=len(rows),
            **counts,
        )

    def summarise(
        self,
        variant: str,
        metric: str,
        values: list[float],
        groups: list[str] | None,
        over: str | None,
        mean_over: str = "images",
        **counts: int,
    ) -> None:
        """The mean of `values` and its 95 % bootstrap interval over whole `groups`."""
        interval = None
        if groups is not None:
            interval = bootstrap_interval(values, groups, seed=BOOTSTRAP_SEED)
        average = mean(torch.tensor(values, dtype=torch.float64))
        self.summary[variant] = {
            "metric": metric,
            "mean": average,
            "mean_over": mean_over,
            "interval_95": interval,
            "interval_over": over if interval else None,
            **counts,
        }


def score(
    items: Sequence[Item],
    images: Sequence[ImageLike],
    photos: Sequence[Path],
    encoders: Encoders,
    metrics: Sequence[str],
) -> Scores:
    """Score one subject's images, of which `items` says what they are, against its photos.

    The means are those of `docs/metrics.md`: over images (all pairs), for DIV over prompts. PRES
    and DIV of class are of one prompt, "a [class]": a note says why they were left out.

    Raises:
        UserError: no images, features that are NaN, a prompt with one image where DIV is asked.
    """
    result = Scores([dict(vars(item)) for item in items])
    subject, prior = (
        [row for row in result.rows if row["set"] == name] for name in ("subject", "class")
    )
    made, of_class = (
        [image for item, image in zip(items, images, strict=True) if item.set == name]
        for name in ("subject", "class")
    )
    photo_rows = [{"set": "photo", "file": str(p), "prompt": "", "class_only": ""} for p in photos]
    prompts = len({row["prompt"] for row in subject})
    counts = {"prompts": prompts, "references": len(photos)}
    for key, metric, encoder, name in (
        ("dino", "DINO", encoders.dino, variants.dino_id),
        ("clip_i", "CLIP-I", encoders.clip, variants.clip_i_id),
    ):
        if key in metrics:
            real, variant = encoder.images(photos), name(encoder.variant)
            scores = fidelity.allpairs_scores(encoder.images(made), real)
            result.add(variant, metric, subject, scores, "prompt", **counts)
            _real_rows(result, photo_rows, real, metric, variant)
    if "clip_t" in metrics:
        _clip_t(result, subject, encoders.clip, encoders.clip.images(made), prompts)
    class_prompts = sorted({row["prompt"] for row in prior})
    if "pres" in metrics and len(class_prompts) == 1:
        variant = variants.pres_id("class_prompt", variants.dino_id(encoders.dino.variant))
        real = encoders.dino.images(photos)
        scores = preservation.class_prompt_scores(encoders.dino.images(of_class), real)
        result.add(variant, "PRES", prior, scores, "file", references=len(photos))
    if "div" in metrics:
        _div(result, subject, "DIV", encoders.distance, made)
        if len(class_prompts) == 1 and len(prior) > 1:
            _div(result, prior, "DIV of class", encoders.distance, of_class)
    if len(class_prompts) != 1 and {"pres", "div"} & set(metrics):
        why = "There are no images of the class prompt"
        if class_prompts:
            first, second = class_prompts[:2]
            why = f'The class has images of {len(class_prompts)} prompts ("{first}", "{second}")'
        result.notes.append(f"{why}, so PRES and DIV of class are not scored.")
    result.rows += [row for row in photo_rows if len(row) > 4]
    return result


def _real_rows(result: Scores, rows: list[dict], real: Tensor, metric: str, variant: str) -> None:
    """The photos among themselves, without and with self-pairs; one photo has no such row."""
    for include_self in (False, True) if len(real) > 1 else ():
        result.add(
            variants.real_ref_id(variant, include_self=include_self),
            f"{metric}, real images",
            rows,
            fidelity.real_scores(real, include_self=include_self),
            None,
        )


def _clip_t(result: Scores, rows: list[dict], clip: Encoder, images: Tensor, prompts: int) -> None:
    made_from = [row["prompt"] for row in rows]
    for text, column in (("class_only", "class_only"), ("with_id", "prompt")):
        texts = [row[column] for row in rows]
        scores = fidelity.clip_t_scores(images, clip.texts(texts), texts=texts, prompts=made_from)
        variant = variants.clip_t_id(clip.variant, text)
        result.add(variant, f"CLIP-T {text}", rows, scores, "prompt", prompts=prompts)


def _div(
    result: Scores, rows: list[dict], metric: str, distance: PerceptualDistance, images: list
) -> None:
    """DIV; an image's own value is its mean distance to the other images of its prompt."""
    own: dict[int, float] = {}

    def matrix(indices: list[int]) -> Tensor:
        distances = distance.distance([images[i] for i in indices])
        own.update(zip(indices, (distances.sum(1) / (len(indices) - 1)).tolist(), strict=True))
        return distances

    prompts = [row["prompt"] for row in rows]
    means = preservation.diversity(prompts, matrix)
    sizes = {prompts.count(prompt) for prompt in means}
    variant = variants.div_id(distance.variant, min(sizes))
    if len(sizes) > 1:
        variant = f"{variant}to{max(sizes)}"
    if metric != "DIV":
        variant = f"div_class.{variant.removeprefix('div.')}"
    for index, row in enumerate(rows):
        row[variant] = own[index]
    result.summarise(
        variant,
        metric,
        list(means.values()),
        list(means),
        "prompts",
        "prompts",
        images=len(rows),
        prompts=len(means),
    )

"""All metrics of one subject's images at once: a row per image, and a summary per variant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreambooth.evaluation.networks import Encoders
from dreambooth.metrics import fidelity, identity, preservation, variants
from dreambooth.metrics.aggregate import bootstrap_interval, mean
from dreambooth.metrics.features import Encoder, TextTooLong
from dreambooth.metrics.perceptual import PerceptualDistance
from dreambooth.metrics.preprocess import ImageLike
from dreambooth.sampling.store import SETS, Item

BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Groups:
    """What a bootstrap interval draws whole: the group of each value, and what a group is."""

    names: list[str]
    what: str


@dataclass
class Scores:
    """The scores of one subject's images.

    `rows` says what each image is and its scores by variant id; `summary` holds one record per
    variant; `notes` are sentences on what was not scored.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        variant: str,
        metric: str,
        rows: Sequence[dict[str, Any]],
        scores: Iterable[float] | Tensor,
        groups: Groups | None,
        **counts: int,
    ) -> None:
        """Record a variant's score of each row, and their mean."""
        values = [float(score) for score in scores]
        for row, value in zip(rows, values, strict=True):
            row[variant] = value
        self.summarise(variant, metric, values, groups, {"images": len(rows), **counts})

    def summarise(
        self,
        variant: str,
        metric: str,
        values: list[float],
        groups: Groups | None,
        counts: dict[str, int],
        mean_over: str = "images",
    ) -> None:
        """Record the mean of `values` and its 95 % bootstrap interval over whole groups."""
        interval = None
        if groups is not None:
            interval = bootstrap_interval(values, groups.names, seed=BOOTSTRAP_SEED)
        self.summary[variant] = {
            "metric": metric,
            "mean": mean(torch.tensor(values, dtype=torch.float64)),
            "mean_over": mean_over,
            "interval_95": interval,
            "interval_over": groups.what if groups and interval else None,
            **counts,
        }


@dataclass(frozen=True)
class _Part:
    """Images of one kind (of the subject, of the class, or the photos), each with its row."""

    rows: list[dict[str, Any]]
    images: list[ImageLike]

    @property
    def prompts(self) -> list[str]:
        """The prompt of each image."""
        return [row["prompt"] for row in self.rows]

    @property
    def by_prompt(self) -> Groups:
        """Every prompt's images as one group."""
        return Groups(self.prompts, "prompts")


def score(
    items: Sequence[Item],
    images: Sequence[ImageLike],
    photos: Sequence[Path],
    encoders: Encoders,
    metrics: Sequence[str],
    gallery: Mapping[str, Sequence[Path]] | None = None,
) -> Scores:
    """Score one subject's images, which `items` describes, against its photos.

    Means are defined in `docs/metrics.md`: over images (all pairs), for DIV over prompts. PRES and
    DIV of class need images of one class prompt, "a [class]", and gallery identity other subjects;
    a note says why they were left out.

    Args:
        gallery: the photos of the other subjects of the class, by name.

    Raises:
        UserError: no images, features that are NaN, or DIV where every prompt has one image.
    """
    result = Scores([asdict(item) for item in items])
    pairs = list(zip(result.rows, images, strict=True))
    subject, prior = (
        _Part([r for r, _ in pairs if r["set"] == name], [i for r, i in pairs if r["set"] == name])
        for name in SETS
    )
    rows = [{"set": "photo", "file": str(p), "prompt": "", "class_only": ""} for p in photos]
    real = _Part(rows, list(photos))
    if "dino" in metrics:
        _fidelity(result, "DINO", encoders.of("dino"), subject, real)
    if "clip_i" in metrics:
        _fidelity(result, "CLIP-I", encoders.of("clip_i"), subject, real)
    if "clip_t" in metrics:
        _clip_t(result, encoders.of("clip_t"), subject)
    if "gallery" in metrics:
        _gallery(result, encoders.of("gallery"), subject, real, gallery or {})
    has_class = len(set(prior.prompts)) == 1
    if "pres" in metrics and has_class:
        _pres(result, encoders.of("pres"), prior, real)
    if "div" in metrics:
        assert encoders.distance is not None
        _div(result, "DIV", encoders.distance, subject)
        if has_class and len(prior.images) > 1:
            _div(result, "DIV of class", encoders.distance, prior)
    if not has_class and {"pres", "div"} & set(metrics):
        result.notes.append(_why_no_class(prior))
    if len(photos) > 1 and {"dino", "clip_i"} & set(metrics):
        result.rows += real.rows
    return result


def _fidelity(result: Scores, metric: str, encoder: Encoder, made: _Part, real: _Part) -> None:
    """DINO or CLIP-I: each image's mean similarity to the photos; and the photos among themselves.

    The latter without and with self-pairs; a single photo has no such score.
    """
    variant_id = variants.dino_id if metric == "DINO" else variants.clip_i_id
    variant, references = variant_id(encoder.variant), encoder.images(real.images)
    scores = fidelity.allpairs_scores(encoder.images(made.images), references)
    counts = {"prompts": len(set(made.prompts)), "references": len(real.images)}
    result.add(variant, metric, made.rows, scores, made.by_prompt, **counts)
    for include_self in (False, True) if len(real.images) > 1 else ():
        result.add(
            variants.real_ref_id(variant, include_self=include_self),
            f"{metric}, real images",
            real.rows,
            fidelity.real_scores(references, include_self=include_self),
            None,
        )


def _clip_t(result: Scores, clip: Encoder, made: _Part) -> None:
    """CLIP-T: similarity to the prompt without the identifier, and to the prompt as it was.

    A variant with a text that the network cannot read whole is left out, and a note says so: a new
    token is many tokens for a network that does not know it.
    """
    images, prompts = clip.images(made.images), len(set(made.prompts))
    for text, column in (("class_only", "class_only"), ("with_id", "prompt")):
        texts = [row[column] for row in made.rows]
        if text == "with_id" and all(row["prompt"] == row["class_only"] for row in made.rows):
            result.notes.append("The prompts hold no identifier, so CLIP-T with_id is not scored.")
            continue
        try:
            features = clip.texts(texts)
        except TextTooLong as error:
            result.notes.append(f"CLIP-T {text} is left out: {error}")
            continue
        scores = fidelity.clip_t_scores(images, features, texts=texts, prompts=made.prompts)
        variant = variants.clip_t_id(clip.variant, text)
        result.add(variant, f"CLIP-T {text}", made.rows, scores, made.by_prompt, prompts=prompts)


def _gallery(
    result: Scores, dino: Encoder, made: _Part, real: _Part, others: Mapping[str, Sequence[Path]]
) -> None:
    """Gallery identity: whether the subject is nearer than the others of its class."""
    if not others:
        result.notes.append(
            "There are no photos of other subjects of the class, so gallery identity is not scored."
        )
        return
    features = {name: dino.images(photos) for name, photos in others.items()}
    ranks = identity.gallery_ranks(dino.images(made.images), dino.images(real.images), features)
    first = (ranks == 1).double()
    counts = {"prompts": len(set(made.prompts)), "gallery": len(others) + 1}
    for kind, metric, values in (
        ("recall1", "Gallery recall@1", first),
        ("rank", "Gallery rank", ranks),
    ):
        variant = variants.gallery_id(kind, variants.dino_id(dino.variant))
        result.add(variant, metric, made.rows, values, made.by_prompt, **counts)


def _pres(result: Scores, dino: Encoder, prior: _Part, real: _Part) -> None:
    """PRES: similarity of images of the class prompt to the subject's photos; high means drift."""
    variant = variants.pres_id("class_prompt", variants.dino_id(dino.variant))
    references = dino.images(real.images)
    scores = preservation.class_prompt_scores(dino.images(prior.images), references)
    each = Groups([row["file"] for row in prior.rows], "images")
    result.add(variant, "PRES", prior.rows, scores, each, references=len(real.images))


def _div(result: Scores, metric: str, distance: PerceptualDistance, part: _Part) -> None:
    """DIV: mean distance of the images of a prompt; a row has its distance to the others.

    A prompt with one image is left out, with a note, where others have more.
    """
    count = Counter(part.prompts)
    single = [prompt for prompt, images in count.items() if images == 1]
    if single and len(single) < len(count):
        rest = [
            pair
            for pair in zip(part.rows, part.images, strict=True)
            if count[pair[0]["prompt"]] > 1
        ]
        part = _Part([row for row, _ in rest], [image for _, image in rest])
        result.notes.append(
            f'{metric} leaves out {len(single)} prompts with one image, "{single[0]}" first.'
        )
    own: dict[int, float] = {}

    def matrix(indices: list[int]) -> Tensor:
        distances = distance.distance([part.images[i] for i in indices])
        own.update(zip(indices, (distances.sum(1) / (len(indices) - 1)).tolist(), strict=True))
        return distances

    means = preservation.diversity(part.prompts, matrix)
    sizes = {part.prompts.count(prompt) for prompt in means}
    variant = variants.div_id(distance.variant, min(sizes))
    if len(sizes) > 1:
        variant = f"{variant}to{max(sizes)}"
    if metric != "DIV":
        variant = f"div_class.{variant.removeprefix('div.')}"
    for index, row in enumerate(part.rows):
        row[variant] = own[index]
    groups, counts = Groups(list(means), "prompts"), {"images": len(own), "prompts": len(means)}
    result.summarise(variant, metric, list(means.values()), groups, counts, mean_over="prompts")


def _why_no_class(prior: _Part) -> str:
    prompts = sorted(set(prior.prompts))
    why = "There are no images of the class prompt"
    if prompts:
        why = f'The class has images of {len(prompts)} prompts ("{prompts[0]}", "{prompts[1]}")'
    return f"{why}, so PRES and DIV of class are not scored."

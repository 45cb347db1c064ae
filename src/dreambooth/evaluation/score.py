"""All metrics of one subject's images at once: a row per image, and a summary per variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from dreambooth.evaluation.networks import NEEDS, Encoders
from dreambooth.evaluation.prior_scores import class_scores, div, kernel_scores
from dreambooth.evaluation.record import Part, References, Scores
from dreambooth.metrics import fidelity, identity, variants
from dreambooth.metrics.features import Encoder, TextTooLong
from dreambooth.metrics.preprocess import ImageLike
from dreambooth.sampling.manifest import SETS, Item
from dreambooth.sampling.progress import progress_bar


def score(
    items: Sequence[Item],
    images: Sequence[ImageLike],
    references: References,
    encoders: Encoders,
    metrics: Sequence[str],
) -> Scores:
    """Score one subject's images, which `items` describes.

    Means are defined in `docs/metrics.md`: over images (all pairs), for DIV over prompts. Notes say
    what was asked for and left out: PRES and DIV of class need images of one class prompt,
    "a [class]", gallery identity other subjects, and kernel distances the base model's images.

    Raises:
        UserError: no images, features that are NaN, or DIV where every prompt has one image.
    """
    result = Scores([asdict(item) for item in items])
    pairs = list(zip(result.rows, images, strict=True))
    subject, prior, other = (
        Part([r for r, _ in pairs if r["set"] == name], [i for r, i in pairs if r["set"] == name])
        for name in SETS
    )
    photos = references.photos
    rows = [{"set": "photo", "file": str(p), "prompt": "", "class_only": ""} for p in photos]
    real = Part(rows, list(photos))
    if "dino" in metrics:
        _fidelity(result, "DINO", encoders.of("dino"), subject, real)
    if "clip_i" in metrics:
        _fidelity(result, "CLIP-I", encoders.of("clip_i"), subject, real)
    if "clip_t" in metrics:
        _clip_t(result, encoders.of("clip_t"), subject)
    if "gallery" in metrics:
        _gallery(result, encoders.of("gallery"), subject, real, references)
    if "div" in metrics:
        assert encoders.distance is not None
        div(result, "DIV", encoders.distance, subject)
    class_scores(result, encoders, metrics, prior, real)
    if "kernel" in metrics:
        kernel_scores(result, encoders.of("kernel"), prior, other, references.base)
    if len(photos) > 1 and {"dino", "clip_i"} & set(metrics):
        result.rows += real.rows
    return result


def score_files(
    items: Sequence[Item],
    files: Sequence[Path],
    references: References,
    encoders: Encoders,
    metrics: Sequence[str],
) -> Scores:
    """Score images in files as `score` does, and show a bar meanwhile."""
    networks = {NEEDS[metric] for metric in metrics}
    with progress_bar("Scoring", len(files) * len(networks)) as advance:
        encoders.extract(items, files, advance)
        return score(items, files, references, encoders, metrics)


def _fidelity(result: Scores, metric: str, encoder: Encoder, made: Part, real: Part) -> None:
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


def _clip_t(result: Scores, clip: Encoder, made: Part) -> None:
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


def _gallery(result: Scores, dino: Encoder, made: Part, real: Part, references: References) -> None:
    """Gallery identity: whether the subject is nearer than the others of its class."""
    others = references.gallery
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

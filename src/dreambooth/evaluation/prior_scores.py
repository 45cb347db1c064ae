"""Scores of the class: PRES, DIV, and kernel distances between two models' class images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from dreambooth.evaluation.networks import Encoders
from dreambooth.evaluation.record import BOOTSTRAP_SEED, Groups, Part, Scores
from dreambooth.metrics import kernel, preservation, variants
from dreambooth.metrics.features import Encoder
from dreambooth.metrics.perceptual import PerceptualDistance


def class_scores(
    result: Scores, encoders: Encoders, metrics: Sequence[str], prior: Part, real: Part
) -> None:
    """PRES and DIV of class, those that are asked for; or a note on why they are left out."""
    if not {"pres", "div"} & set(metrics):
        return
    if len(set(prior.prompts)) != 1:
        result.notes.append(_why_no_class(prior))
        return
    if "pres" in metrics:
        _pres(result, encoders.of("pres"), prior, real)
    if "div" in metrics and len(prior.images) > 1:
        assert encoders.distance is not None
        div(result, "DIV of class", encoders.distance, prior)


def kernel_scores(
    result: Scores, dino: Encoder, prior: Part, other: Part, base: Mapping[str, Sequence[Path]]
) -> None:
    """Kernel distances of the subject's class and of other classes; the latter's mean over classes.

    Images are compared with the base model's of the same prompt and seeds.
    """
    for kind, part in (("own_class", prior), ("other_classes", other)):
        if kind == "other_classes" and not part.rows:
            continue  # none were asked for
        pairs = {}
        for prompt in dict.fromkeys(part.prompts):
            made = [
                i for row, i in zip(part.rows, part.images, strict=True) if row["prompt"] == prompt
            ]
            if len(made) > 1 and len(base.get(prompt, ())) == len(made):
                pairs[prompt] = kernel.pair_terms(dino.images(base[prompt]), dino.images(made))
        if not pairs or len(pairs) < len(set(part.prompts)):
            result.notes.append(
                f"The base model's images of {kind.replace('_', ' ')} are not there, so their "
                "kernel distance is not scored."
            )
            continue
        terms = list(pairs.values())
        variant = variants.kernel_id(kind, dino.variant)
        interval = kernel.interval(terms, seed=BOOTSTRAP_SEED)
        metric = f"Kernel distance {kind.replace('_', ' ')}"
        value, counts = kernel.distance(terms), {"images": len(part.rows), "prompts": len(pairs)}
        result.record(variant, metric, value, interval, "images", "pairs of images", counts)
        own = {prompt: iter(kernel.image_means(each)) for prompt, each in pairs.items()}
        for row in part.rows:
            row[variant] = next(own[row["prompt"]])


def _pres(result: Scores, dino: Encoder, prior: Part, real: Part) -> None:
    """PRES: similarity of images of the class prompt to the subject's photos; high means drift."""
    variant = variants.pres_id("class_prompt", variants.dino_id(dino.variant))
    references = dino.images(real.images)
    scores = preservation.class_prompt_scores(dino.images(prior.images), references)
    each = Groups([row["file"] for row in prior.rows], "images")
    result.add(variant, "PRES", prior.rows, scores, each, references=len(real.images))


def div(result: Scores, metric: str, distance: PerceptualDistance, part: Part) -> None:
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
        part = Part([row for row, _ in rest], [image for _, image in rest])
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


def _why_no_class(prior: Part) -> str:
    prompts = sorted(set(prior.prompts))
    why = "There are no images of the class prompt"
    if prompts:
        why = f'The class has images of {len(prompts)} prompts ("{prompts[0]}", "{prompts[1]}")'
    return f"{why}, so PRES and DIV of class are not scored."

"""What fine-tuning took from the class: PRES (lower is better) and DIV (higher is better).

Definitions: Ruiz et al. 2023 (DreamBooth), section 4.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dreambooth.errors import UserError
from dreambooth.metrics.fidelity import allpairs_scores


def class_prompt_scores(class_images: Tensor, real: Tensor) -> Tensor:
    """PRES, `class_prompt` (the paper's): DINO of prior images to the subject => `[N]`, in [-1,1].

    `class_images [N,D]`: images of "a [class]" from the *fine-tuned* model; `real [M,D]`: the
    subject's photos.
    """
    return allpairs_scores(class_images, real)


def other_subjects_scores(
    generated: Mapping[str, Tensor], real: Mapping[str, Tensor], classes: Mapping[str, str]
) -> dict[str, Tensor]:
    """PRES, `other_subjects`: images of the class's other subjects against this one's photos.

    `generated[s] [N_s,D]` come from subject s's own fine-tuned model, with the identifier;
    `real[s] [M_s,D]`; `classes[s]` the class noun. Returns, for each subject whose class has
    another, the scores `[sum of the others' N]` in [-1,1]. It measures how alike the subjects of a
    class are, so it does not compare with `class_prompt`.

    Raises UserError where a subject is missing from an argument or every class has one subject.
    """
    for what, mapping in (("photos", real), ("a class", classes)):
        missing = sorted(set(generated) - set(mapping))
        if missing:
            raise UserError(f"PRES over other subjects: {missing[0]} has images but lacks {what}.")
    scores = {}
    for subject in sorted(generated):
        same_class = classes[subject]
        others = [o for o in sorted(generated) if o != subject and classes[o] == same_class]
        if others:
            images = torch.cat([generated[o] for o in others])
            scores[subject] = allpairs_scores(images, real[subject])
    if not scores:
        raise UserError("PRES over other subjects needs two subjects of one class in the sweep.")
    return scores


def diversity(
    prompts: Sequence[str], pairwise_distance: Callable[[list[int]], Tensor]
) -> dict[str, float]:
    """DIV: mean LPIPS over the pairs of images of one prompt, for each prompt => {prompt: mean}.

    The metric is the mean over prompts of the values. `prompts[i]` made image i;
    `pairwise_distance(indices)` returns the symmetric `[n,n]` matrix of those images, for example
    `lambda rows: lpips.distance([images[i] for i in rows])`.

    Raises UserError for no images, a prompt with one image, or a matrix that is no distance.
    """
    if not prompts:
        raise UserError("DIV has no images to score.")
    rows: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(index)
    means = {}
    for prompt in sorted(rows):
        n = len(rows[prompt])
        if n < 2:
            raise UserError(
                f'DIV needs at least two images per prompt, "{prompt}" has one: generate more '
                "images per prompt or leave DIV out."
            )
        matrix = pairwise_distance(rows[prompt]).detach().to("cpu", torch.float64)
        if matrix.shape != (n, n) or not torch.isfinite(matrix).all():
            raise UserError(f'DIV: the distances of "{prompt}" are not a finite {n} x {n} matrix.')
        if (
            not torch.allclose(matrix, matrix.T, rtol=1e-4)
            or (matrix.diagonal().abs() > 1e-6).any()
        ):
            raise UserError(
                f'DIV: the distances of "{prompt}" are not symmetric with a zero diagonal.'
            )
        upper = torch.triu_indices(n, n, offset=1)
        means[prompt] = math.fsum(matrix[upper[0], upper[1]].tolist()) / upper.shape[1]
    return means

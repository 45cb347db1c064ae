"""How much of the class is kept after fine-tuning: PRES (lower is better), DIV (higher is better).

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
    """Score PRES, variant `class_prompt` (the paper's): DINO of prior images to the photos.

    s_n = 1/M sum_m <c_n, r_m>: high where images of the class have become the subject.

    >>> class_prompt_scores(torch.tensor([[0.6, 0.8]]), torch.tensor([[1.0, 0.0]]))
    tensor([0.6000], dtype=torch.float64)

    Args:
        class_images: features `[N,D]` of "a [class]" drawn by the *fine-tuned* model.
        real: features `[M,D]` of the subject's photos.

    Returns:
        `[N]` float64 in [-1,1].

    Raises:
        UserError: as `allpairs_scores`.
    """
    return allpairs_scores(class_images, real)


def other_subjects_scores(
    generated: Mapping[str, Tensor], real: Mapping[str, Tensor], classes: Mapping[str, str]
) -> dict[str, Tensor]:
    """Score PRES, variant `other_subjects`: images of other subjects against this one's photos.

    For subject s, over the images n of every other subject of its class:
    s_n = 1/M_s sum_m <g_n, r_m>. It measures how alike the subjects of a class are, so it does
    not compare with `class_prompt`.

    >>> dogs = {"dog": torch.tensor([[1.0, 0.0]]), "dog2": torch.tensor([[0.6, 0.8]])}
    >>> other_subjects_scores(dogs, dogs, {"dog": "dog", "dog2": "dog"})["dog"]
    tensor([0.6000], dtype=torch.float64)

    Args:
        generated: for each subject, features `[N_s,D]` of images with its identifier, drawn by
            the model that was fine-tuned on it.
        real: for each subject, features `[M_s,D]` of its photos.
        classes: each subject's class noun.

    Returns:
        for each subject whose class has another one, the scores of all the others' images, float64
        in [-1,1].

    Raises:
        UserError: a subject that an argument lacks, or no class with two subjects.
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
    """Score DIV: for each prompt, the mean LPIPS distance over the pairs of its images.

    d_p = 2/(n(n-1)) sum_{i<j} d(x_i, x_j); the metric is the mean of d_p over prompts.

    >>> distances = torch.tensor([[0.0, 0.25, 0.5], [0.25, 0.0, 0.75], [0.5, 0.75, 0.0]])
    >>> diversity(["a dog"] * 3, lambda rows: distances[rows][:, rows])
    {'a dog': 0.5}

    Args:
        prompts: what each image was made from.
        pairwise_distance: indices of n images => their symmetric distances `[n,n]`, for example
            `lambda rows: lpips.distance([images[i] for i in rows])`.

    Returns:
        `{prompt: mean distance}`.

    Raises:
        UserError: no images, a prompt with one image, or a matrix that holds no distances.
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
        _check_distances(matrix, n, prompt)
        upper = torch.triu_indices(n, n, offset=1)
        means[prompt] = math.fsum(matrix[upper[0], upper[1]].tolist()) / upper.shape[1]
    return means


def _check_distances(matrix: Tensor, n: int, prompt: str) -> None:
    if matrix.shape != (n, n) or not torch.isfinite(matrix).all():
        raise UserError(f'DIV: the distances of "{prompt}" are not a finite {n} x {n} matrix.')
    is_symmetric = torch.allclose(matrix, matrix.T, rtol=1e-4)
    if not is_symmetric or (matrix.diagonal().abs() > 1e-6).any():
        raise UserError(f'DIV: the distances of "{prompt}" are not symmetric with a zero diagonal.')

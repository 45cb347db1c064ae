"""Subject and prompt fidelity on unit feature matrices: DINO, CLIP-I, CLIP-T, the real-image row.

Every function returns one score per image `[N]`, float64 in [-1,1]; the metric is their mean.
Features `[N,D]` have unit rows, as `dreambooth.metrics.features` makes them, so that the cosine of
two rows is their dot product <a, b>. Definitions: Ruiz et al. 2023 (DreamBooth), section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dreambooth.errors import UserError
from dreambooth.metrics.texts import check_texts

# Half-precision rows have norms off by up to 1e-3; a forgotten normalisation is off by far more.
NORM_TOLERANCE = 1e-2


def unit_features(features: Tensor, what: str) -> Tensor:
    """Convert features `[N,D]` to float64 on the CPU, with rows of length exactly 1: x / |x|.

    >>> unit_features(torch.tensor([[0.0, 1.005]]), "photos").tolist()
    [[0.0, 1.0]]

    Args:
        what: names the matrix in an error message.

    Raises:
        UserError: a matrix that is empty, not two-dimensional, holds NaN, infinity or a zero row,
            or has rows that are not of unit length.
    """
    if features.ndim != 2 or 0 in features.shape:
        raise UserError(
            f"{what}: expected at least one feature row of shape [N,D], got {list(features.shape)}."
        )
    features = features.detach().to("cpu", torch.float64)
    if not torch.isfinite(features).all():
        row = int((~torch.isfinite(features)).any(dim=1).nonzero()[0])
        raise UserError(f"{what}: row {row} holds NaN or infinity, so its image cannot be scored.")
    norms = features.norm(dim=1, keepdim=True)
    if (norms < 1e-12).any():
        raise UserError(f"{what}: row {int(norms.argmin())} is zero and has no direction to score.")
    if ((norms - 1).abs() > NORM_TOLERANCE).any():
        row = int((norms - 1).abs().argmax())
        raise UserError(
            f"{what}: row {row} has length {float(norms[row]):.3g}; divide features by their norm."
        )
    return features / norms


def allpairs_scores(generated: Tensor, real: Tensor) -> Tensor:
    """Score DINO or CLIP-I, variant `allpairs`: each image's mean cosine to all photos.

    s_n = 1/M sum_m <g_n, r_m> = <g_n, 1/M sum_m r_m>, so the cost is linear in images, and the
    mean of the scores is the mean over all N x M pairs.

    >>> photos = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> allpairs_scores(torch.tensor([[0.6, 0.8], [1.0, 0.0]]), photos)
    tensor([0.7000, 0.5000], dtype=torch.float64)

    Args:
        generated, real: features `[N,D]` and `[M,D]` of one encoder.

    Raises:
        UserError: as `unit_features`, or features of two encoders.
    """
    generated = unit_features(generated, "generated images")
    real = unit_features(real, "real images")
    if generated.shape[1] != real.shape[1]:
        raise UserError(
            f"generated images have {generated.shape[1]} features and real images {real.shape[1]}: "
            "encode both with the same encoder."
        )
    return generated @ real.mean(dim=0)


def real_scores(real: Tensor, *, include_self: bool) -> Tensor:
    """Score the real-image row: each photo's mean cosine to the subject's photos.

    Without self-pairs s_m = 1/(M-1) sum_{k != m} <r_m, r_k>, which needs two photos; with them
    the mean is over all M and s_m becomes s_m + (1 - s_m) / M.

    >>> photos = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    >>> real_scores(photos, include_self=False)
    tensor([0.6000, 0.6000], dtype=torch.float64)
    >>> real_scores(photos, include_self=True)
    tensor([0.8000, 0.8000], dtype=torch.float64)

    Args:
        real: features `[M,D]`.

    Raises:
        UserError: as `unit_features`, or a single photo without self-pairs.
    """
    real = unit_features(real, "real images")
    count = len(real)
    if include_self:
        return real @ real.mean(dim=0)
    if count < 2:
        raise UserError(
            "real against real without self-pairs needs at least two photos of the subject."
        )
    return ((real @ real.sum(dim=0)) - 1) / (count - 1)


def clip_t_scores(
    images: Tensor, text_features: Tensor, *, texts: Sequence[str], prompts: Sequence[str]
) -> Tensor:
    """Score CLIP-T, variant `matched`: the cosine of each image and its own text.

    s_n = <i_n, t_n>, a plain cosine: without a factor of 100 or 2.5, not clamped at zero.

    >>> rows, prompts = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), ["a dog", "a red dog"]
    >>> clip_t_scores(rows, rows[[0, 0]], texts=prompts, prompts=prompts)
    tensor([1.0000, 0.6000], dtype=torch.float64)

    Args:
        images, text_features: `[N,D]` each, of one encoder.
        texts: what was encoded for each image, `class_only` or `with_id`.
        prompts: what each image was made from.

    Raises:
        UserError: as `unit_features` and `check_texts`, or unequal counts.
    """
    images = unit_features(images, "generated images")
    text_features = unit_features(text_features, "texts")
    if images.shape != text_features.shape:
        raise UserError(
            f"CLIP-T needs one text per image: features are {list(images.shape)} for images and "
            f"{list(text_features.shape)} for texts."
        )
    if not len(texts) == len(prompts) == len(images):
        raise UserError(
            f"CLIP-T needs a text and a prompt per image: {len(images)} images, {len(texts)} "
            f"texts, {len(prompts)} prompts."
        )
    check_texts(texts, prompts)
    return (images * text_features).sum(dim=1)

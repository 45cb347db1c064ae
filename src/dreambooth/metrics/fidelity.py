"""Subject and prompt fidelity on unit feature matrices: DINO, CLIP-I, CLIP-T, the real-image row.

Every function returns one score per image `[N]` in float64, in [-1,1]; the metric is their mean.
Features `[N,D]` have unit rows (`dreambooth.metrics.features` makes them).
Definitions: Ruiz et al. 2023 (DreamBooth), section 4.1.
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
    """`[N,D]` features => float64 on the CPU, rows of length exactly 1.

    Raises UserError, naming `what`, where the matrix is empty, not two-dimensional, holds NaN,
    infinity or a zero row, or has rows that are not of unit length.
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


def _pair(generated: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    generated = unit_features(generated, "generated images")
    real = unit_features(real, "real images")
    if generated.shape[1] != real.shape[1]:
        raise UserError(
            f"generated images have {generated.shape[1]} features and real images {real.shape[1]}: "
            "encode both with the same encoder."
        )
    return generated, real


def allpairs_scores(generated: Tensor, real: Tensor) -> Tensor:
    """DINO, CLIP-I: mean cosine of each generated image `[N,D]` to all real ones `[M,D]` => `[N]`.

    The mean of the result is the mean over all N x M pairs (variant `allpairs`). The mean over m
    of <g_n, r_m> is <g_n, mean_m r_m>, so the cost is linear in images.
    """
    generated, real = _pair(generated, real)
    return generated @ real.mean(dim=0)


def paired_scores(generated: Tensor, real: Tensor) -> Tensor:
    """Variant `paired`: cosine of generated i and real i, `[N,D]`, `[N,D]` => `[N]`."""
    generated, real = _pair(generated, real)
    if len(generated) != len(real):
        raise UserError(
            f"paired scores need as many real as generated images, got {len(real)} and "
            f"{len(generated)}."
        )
    return (generated * real).sum(dim=1)


def oneref_scores(generated: Tensor, real: Tensor, reference: int) -> Tensor:
    """Variant `oneref`: cosine of every generated image to real image `reference` => `[N]`."""
    generated, real = _pair(generated, real)
    if not 0 <= reference < len(real):
        raise UserError(f"reference {reference} is not one of the {len(real)} real images.")
    return generated @ real[reference]


def max_scores(generated: Tensor, real: Tensor) -> Tensor:
    """Variant `max`: the best generated image for each real one, `[N,D]`, `[M,D]` => `[M]`.

    It grows with N, so it never stands beside a mean (`dreambooth.metrics.variants` refuses that).
    """
    generated, real = _pair(generated, real)
    return (generated @ real.T).amax(dim=0)


def real_scores(real: Tensor, *, include_self: bool) -> Tensor:
    """The real-image row: mean cosine of each photo `[M,D]` to the subject's photos => `[M]`.

    Without self-pairs the mean runs over the M-1 others, which needs two photos; with them the
    score s becomes s + (1-s)/M.
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
    """CLIP-T, `matched`: cosine of image i and its own text i, `[N,D]`, `[N,D]` => `[N]`.

    `texts[i]` is what was encoded (`class_only` or `with_id`), `prompts[i]` what made image i; see
    `check_texts` for what is refused. Plain cosine: no factor 100 or 2.5, no clamp.
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

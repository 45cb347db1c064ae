"""Whether images show this subject rather than another of its class: ranks within a gallery."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dreambooth.errors import UserError
from dreambooth.metrics.fidelity import allpairs_scores


def gallery_ranks(generated: Tensor, own: Tensor, others: Mapping[str, Tensor]) -> Tensor:
    """Rank the right subject among all subjects of its class, for each image.

    Subjects are ordered by the image's mean cosine to their photos (DINO, `allpairs`); the rank is
    1 plus the number of other subjects that are as near as the right one, or nearer. A model that
    draws any subject of the class scores a mean rank of (G + 1) / 2 of G subjects. Retrieval by
    nearest gallery is as in image search; no paper of this field defines it.

    >>> photos = torch.eye(2)
    >>> images = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    >>> gallery_ranks(images, photos[:1], {"dog2": photos[1:]})
    tensor([1., 2.], dtype=torch.float64)

    Args:
        generated: features `[N,D]`.
        own: features `[M,D]` of the right subject's photos.
        others: features of the photos of each other subject of the class.

    Returns:
        `[N]` float64, whole numbers from 1 to the number of subjects.

    Raises:
        UserError: as `allpairs_scores`, or no other subject.
    """
    if not others:
        raise UserError("gallery identity needs photos of another subject of the class.")
    right = allpairs_scores(generated, own)
    rivals = torch.stack([allpairs_scores(generated, others[name]) for name in sorted(others)])
    return 1 + (rivals >= right).sum(dim=0).double()

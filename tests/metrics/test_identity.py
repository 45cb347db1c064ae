"""Gallery identity against plain loops."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dreambooth.errors import UserError
from dreambooth.metrics.identity import gallery_ranks


def test_ranks_are_those_of_a_plain_loop():
    generator = torch.Generator().manual_seed(0)

    def features(count: int) -> torch.Tensor:
        return F.normalize(torch.randn(count, 8, generator=generator), dim=1)

    images, own = features(20), features(3)
    others = {f"dog{i}": features(2 + i) for i in range(4)}
    expected = []
    for image in images.double():
        nearness = {name: float((real.double() @ image).mean()) for name, real in others.items()}
        right = float((own.double() @ image).mean())
        expected.append(1 + sum(value > right for value in nearness.values()))
    ranks = gallery_ranks(images, own, others)
    assert ranks.tolist() == expected and {1.0, 5.0} <= set(ranks.tolist())


def test_a_tie_counts_against_the_subject():
    photos = torch.eye(2)
    assert gallery_ranks(photos[:1], photos[:1], {"same": photos[:1]}).tolist() == [2]
    with pytest.raises(UserError, match="photos of another subject"):
        gallery_ranks(photos, photos, {})

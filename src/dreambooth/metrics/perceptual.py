"""LPIPS distances between images from features that are computed once per image.

d(x, x0) = sum_l 1/(H_l W_l) sum_hw sum_c w_lc (y_lhwc - y0_lhwc)^2 (Zhang et al. 2018, eq. 1),
where y_l are the features of layer l, divided by their length over channels. A network sees each
image once; pairs cost arithmetic only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreambooth.errors import UserError
from dreambooth.metrics.features import full_precision
from dreambooth.metrics.preprocess import ImageLike, Preprocess, open_image


def unit_channels(layer: Tensor) -> Tensor:
    """Divide features `[N,C,H,W]` by their length over channels: y / (|y| + 1e-10), as lpips does.

    >>> unit_channels(torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)).flatten()
    tensor([0.6000, 0.8000])
    """
    norm = torch.sqrt(torch.sum(layer**2, dim=1, keepdim=True))
    return layer / (norm + 1e-10)


def pairwise_distance(features: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Compute the LPIPS distance of every pair of n images.

    d_ij = sum_l 1/(H_l W_l) sum_hw sum_c w_lc (y_ilhwc - y_jlhwc)^2. Differences are taken before
    squaring, so equal images are at distance exactly 0.

    >>> layer = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 2, 1, 1)
    >>> pairwise_distance([layer], [torch.tensor([0.5, 0.25])])
    tensor([[0.0000, 0.7500],
            [0.7500, 0.0000]], dtype=torch.float64)

    Args:
        features: for each layer, channel-unit features `[n,C,H,W]`.
        weights: for each layer, `[C]`.

    Returns:
        symmetric distances `[n,n]`, float64 on the CPU.
    """
    n = len(features[0])
    result = torch.zeros(n, n, dtype=torch.float64)
    for layer, weight in zip(features, weights, strict=True):
        layer = layer.flatten(2)  # [n,C,HW]
        weight = weight.to(layer.device, torch.float64)
        for i in range(n - 1):
            squared = (layer[i + 1 :] - layer[i]).square_().mean(dim=2)  # [n-i-1,C]
            result[i, i + 1 :] += (squared.double() @ weight).cpu()
    return result + result.T


@dataclass
class PerceptualDistance:
    """A distance between images.

    Attributes:
        variant: the distance's part of DIV's id (`lpips.alex.v0.1.512`).
        layers: network input `[N,3,S,S]` => for each layer `[N,C,H,W]`, not normalised.
        weights: for each layer, `[C]`.
        weights_hash: as `Encoder.weights_hash`, over the backbone and the heads.
    """

    variant: str
    preprocess: Preprocess
    layers: Callable[[Tensor], list[Tensor]]
    weights: list[Tensor]
    weights_hash: str
    device: torch.device

    def features(self, images: Sequence[ImageLike], batch_size: int = 4) -> list[Tensor]:
        """Run the network: n images => for each layer, channel-unit features `[n,C,H,W]`."""
        parts = []
        for start in range(0, len(images), batch_size):
            batch = [self.preprocess(open_image(i)) for i in images[start : start + batch_size]]
            with full_precision(self.device):
                layers = self.layers(torch.stack(batch).to(self.device))
                parts.append([unit_channels(layer) for layer in layers])
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]

    def distance(self, images: Sequence[ImageLike], batch_size: int = 4) -> Tensor:
        """Compare n images => symmetric distances `[n,n]` float64, zero on the diagonal.

        Raises:
            UserError: no images, or an unreadable file.
        """
        if not images:
            raise UserError(f"{self.variant}: there are no images to compare.")
        with full_precision(self.device):
            return pairwise_distance(self.features(images, batch_size), self.weights)

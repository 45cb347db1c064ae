"""Distances from features that are computed once per image."""

from __future__ import annotations

import lpips
import pytest
import torch

from dreambooth.errors import UserError
from dreambooth.metrics.lpips_networks import lpips_distance, lpips_network
from dreambooth.metrics.perceptual import unit_channels
from dreambooth.metrics.preservation import diversity


def test_channels_are_normalised_as_the_package_does():
    layer = torch.randn(3, 7, 4, 5, generator=torch.Generator().manual_seed(0))
    layer[1, :, 2, 2] = 0
    assert torch.equal(unit_channels(layer), lpips.normalize_tensor(layer))


def test_identical_images_are_at_zero(picture):
    distance = lpips_distance(lpips_network("alex", None), 64)
    matrix = distance.distance([picture(0), picture(0), picture(1)])
    assert matrix[0, 1] == 0 and matrix.diagonal().tolist() == [0, 0, 0]
    assert matrix[0, 2] > 0 and torch.equal(matrix, matrix.T)


def test_each_image_is_seen_once(picture):
    distance = lpips_distance(lpips_network("alex", None), 64)
    seen = []
    layers = distance.layers
    distance.layers = lambda pixels: seen.append(len(pixels)) or layers(pixels)
    images = [picture(i) for i in range(6)]
    result = diversity(["a"] * 6, lambda rows: distance.distance([images[i] for i in rows]))
    assert sum(seen) == 6 and result["a"] > 0  # a pair at a time would be 30


def test_batch_size_and_order_do_not_matter(picture):
    distance = lpips_distance(lpips_network("alex", None), 64)
    images = [picture(i) for i in range(5)]
    matrix = distance.distance(images, batch_size=5)
    assert torch.allclose(distance.distance(images, batch_size=1), matrix, atol=1e-6)
    assert torch.allclose(distance.distance(images[::-1]).flip(0, 1), matrix, atol=1e-6)


def test_no_images_are_refused():
    distance = lpips_distance(lpips_network("alex", None), 64)
    with pytest.raises(UserError, match="no images"):
        distance.distance([])

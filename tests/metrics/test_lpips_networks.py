"""LPIPS from cached features against the lpips package, pair by pair, on random backbones."""

from __future__ import annotations

import huggingface_hub
import pytest
import torch
from torch.nn import functional as F
from torchvision import models

from dreambooth.errors import UserError
from dreambooth.metrics.encoders import load_encoder
from dreambooth.metrics.lpips_networks import (
    BACKBONES,
    load_distance,
    load_lpips,
    lpips_distance,
    lpips_network,
    pocket_distance,
)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    ("net", "size"), [("alex", 96), pytest.param("vgg", 32, marks=pytest.mark.thorough)]
)
def test_distances_are_the_packages_own(net, size, picture):
    torch.manual_seed(0)
    model = lpips_network(net, None)  # the package's linear heads, a random backbone
    distance = lpips_distance(model, size)
    images = [picture(i, size, size) for i in range(4)] + [picture(1, 200, 100)]
    matrix = distance.distance(images, batch_size=2)
    assert distance.variant == f"lpips.{net}.v0.1.{size}"
    pixels = torch.stack([distance.preprocess(image) for image in images])
    assert -1 <= float(pixels.min()) and float(pixels.max()) <= 1
    for i in range(5):
        for j in range(5):
            expected = float(model(pixels[i : i + 1], pixels[j : j + 1]))
            assert float(matrix[i, j]) == pytest.approx(expected, abs=1e-6)
    assert matrix[0, 1] > 1e-5  # the comparison is not of zeros


def test_loading_leaves_the_random_state():
    before = torch.random.get_rng_state()
    lpips_network("alex", None)  # the package initialises the network before it is filled
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_hash_tells_backbones_apart():
    hashes = set()
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = lpips_network("alex", None)
        torch.nn.init.normal_(model.net.slice1[0].weight)
        hashes.add(lpips_distance(model, 64).weights_hash)
    assert len(hashes) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "make"),
    [("alex", models.alexnet), pytest.param("vgg", models.vgg16, marks=pytest.mark.thorough)],
)
def test_backbone_comes_from_torchvisions_file(net, make, tmp_path):
    torch.manual_seed(1)
    backbone = make(weights=None).features
    state = {f"features.{key}": value for key, value in backbone.state_dict().items()}
    torch.save(state, tmp_path / BACKBONES[net])
    distance = load_lpips(net, size=64, encoders_dir=tmp_path)
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    expected = backbone[:-1]((pixels - shift) / scale)  # all but the last pooling
    assert torch.allclose(distance.layers(pixels)[-1], expected, atol=1e-5)


def test_unreachable_backbone_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="alexnet-owt-7be5be79.pth in .*encoders_dir=DIR"):
        load_lpips("alex")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def unreachable(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    with pytest.raises(UserError, match="cannot be downloaded"):
        load_lpips("vgg")
    with pytest.raises(UserError, match="no LPIPS network squeeze"):
        load_lpips("squeeze")
    (tmp_path / BACKBONES["alex"]).write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_lpips("alex", encoders_dir=tmp_path)


@torch.no_grad()
def test_pocket_distance_is_equation_one_with_unit_weights(encoders_dir, picture):
    encoder = load_encoder("pocket_dino", encoders_dir=encoders_dir)
    distance = pocket_distance(encoder)
    images = [picture(i, 64, 64) for i in range(3)]
    matrix = distance.distance(images)
    states = encoder.model(
        pixel_values=encoder.pixels(images), output_hidden_states=True
    ).hidden_states
    for i in range(3):
        for j in range(3):
            total = 0.0
            for layer in states[1:]:  # outputs of the three blocks
                patches = F.normalize(layer[:, 1:], dim=2)  # [3,16,32] without CLS
                for position in range(16):
                    gap = patches[i, position] - patches[j, position]
                    total += float(gap.square().sum()) / 16 / 3
            assert float(matrix[i, j]) == pytest.approx(total, abs=1e-6)
    assert distance.variant == "lpips.pocket.v1.64"
    again = load_distance("pocket", encoders_dir=encoders_dir)
    assert torch.equal(again.distance(images), matrix)

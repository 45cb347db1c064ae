"""Views of a photo against torchvision's transforms, and what each view depends on."""

from __future__ import annotations

import hashlib
import logging
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from dreambooth.data.crops import Crops, cut_views
from dreambooth.errors import UserError


def noise_image(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def centre(image: Image.Image, resolution: int, name: str = "a.jpg", **changed) -> torch.Tensor:
    (view,) = cut_views(image, Crops(resolution, **changed), 0, name)
    return view


@pytest.mark.parametrize("size", [(100, 100), (131, 97), (97, 131), (64, 64), (40, 51), (67, 64)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_the_centre_equals_torchvision(size: tuple[int, int], interpolation: str) -> None:
    image = noise_image(*size)
    theirs = transforms.Compose(
        [
            transforms.Resize(64, getattr(transforms.InterpolationMode, interpolation.upper())),
            transforms.CenterCrop(64),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )(image)
    ours = centre(image, 64, interpolation=interpolation)
    assert ours.shape == (3, 64, 64) and ours.dtype == torch.float32
    assert torch.equal(ours, theirs)


def test_pixels_span_minus_one_to_one() -> None:
    assert centre(Image.new("RGB", (16, 16), (0, 255, 0)), 16)[:, 0, 0].tolist() == [-1, 1, -1]


@pytest.mark.parametrize("size", [(32, 16), (16, 32)])  # 17 places in a line
@pytest.mark.parametrize("flip", [False, True])
def test_a_view_is_cut_where_its_key_says(size: tuple[int, int], flip: bool) -> None:
    image = noise_image(*size)
    whole = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1
    views = cut_views(image, Crops(16, num_crops=40, flip=flip), 3, "a.jpg")
    places = set()
    for k, view in enumerate(views):
        key = hashlib.sha256(f"3/a.jpg/{k}".encode()).digest()
        draw = random.Random(int.from_bytes(key, "big"))
        down, across, coin = draw.random(), draw.random(), draw.random()
        top, left = int(down * (size[1] - 15)), int(across * (size[0] - 15))
        expected = whole[:, top : top + 16, left : left + 16]
        mirrored = flip and coin < 0.5
        torch.testing.assert_close(view, expected.flip(2) if mirrored else expected)
        places.add((top, left, mirrored))
    assert len(places) > 12


def test_small_photo_is_enlarged_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    image = noise_image(30, 20)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert centre(image, 64, "tiny.jpg").shape == (3, 64, 64)
            cut_views(image, Crops(64, 2, True), 0, "tiny.jpg")
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "tiny.jpg is 30x20 pixels, smaller than resolution=64"
    ]
    caplog.clear()
    centre(noise_image(64, 64), 64, "right.jpg")
    assert not caplog.records


def test_unknown_interpolation() -> None:
    with pytest.raises(UserError, match="'bilinar': choose one of .*bilinear"):
        centre(noise_image(16, 16), 16, interpolation="bilinar")


# -- keyed views ------------------------------------------------------------------------------


def test_views_depend_on_seed_name_and_number_alone() -> None:
    image = noise_image(200, 32)

    def views(count: int = 4, seed: int = 0, name: str = "a.jpg") -> list[torch.Tensor]:
        return cut_views(image, Crops(32, count, True, True), seed, name)

    first = views()
    assert len(first) == 4
    assert all(torch.equal(a, b) for a, b in zip(first, views(8), strict=False))
    assert len({view.numpy().tobytes() for view in views(8)}) == 8
    for others in (views(seed=1), views(name="b.jpg")):
        assert not any(torch.equal(a, b) for a, b in zip(first, others, strict=True))


def test_views_reach_both_ends_and_flip_half() -> None:
    image = noise_image(33, 32)  # two places
    plain = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255).sub(0.5).div(0.5)
    places = [plain[..., :32], plain[..., 1:]]
    places += [place.flip(-1) for place in places]
    views = cut_views(image, Crops(32, 200, True, True), 0, "a.jpg")
    counts = [sum(torch.equal(view, place) for view in views) for place in places]
    assert sum(counts) == 200
    assert min(counts) > 25  # 50 expected each


def test_one_view_is_the_centre_unless_it_is_random() -> None:
    image = noise_image(64, 32)
    middle = torch.from_numpy(np.array(image)).permute(2, 0, 1)[..., 16:48] / 127.5 - 1
    for seed in range(3):
        (view,) = cut_views(image, Crops(32), seed, "a.jpg")
        torch.testing.assert_close(view, middle)
    views = [cut_views(image, Crops(32, random_crop=True), s, "a.jpg")[0] for s in range(3)]
    assert len({view.numpy().tobytes() for view in views}) > 1


def test_a_view_without_flip_is_never_mirrored() -> None:
    image = noise_image(32, 32)
    views = cut_views(image, Crops(32, 8, True), 0, "a.jpg")
    assert all(torch.equal(view, centre(image, 32)) for view in views)

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from dreambooth.data.photos import crops, to_pixels
from dreambooth.errors import UserError


def noise_image(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("size", [(100, 100), (131, 97), (97, 131), (64, 64), (40, 51), (67, 64)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_pixels_equal_torchvision(size: tuple[int, int], interpolation: str) -> None:
    image = noise_image(*size)
    theirs = transforms.Compose(
        [
            transforms.Resize(64, getattr(transforms.InterpolationMode, interpolation.upper())),
            transforms.CenterCrop(64),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )(image)
    ours = to_pixels(image, 64, interpolation=interpolation)
    assert ours.shape == (3, 64, 64) and ours.dtype == torch.float32
    assert torch.equal(ours, theirs)


def test_pixels_span_minus_one_to_one() -> None:
    assert to_pixels(Image.new("RGB", (16, 16), (0, 255, 0)), 16)[:, 0, 0].tolist() == [-1, 1, -1]


def test_offset_and_flip() -> None:
    image = noise_image(32, 16)  # 17 places across, none to spare down
    whole = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1
    for offset, left in [(0.0, 0), (0.5, 8), (0.9999, 16)]:
        seen = to_pixels(image, 16, offset=(0.3, offset))
        torch.testing.assert_close(seen, whole[:, :, left : left + 16])
    torch.testing.assert_close(
        to_pixels(image, 16, flip=True), whole[:, :, 8:24].flip(2), rtol=0, atol=1e-6
    )


def test_small_photo_is_enlarged_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    image = noise_image(30, 20)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert to_pixels(image, 64, name="tiny.jpg").shape == (3, 64, 64)
            crops(image, 64, 2, True, False, 0, "tiny.jpg")
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "tiny.jpg is 30x20 pixels, smaller than resolution=64"
    ]
    caplog.clear()
    to_pixels(noise_image(64, 64), 64, name="right.jpg")
    assert not caplog.records


def test_unknown_interpolation() -> None:
    with pytest.raises(UserError, match="'bilinar': choose one of .*bilinear"):
        to_pixels(noise_image(16, 16), 16, interpolation="bilinar")


# -- keyed crops ------------------------------------------------------------------------------


def test_one_crop_is_the_centre() -> None:
    image = noise_image(60, 32)
    (view,) = crops(image, 32, 1, False, False, seed=0, name="a.jpg")
    assert torch.equal(view, to_pixels(image, 32))


def test_crops_depend_on_seed_name_and_place_alone() -> None:
    image = noise_image(200, 32)

    def views(count: int = 4, seed: int = 0, name: str = "a.jpg") -> list[torch.Tensor]:
        return crops(image, 32, count, True, True, seed, name)

    first = views()
    assert len(first) == 4
    assert all(torch.equal(a, b) for a, b in zip(first, views(8), strict=False))
    assert len({view.numpy().tobytes() for view in views(8)}) == 8
    for others in (views(seed=1), views(name="b.jpg")):
        assert not any(torch.equal(a, b) for a, b in zip(first, others, strict=True))


def test_crops_reach_both_ends_and_flip_half() -> None:
    image = noise_image(33, 32)  # two places
    places = [to_pixels(image, 32, (0.0, across), flip) for across in (0.0, 0.9) for flip in (0, 1)]
    views = crops(image, 32, 200, True, True, 0, "a.jpg")
    counts = [sum(torch.equal(view, place) for view in views) for place in places]
    assert sum(counts) == 200
    assert min(counts) > 25  # 50 expected each


def test_a_crop_without_flip_is_never_mirrored() -> None:
    image = noise_image(32, 32)
    plain = to_pixels(image, 32)
    assert all(torch.equal(v, plain) for v in crops(image, 32, 8, True, False, 0, "a.jpg"))

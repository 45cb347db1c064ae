"""Images as tensors."""

from __future__ import annotations

import numpy as np

from dreambooth.pocket.pretraining.device import to_pixels


def test_pixels_are_centred():
    images = np.zeros((2, 64, 64, 3), np.uint8)
    images[0, 5, 7, 1] = 255
    pixels = to_pixels(images, "cpu")
    assert pixels.shape == (2, 3, 64, 64) and pixels.min() == -1
    assert pixels[0, 1, 5, 7] == 1 and (pixels == 1).sum() == 1

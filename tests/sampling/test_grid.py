"""Sheets of images."""

from __future__ import annotations

import pytest
from PIL import Image

from dreambooth.sampling.grid import grid


@pytest.mark.parametrize("labels", [(), ("first", "second")])
def test_a_grid_places_images_row_by_row(labels):
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = grid([Image.new("RGB", (8, 8), c) for c in colors], 2, labels, cell=10)
    assert sheet.width == 2 * 14 + 4
    step, top = (34, 24) if labels else (14, 4)
    assert sheet.getpixel((9, top + 5)) == colors[0]
    assert sheet.getpixel((23, top + 5)) == colors[1]
    assert sheet.getpixel((9, top + step + 5)) == colors[2]
    assert sheet.getpixel((23, top + step + 5)) == (255, 255, 255)

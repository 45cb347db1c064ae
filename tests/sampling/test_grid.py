"""Sheets of images."""

from __future__ import annotations

import pytest
from PIL import Image

from dreambooth.sampling.grid import Labels, captioned_grid, grid, labelled_grid

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9), (99, 99, 99), (200, 0, 200)]
IMAGES = [Image.new("RGB", (8, 8), color) for color in COLORS]


@pytest.mark.parametrize("labels", [(), ("first", "second")])
def test_a_grid_places_images_row_by_row(labels):
    sheet = grid(IMAGES[:3], 2, labels, cell=10)
    assert sheet.width == 2 * 14 + 4
    step, top = (34, 24) if labels else (14, 4)
    assert sheet.getpixel((9, top + 5)) == COLORS[0]
    assert sheet.getpixel((23, top + 5)) == COLORS[1]
    assert sheet.getpixel((9, top + step + 5)) == COLORS[2]
    assert sheet.getpixel((23, top + step + 5)) == (255, 255, 255)


def has_ink(sheet: Image.Image, box: tuple[int, int, int, int]) -> bool:
    return sheet.crop(box).convert("L").getextrema()[0] < 128


def test_both_axes_are_labelled():
    labels = Labels("seed 0", ("guidance 1", "guidance 2", "guidance 3"), ("ddim", "pndm"))
    sheet = labelled_grid(IMAGES, labels, cell=80)
    cells = 3 * 84
    side, above = sheet.width - cells - 4, sheet.height - 2 * 84 - 4
    for i, color in enumerate(COLORS):
        row, column = divmod(i, 3)
        assert sheet.getpixel((4 + side + column * 84 + 40, 4 + above + row * 84 + 40)) == color
    assert has_ink(sheet, (0, 0, 80, 4 + above // 2))  # the title
    for column in range(3):
        x = 4 + side + column * 84
        assert has_ink(sheet, (x, 4 + above // 2, x + 80, 4 + above))
    for row in range(2):
        y = 4 + above + row * 84
        assert has_ink(sheet, (0, y, side, y + 80))


def test_empty_labels_take_no_room():
    sheet = labelled_grid(IMAGES[:2], Labels("", ("", ""), ("",)), cell=80)
    assert sheet.size == (4 + 2 * 84, 4 + 84)


def test_each_picture_may_have_a_caption():
    sheet = captioned_grid(IMAGES[:5], "", ["a", "b " * 99, "c", "d", "e"], columns=2, cell=80)
    assert sheet.width == 4 + 2 * 84
    bottom = sheet.height - 4 - 80
    assert sheet.getpixel((44, bottom + 40)) == COLORS[4]
    assert has_ink(sheet, (4, bottom - 20, 84, bottom))
    assert sheet.getpixel((128, bottom + 40)) == (255, 255, 255)

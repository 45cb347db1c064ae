"""Sheets of images."""

from __future__ import annotations

import pytest
from PIL import Image

from dreambooth.sampling.grid import (
    GUTTER,
    Labels,
    before_and_after,
    captioned_grid,
    grid,
    labelled_grid,
)

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9), (99, 99, 99), (200, 0, 200)]
IMAGES = [Image.new("RGB", (8, 8), color) for color in COLORS]


@pytest.mark.parametrize("labels", [(), ("first", "second"), ("first", "a long label " * 3)])
def test_a_grid_places_images_row_by_row(labels):
    sheet = grid(IMAGES[:3], 2, labels, cell=60)
    assert sheet.width == 2 * 64 + 4
    one, two = (21, 38 if "long" in labels[1] else 21) if labels else (0, 0)  # lines of a label
    assert sheet.getpixel((34, 4 + one + 30)) == COLORS[0]
    assert sheet.getpixel((98, 4 + one + 30)) == COLORS[1]
    assert sheet.getpixel((34, 4 + one + 64 + two + 30)) == COLORS[2]
    assert sheet.getpixel((98, 4 + one + 64 + two + 30)) == (255, 255, 255)
    assert sheet.height == 4 + one + 64 + two + 64


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


@pytest.mark.parametrize("has_before", [True, False])
def test_photos_stand_above_the_pictures_before_and_after(has_before):
    photos = [Image.new("RGB", size, "green") for size in ((50, 20), (20, 90))]
    after, before = IMAGES[:4], IMAGES[2:] if has_before else []
    sheet = before_and_after(photos, ["a dog", "a dog on the beach " * 9], before, after)
    block = 2 * 196
    assert sheet.width == 4 + (2 * block + GUTTER if has_before else block)
    for x in (0, 196):
        assert sheet.getpixel((4 + x + 96, 25 + 96)) == (0, 128, 0)  # the middle of a photo
    starts = [4, 4 + block + GUTTER] if has_before else [4]
    bottom = sheet.height - 8 - 96  # the middle of the last row
    for start, images in zip(starts, [before, after] if has_before else [after], strict=True):
        for column, image in enumerate(images[2:]):
            place = (start + column * 196 + 96, bottom)
            assert sheet.getpixel(place) == image.getpixel((0, 0))


def test_many_photos_are_small_and_none_take_no_room():
    photos = [Image.new("RGB", (20, 20), "green")] * 30
    many, none = (before_and_after(p, ["a"], [], IMAGES[:1]) for p in (photos, []))
    assert many.size[0] == none.size[0] and none.size[1] < many.size[1] < none.size[1] + 90

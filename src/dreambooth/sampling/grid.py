"""Sheets of images, labelled on both axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageOps

from dreambooth.sampling.labels import font_for, line_height, readable, wrapped, write

MARGIN, SIZE = 4, 13  # pixels between pictures, and of the letters
GUTTER = 20  # pixels between the pictures before training and those after
MOST_PHOTOS = 12  # of a subject on a sheet


def grid(
    images: Sequence[Image.Image], columns: int, labels: Sequence[str] = (), cell: int = 192
) -> Image.Image:
    """Lay images out row by row, `columns` in a row, each row under its label.

    `cell` is the side of a picture on the sheet in pixels. A long label takes two lines.
    """
    width = MARGIN + columns * (cell + MARGIN)
    rows = range(-(-len(images) // columns))
    texts = [_fit(labels[row], width - 2 * MARGIN, 2) if labels else [] for row in rows]
    height = MARGIN + sum(_height(text) + cell + MARGIN for text in texts)
    sheet, y = Image.new("RGB", (width, height), "white"), MARGIN
    pen = ImageDraw.Draw(sheet)
    for row, text in enumerate(texts):
        write(pen, (MARGIN, y), text, SIZE)
        y += _height(text)
        for column, image in enumerate(images[row * columns : (row + 1) * columns]):
            sheet.paste(shown(image, cell), (MARGIN + column * (cell + MARGIN), y))
        y += cell + MARGIN
    return sheet


def before_and_after(
    photos: Sequence[Image.Image],
    prompts: Sequence[str],
    before: Sequence[Image.Image],
    after: Sequence[Image.Image],
) -> Image.Image:
    """Lay out a subject's photos above, and below a row per prompt: before training, and after.

    Args:
        photos: of any shape; the middle of each is shown.
        before: images as many as `after` and in its order, row by row; or none.
        after: as many images for each prompt.
    """
    count = len(after) // len(prompts)
    cell = 192 if count < 3 else 128
    block = count * (cell + MARGIN)
    starts = [MARGIN, MARGIN + block + GUTTER] if before else [MARGIN]
    width = max(starts[-1] + block, MARGIN + 2 * (192 + MARGIN))
    side = min(cell, (width - MARGIN) // max(1, min(len(photos), MOST_PHOTOS)) - MARGIN)
    texts = [_fit(prompt, width - 2 * MARGIN, 2) for prompt in prompts]
    head = ["before training", "after training"] if before else ["after training"]
    top = _height([""]) + side + 4 * MARGIN if photos else 0
    rows = sum(_height(text) + cell + 2 * MARGIN for text in texts)
    sheet = Image.new("RGB", (width, MARGIN + top + _height([""]) + rows), "white")
    pen = ImageDraw.Draw(sheet)
    if photos:
        write(pen, (MARGIN, MARGIN), ["the subject's photos"], SIZE)
    for number, photo in enumerate(photos[:MOST_PHOTOS]):
        place = (MARGIN + number * (side + MARGIN), MARGIN + _height([""]))
        sheet.paste(ImageOps.fit(photo, (side, side), Image.Resampling.LANCZOS), place)
    y = MARGIN + top
    for x, text in zip(starts, head, strict=True):
        write(pen, (x, y), [text], SIZE)
        pen.line((x, y + line_height(SIZE), x + block - MARGIN - 1, y + line_height(SIZE)), "grey")
    y += _height([""]) + MARGIN
    for row, text in enumerate(texts):
        write(pen, (MARGIN, y), text, SIZE)
        y += _height(text)
        for x, images in zip(starts, [before, after] if before else [after], strict=True):
            for column, image in enumerate(images[row * count : (row + 1) * count]):
                sheet.paste(shown(image, cell), (x + column * (cell + MARGIN), y))
        y += cell + 2 * MARGIN
    return sheet


def shown(image: Image.Image, cell: int) -> Image.Image:
    """Resize to `cell` pixels a side: a smaller image keeps its pixels, a larger one is reduced."""
    kernel = Image.Resampling.NEAREST if image.width < cell else Image.Resampling.LANCZOS
    return image.resize((cell, cell), kernel)


@dataclass(frozen=True)
class Labels:
    """The texts of a sheet: `title` above all, one per column above it, one per row at its left."""

    title: str
    columns: Sequence[str]
    rows: Sequence[str]


def labelled_grid(images: Sequence[Image.Image], labels: Labels, cell: int) -> Image.Image:
    """Lay images out row by row under the labels of both axes.

    Args:
        images: one for each row and column.
        labels: empty ones take no room.
        cell: the side of a picture on the sheet, pixels.
    """
    side = _column_width(labels.rows, cell)
    width = MARGIN + side + len(labels.columns) * (cell + MARGIN)
    title = _fit(labels.title, width - 2 * MARGIN, 3)
    tops = [_fit(text, cell - MARGIN, 5) for text in labels.columns]
    above = _height(title) + max(map(_height, tops))
    height = MARGIN + above + len(labels.rows) * (cell + MARGIN)
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    write(pen, (MARGIN, MARGIN), title, SIZE)
    for column, lines in enumerate(tops):  # at the bottom, next to the pictures
        x, y = MARGIN + side + column * (cell + MARGIN), MARGIN + above - _height(lines)
        write(pen, (x, y), lines, SIZE)
    for row, text in enumerate(labels.rows):
        y = MARGIN + above + row * (cell + MARGIN)
        lines = _fit(text, side - MARGIN, cell // line_height(SIZE)) if side else []
        write(pen, (MARGIN, y + (cell - len(lines) * line_height(SIZE)) // 2), lines, SIZE)
        for column in range(len(labels.columns)):
            image = images[row * len(labels.columns) + column]
            sheet.paste(shown(image, cell), (MARGIN + side + column * (cell + MARGIN), y))
    return sheet


def captioned_grid(
    images: Sequence[Image.Image], title: str, captions: Sequence[str], columns: int, cell: int
) -> Image.Image:
    """Lay images out row by row, `columns` in a row, each under a caption of its own."""
    texts = [_fit(text, cell - MARGIN, 4) for text in captions]
    width = MARGIN + columns * (cell + MARGIN)
    head = _fit(title, width - 2 * MARGIN, 3)
    rows = [range(i, min(i + columns, len(images))) for i in range(0, len(images), columns)]
    tops = [max(_height(texts[i]) for i in row) for row in rows]
    height = MARGIN + _height(head) + sum(top + cell + MARGIN for top in tops)
    sheet = Image.new("RGB", (width, height), "white")
    pen, y = ImageDraw.Draw(sheet), MARGIN + _height(head)
    write(pen, (MARGIN, MARGIN), head, SIZE)
    for row, top in zip(rows, tops, strict=True):
        for column, i in enumerate(row):
            x = MARGIN + column * (cell + MARGIN)
            write(pen, (x, y + top - _height(texts[i])), texts[i], SIZE)
            sheet.paste(shown(images[i], cell), (x, y + top))
        y += top + cell + MARGIN
    return sheet


def _fit(text: str, width: int, most: int) -> list[str]:
    text = readable(text, SIZE)
    return wrapped(text, font_for(text, SIZE), width, most)


def _height(lines: Sequence[str]) -> int:
    """Pixels that lines of text take, with a small gap below."""
    return len(lines) * line_height(SIZE) + (MARGIN if lines else 0)


def _column_width(texts: Sequence[str], cell: int) -> int:
    """Pixels that the rows' labels take: as wide as the longest, but no more than a picture."""
    texts = [readable(text, SIZE) for text in texts]
    longest = max(font_for(text, SIZE).getlength(text) for text in texts)
    return min(round(longest) + 2 * MARGIN, cell) if longest else 0

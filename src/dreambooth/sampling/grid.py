"""Sheets of images."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont


def grid(
    images: Sequence[Image.Image], columns: int, labels: Sequence[str] = (), cell: int = 192
) -> Image.Image:
    """Lay images out row by row, `columns` in a row, each row under its label.

    `cell` is the side of a picture on the sheet in pixels.
    """
    rows = -(-len(images) // columns)
    margin, header = 4, 20 if labels else 0
    size = (columns * (cell + margin) + margin, rows * (cell + margin + header) + margin)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        x, y = margin + column * (cell + margin), margin + row * (cell + margin + header)
        if labels and column == 0:
            pen.text((x, y), labels[row], fill="black", font=font)
        # a 64 px image keeps its pixels, a larger one is reduced
        kernel = Image.Resampling.NEAREST if image.width < cell else Image.Resampling.LANCZOS
        sheet.paste(image.resize((cell, cell), kernel), (x, y + header))
    return sheet

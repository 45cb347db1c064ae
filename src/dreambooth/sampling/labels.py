"""Text on sheets of images: a font with many glyphs, lines that fit, and names for what it lacks.

Pillow shapes right-to-left text where its Raqm library is installed, as in Pillow's own wheels.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import ImageDraw, ImageFont

# tried in this order: matplotlib's own copy of DejaVu, then fonts that a system may have
FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf")
UNASSIGNED = "\U0010ffff"  # no font has it: it shows the box that stands for a missing glyph
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def wrapped(text: str, font: Font, width: int, most: int) -> list[str]:
    """Break a text into at most `most` lines of `width` pixels; what is left out ends in `…`."""
    lines, line = [], ""
    for word in text.split():
        for part in _parts(word, font, width):
            longer = f"{line} {part}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = part
            line = longer
    lines = [*lines, line] if line else lines
    if len(lines) > most:
        lines = lines[:most]
        while lines[-1] and font.getlength(f"{lines[-1]}…") > width:
            lines[-1] = lines[-1][:-1]
        lines[-1] += "…"
    return lines


def _parts(word: str, font: Font, width: int) -> list[str]:
    """Break a word that is wider than a line."""
    parts = [""]
    for sign in word:
        if parts[-1] and font.getlength(parts[-1] + sign) > width:
            parts.append("")
        parts[-1] += sign
    return parts


def write(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], lines: list[str], size: int
) -> None:
    """Write lines of text, the first one's top left corner at `place`."""
    for number, line in enumerate(lines):
        pen.text(
            (place[0], place[1] + number * line_height(size)), line, "black", font_for(line, size)
        )


def line_height(size: int) -> int:
    """Pixels from one line to the next."""
    return round(size * 1.3)


def font_for(text: str, size: int) -> Font:
    """Return the first font that has every glyph of a text, or else the first one there is."""
    fonts = _fonts(size)
    return next((font for font in fonts if all(has_glyph(font, c) for c in set(text))), fonts[0])


def readable(text: str, size: int = 13) -> str:
    """Write a text with the glyphs that its font has; any other sign becomes its name in brackets.

    `a 🦄 dog` => `a [unicorn face] dog`. Marks that only change the sign before them are left out.
    """
    font, result = font_for(text, size), []
    for sign in unicodedata.normalize("NFC", text):
        kind = unicodedata.category(sign)
        if sign.isspace() or has_glyph(font, sign):
            result.append(" " if sign.isspace() else sign)
        elif kind not in ("Cf", "Mn", "Me", "Cc"):
            result.append(f"[{unicodedata.name(sign, f'U+{ord(sign):04X}').lower()}]")
    return " ".join("".join(result).split())


@cache
def has_glyph(font: Font, sign: str) -> bool:
    """Tell whether a font draws a sign as anything but the box of a missing glyph."""
    if sign.isspace():
        return True
    try:
        masks: list[Any] = [font.getmask(each) for each in (sign, UNASSIGNED)]
    except UnicodeError:  # Pillow's smallest font knows Latin-1 alone
        return False
    return masks[0].size != masks[1].size or bytes(masks[0]) != bytes(masks[1])


@cache
def _fonts(size: int) -> tuple[Font, ...]:
    """The fonts of `FONTS` that are here; Pillow's own where there is none."""
    spec = find_spec("matplotlib")
    places = spec.submodule_search_locations if spec else None
    folder = Path(places[0]) / "mpl-data/fonts/ttf" if places else Path()
    found = []
    for name in FONTS:
        for path in (folder / name, Path(name)):
            try:
                found.append(ImageFont.truetype(str(path), size))
                break
            except OSError:
                continue
    return tuple(found) or (ImageFont.load_default(size=size),)

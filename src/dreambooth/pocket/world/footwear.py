"""Art of the two kinds of footwear: sneaker and boot."""

from __future__ import annotations

from dreambooth.pocket.world.identity import Identity
from dreambooth.pocket.world.palette import CREAM, DARK, GOLD
from dreambooth.pocket.world.pen import COAT, LIGHT, SECOND, SECOND_SHADE, Pen


def sneaker(pen: Pen, who: Identity) -> None:
    """Draw a sneaker with a curved stripe, three straight ones or a round badge."""
    w, top = 1.05 + 0.15 * who.width, -0.3 - 0.2 * who.head
    pen.blob(
        [
            (0.5 * w, top),
            (0.94 * w, top - 0.08),
            (w, 0.2),
            (0.98 * w, 0.76),
            (0, 0.8),
            (-0.98 * w, 0.78),
            (-1.06 * w, 0.5),
            (-0.8 * w, 0.24),
            (-0.3 * w, 0.1),
            (0.05, top - 0.1),
            (0.22 * w, top - 0.02),
        ],
        COAT,
    )
    pen.decorate(who)
    pen.blob(
        [(-1.08 * w, 0.62), (-0.9 * w, 0.3), (-0.62 * w, 0.42), (-0.58 * w, 0.8), (-1.0 * w, 0.8)],
        LIGHT if who.detail == 0 else SECOND,
    )
    pen.blob(
        [
            (0.3 * w, top + 0.02),
            (0.62 * w, top + 0.06),
            (0.88 * w, top),
            (0.7 * w, top + 0.16),
            (0.42 * w, top + 0.16),
        ],
        pen.color(DARK),
    )
    sole = pen.color(CREAM if who.main_color != "white" else (206, 208, 214))
    _sole(pen, w, sole)
    _badge(pen, who.detail, w)
    for u, v in ((-0.4, 0.14), (-0.22, 0.0), (-0.04, -0.16)):
        pen.bar([(u * w - 0.06, v), (u * w + 0.16, v + 0.14)], 0.07, sole)


def _sole(pen: Pen, w: float, fill: int) -> None:
    """Draw the sneaker's sole."""
    pen.blob(
        [
            (-1.1 * w, 0.68),
            (0, 0.72),
            (1.02 * w, 0.66),
            (1.06 * w, 0.9),
            (0.9 * w, 1.0),
            (0, 0.97),
            (-0.95 * w, 1.0),
            (-1.14 * w, 0.88),
        ],
        fill,
    )


def _badge(pen: Pen, detail: int, w: float) -> None:
    """Draw the mark on the sneaker's side."""
    if detail == 0:
        pen.bar([(-0.2 * w, 0.56), (0.3 * w, 0.5), (0.84 * w, 0.1)], 0.17, SECOND)
    elif detail == 1:
        for shift in (-0.05, 0.27, 0.59):
            pen.bar([(shift * w, 0.58), ((shift + 0.14) * w, 0.14)], 0.13, SECOND)
    else:
        pen.oval(0.45 * w, 0.32, 0.22, 0.22, SECOND)


def boot(pen: Pen, who: Identity) -> None:
    """Draw a boot with a fur collar, laces or a buckle."""
    w, top = 0.34 + 0.1 * who.width, -0.82
    pen.blob(
        [
            (0.12 - w, top),
            (0.5, top),
            (0.5 + 0.1 * who.width, top),
            (0.56, -0.2),
            (0.62, 0.4),
            (0.6, 0.84),
            (0, 0.84),
            (-0.9, 0.86),
            (-1.0, 0.6),
            (-0.74, 0.36),
            (-0.3, 0.22),
            (0.12 - w, -0.1),
            (0.1 - w, -0.5),
        ],
        COAT,
    )
    pen.decorate(who)
    dark = pen.color((70, 50, 42) if who.main_color not in ("brown", "black") else (228, 208, 170))
    pen.blob([(-1.02, 0.78), (0, 0.82), (0.64, 0.78), (0.64, 0.9), (0, 0.9), (-0.9, 0.92)], dark)
    pen.box(0.22, 0.82, 0.62, 1.0, dark, 0.03)
    pen.box(-0.9, 0.84, -0.1, 0.95, dark, 0.04)
    if who.detail == 0:
        fur = pen.color(CREAM) if who.second_color == who.main_color else SECOND
        for u in (0.16 - w, 0.2, 0.5):
            pen.oval(u, top, 0.24, 0.17, fur)
    elif who.detail == 1:
        for v in (-0.5, -0.25, 0.0, 0.2):
            pen.bar([(-0.26, v), (0.06, v + 0.08)], 0.09, SECOND)
        pen.box(0.1 - w, top - 0.06, 0.56, top + 0.12, SECOND_SHADE, 0.05)
    else:
        pen.bar([(-0.34, 0.3), (0.58, 0.18)], 0.16, SECOND)
        pen.box(-0.02, 0.12, 0.24, 0.38, pen.color(GOLD), 0.04)
        pen.box(0.1 - w, top - 0.04, 0.54, top + 0.08, SECOND, 0.05)

"""Art of the four other things: backpack, candle, clock and glasses."""

from __future__ import annotations

from dreambooth.pocket.world.identity import Identity
from dreambooth.pocket.world.palette import CREAM, DARK, GOLD
from dreambooth.pocket.world.pen import (
    COAT,
    LIGHT,
    SECOND,
    SECOND_LIGHT,
    SECOND_SHADE,
    SHADE,
    Pen,
    Point,
)


def backpack(pen: Pen, who: Identity) -> None:
    """Draw a backpack with a zip, two straps or a flap."""
    w, h = 0.9 + 0.22 * who.width, 0.34 + 0.16 * who.head
    pen.ring(0, -0.82, 0.22, 0.2, 0.1, SHADE)
    for side, span in ((-1, (90, 270)), (1, (-90, 90))):
        pen.arc(side * 0.6 * w, 0.1, 0.22, 0.62, span, 0.14, SECOND_SHADE)
    pen.blob(
        [
            (-0.4, -0.82),
            (0.4, -0.82),
            (0.68 * w, -0.4),
            (0.74 * w, 0.4),
            (0.64 * w, 0.94),
            (0, 1.0),
            (-0.64 * w, 0.94),
            (-0.74 * w, 0.4),
            (-0.68 * w, -0.4),
        ],
        COAT,
    )
    pen.decorate(who)
    pen.box(-0.5 * w, 0.3 - h / 3, 0.5 * w, 0.86, SECOND, 0.16)
    pen.bar([(-0.42 * w, 0.44 - h / 3), (0.42 * w, 0.44 - h / 3)], 0.06, SECOND_SHADE)
    if who.detail == 0:
        pen.arc(0, -0.4, 0.56 * w, 0.3, (190, 350), 0.06, SHADE)
    elif who.detail == 1:
        for side in (-1, 1):
            pen.bar([(side * 0.3 * w, -0.7), (side * 0.3 * w, 0.42)], 0.13, SECOND_SHADE)
            pen.box(side * 0.3 * w - 0.1, 0.3, side * 0.3 * w + 0.1, 0.46, pen.color(GOLD))
    else:
        pen.blob(
            [(-0.5 * w, -0.72), (0.5 * w, -0.72), (0.66 * w, -0.2), (0, 0.0), (-0.66 * w, -0.2)],
            SHADE,
        )
        pen.box(-0.09, -0.14, 0.09, 0.1, pen.color(GOLD))


def candle(pen: Pen, who: Identity) -> None:
    """Draw a burning candle on a dish, on a dish with a handle, or on a stand."""
    w, top = 0.3 + 0.1 * who.width, -0.3 - 0.14 * who.head
    if who.detail == 1:
        pen.ring(0.86, 0.72, 0.2, 0.18, 0.1, SECOND_SHADE)
    if who.detail == 2:
        pen.poly([(-0.14, 0.5), (0.14, 0.5), (0.5, 1.0), (-0.5, 1.0)], SECOND_SHADE)
        pen.oval(0, 0.55, 0.62, 0.16, SECOND)
    else:
        pen.blob([(-0.82, 0.66), (0.82, 0.66), (0.6, 0.96), (-0.6, 0.96)], SECOND_SHADE)
        pen.oval(0, 0.68, 0.82, 0.17, SECOND)
    bottom = 0.5 if who.detail == 2 else 0.7
    pen.box(-w, top, w, bottom, COAT)
    pen.oval(0, bottom, w, 0.09, COAT)
    pen.decorate(who)
    pen.oval(0, top, w, 0.1, LIGHT)
    pen.bar([(-w * 0.72, top + 0.02), (-w * 0.72, top + 0.3)], 0.15, LIGHT)
    pen.bar([(w * 0.35, top + 0.04), (w * 0.35, top + 0.18)], 0.14, LIGHT)
    pen.bar([(0, top), (0, top - 0.12)], 0.05, pen.color(DARK))
    for size, rgb in ((1.0, (248, 150, 44)), (0.62, (255, 226, 110))):
        base = top - 0.08
        pen.blob(
            [
                (0, base - 0.54 * size),
                (0.17 * size, base - 0.2 * size),
                (0.1 * size, base),
                (-0.1 * size, base),
                (-0.17 * size, base - 0.2 * size),
            ],
            pen.color(rgb),
        )


def clock(pen: Pen, who: Identity) -> None:
    """Draw a clock with two bells, with a ring on top, or with a handle."""
    r, v = 0.68 + 0.08 * who.width, 0.16
    for side in (-1, 1):
        pen.bar([(side * 0.4, 0.6), (side * 0.56, 0.94)], 0.17, SECOND_SHADE)
        if who.detail == 0:
            pen.bar([(side * 0.3, -0.4), (side * 0.42, -0.62)], 0.1, SECOND_SHADE)
            pen.blob(
                [
                    (side * 0.12, -0.72),
                    (side * 0.36, -0.98),
                    (side * 0.72, -0.82),
                    (side * 0.78, -0.5),
                ],
                SECOND,
            )
    if who.detail == 1:
        pen.ring(0, -0.74, 0.2, 0.2, 0.1, SECOND)
        pen.box(-0.14, -0.68, 0.14, -0.4, SECOND_SHADE)
    elif who.detail == 2:
        pen.arc(0, -0.45, 0.5, 0.42, (180, 360), 0.12, SECOND)
    pen.oval(0, v, r, r, COAT)
    pen.decorate(who)
    pen.oval(0, v, r * 0.74, r * 0.74, pen.color(CREAM))
    ink = pen.color(DARK)
    for u, dv in ((0, -1), (1, 0), (0, 1), (-1, 0)):
        pen.oval(u * r * 0.6, v + dv * r * 0.6, 0.05, 0.05, ink)
    lean = 0.2 + 0.3 * who.head
    pen.bar([(0, v), (-0.26, v - lean * 0.6)], 0.1, ink)
    pen.bar([(0, v), (0.3 - lean * 0.5, v - 0.4)], 0.075, ink)
    pen.oval(0, v, 0.075, 0.075, pen.color((212, 60, 56)))


def glasses(pen: Pen, who: Identity) -> None:
    """Draw glasses with round, square or cat-eye frames."""
    r, v, thick = 0.5 + 0.05 * who.width, 0.42, 0.2 + 0.08 * who.head
    u = r + 0.16
    for side in (-1, 1):
        hinge, bend = (side * (u + r * 0.8), v - 0.3), (side * (u + r * 0.5), v - 0.82)
        pen.bar([hinge, bend, (side * (u + r * 0.2), v - 0.94)], 0.14, SHADE)
    pen.arc(0, v - 0.08, 0.24, 0.2, (180, 360), 0.17, COAT)
    for side in (-1, 1):
        _frame(pen, who.detail, side, (u, v), r, r + thick / 2)
    pen.decorate(who)
    inner = r - thick / 2
    for side in (-1, 1):
        if who.detail == 1:
            left, right, half = side * u - inner, side * u + inner, inner * 0.8
            pen.box(left, v - half, right, v + half, SECOND_SHADE, 0.14)
        else:
            pen.oval(side * u, v, inner, inner * (1.0 if who.detail == 0 else 0.86), SECOND_SHADE)
        pen.bar([(side * u - 0.18, v + 0.04), (side * u + 0.02, v - 0.18)], 0.1, SECOND_LIGHT)


def _frame(pen: Pen, detail: int, side: int, at: Point, lens: float, outer: float) -> None:
    """Draw one frame: `at` is its centre on the right, `lens` and `outer` are its radii."""
    u, v = at
    if detail == 0:
        pen.oval(side * u, v, outer, outer, COAT)
    elif detail == 1:
        left, right, half = side * u - outer, side * u + outer, outer * 0.85
        pen.box(left, v - half, right, v + half, COAT, 0.2)
    else:
        pen.blob(
            [
                (side * (u - lens), v - 0.3),
                (side * (u + 0.4), v - 0.56),
                (side * (u + lens + 0.26), v - 0.72),
                (side * (u + lens), v + 0.2),
                (side * u, v + outer),
                (side * (u - lens - 0.04), v + 0.24),
            ],
            COAT,
        )

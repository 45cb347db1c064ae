"""Art of the ten classes without a face."""

from __future__ import annotations

from dreambooth.pocket.world.identity import Identity
from dreambooth.pocket.world.pen import (
    COAT,
    LIGHT,
    SECOND,
    SECOND_LIGHT,
    SECOND_SHADE,
    SHADE,
    Pen,
)

METAL, DARK, GOLD, CREAM = (200, 204, 212), (52, 50, 58), (244, 200, 74), (250, 247, 238)


def backpack(pen: Pen, who: Identity) -> None:
    w, h = 0.9 + 0.22 * who.width, 0.34 + 0.16 * who.head
    pen.ring(0, -0.82, 0.22, 0.2, 0.1, SHADE)
    for side in (-1, 1):
        pen.arc(side * 0.6 * w, 0.1, 0.22, 0.62, -90, 90, 0.14, SECOND_SHADE) if side > 0 else (
            pen.arc(-0.6 * w, 0.1, 0.22, 0.62, 90, 270, 0.14, SECOND_SHADE)
        )
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
        pen.arc(0, -0.4, 0.56 * w, 0.3, 190, 350, 0.06, SHADE)
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


def bowl(pen: Pen, who: Identity) -> None:
    w, top = 1.0 + 0.2 * who.width, -0.3 - 0.15 * who.head
    pen.box(-0.4, 0.78, 0.4, 1.0, SHADE, 0.08)
    pen.blob(
        [
            (-w, top),
            (0, top),
            (w, top),
            (0.9 * w, 0.35),
            (0.5 * w, 0.85),
            (0, 0.93),
            (-0.5 * w, 0.85),
            (-0.9 * w, 0.35),
        ],
        COAT,
    )
    pen.decorate(who)
    if who.detail == 1:
        berry = [pen.color((196, 40, 70)), pen.color((70, 70, 160)), pen.color((232, 86, 80))]
        for index, (u, v) in enumerate(
            (
                (-0.55, 0.05),
                (-0.2, 0.18),
                (0.2, 0.18),
                (0.55, 0.05),
                (-0.36, 0),
                (0.02, 0),
                (0.38, 0),
            )
        ):
            pen.oval(u * w, top - 0.05 - v, 0.26, 0.26, berry[index % 3])
        pen.arc(0, top, w, 0.2, 0, 180, 0.12, LIGHT)
        return
    pen.oval(0, top, w, 0.24, LIGHT)
    filling = SHADE if who.detail == 0 else pen.color((250, 226, 160))
    pen.oval(0, top + 0.01, 0.88 * w, 0.17, filling)
    if who.detail == 2:
        pen.arc(0, top + 0.3, 0.92 * w, 0.24, 10, 170, 0.13, SECOND)


def can(pen: Pen, who: Identity) -> None:
    w, top = 0.54 + 0.12 * who.width, -0.86
    pen.blob(
        [(-w, top), (0, top - 0.06), (w, top), (w, 0), (w, 0.86), (0, 0.98), (-w, 0.86), (-w, 0)],
        COAT,
    )
    pen.box(-w, top, w, 0.86, COAT)
    pen.oval(0, 0.86, w, 0.14, COAT)
    pen.decorate(who)
    metal = pen.color(METAL)
    pen.arc(0, 0.84, w - 0.03, 0.14, 5, 175, 0.08, metal)
    pen.oval(0, top, w, 0.15, metal)
    pen.oval(0, top, w - 0.09, 0.1, pen.color((160, 166, 176)))
    pen.oval(0.08, top, 0.17, 0.05, pen.color((84, 88, 98)))
    size = 0.26 + 0.1 * who.head
    if who.detail == 0:
        pen.oval(0, 0.05, size, size, SECOND)
    elif who.detail == 1:
        pen.box(-w, 0.05 - size, w, 0.05 + size * 0.8, SECOND)
    else:
        pen.poly([(-w, 0.4), (w, -0.4), (w, 0.05), (-w, 0.8)], SECOND)


def candle(pen: Pen, who: Identity) -> None:
    w, top = 0.3 + 0.1 * who.width, -0.3 - 0.14 * who.head
    dish = SECOND if who.pattern != "plain" else SECOND
    if who.detail == 1:
        pen.ring(0.86, 0.72, 0.2, 0.18, 0.1, SECOND_SHADE)
    if who.detail == 2:
        pen.poly([(-0.14, 0.5), (0.14, 0.5), (0.5, 1.0), (-0.5, 1.0)], SECOND_SHADE)
        pen.oval(0, 0.55, 0.62, 0.16, dish)
    else:
        pen.blob([(-0.82, 0.66), (0.82, 0.66), (0.6, 0.96), (-0.6, 0.96)], SECOND_SHADE)
        pen.oval(0, 0.68, 0.82, 0.17, dish)
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
        pen.arc(0, -0.45, 0.5, 0.42, 180, 360, 0.12, SECOND)
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


def sneaker(pen: Pen, who: Identity) -> None:
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
        sole,
    )
    if who.detail == 0:
        pen.bar([(-0.2 * w, 0.56), (0.3 * w, 0.5), (0.84 * w, 0.1)], 0.17, SECOND)
    elif who.detail == 1:
        for shift in (-0.05, 0.27, 0.59):
            pen.bar([(shift * w, 0.58), ((shift + 0.14) * w, 0.14)], 0.13, SECOND)
    else:
        pen.oval(0.45 * w, 0.32, 0.22, 0.22, SECOND)
    for u, v in ((-0.4, 0.14), (-0.22, 0.0), (-0.04, -0.16)):
        pen.bar([(u * w - 0.06, v), (u * w + 0.16, v + 0.14)], 0.07, sole)


def boot(pen: Pen, who: Identity) -> None:
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


def glasses(pen: Pen, who: Identity) -> None:
    r, v, thick = 0.5 + 0.05 * who.width, 0.42, 0.2 + 0.08 * who.head
    u = r + 0.16
    for side in (-1, 1):
        pen.bar(
            [
                (side * (u + r * 0.8), v - 0.3),
                (side * (u + r * 0.5), v - 0.82),
                (side * (u + r * 0.2), v - 0.94),
            ],
            0.14,
            SHADE,
        )
    pen.arc(0, v - 0.08, 0.24, 0.2, 180, 360, 0.17, COAT)
    out = r + thick / 2
    for side in (-1, 1):
        if who.detail == 0:
            pen.oval(side * u, v, out, out, COAT)
        elif who.detail == 1:
            pen.box(side * u - out, v - out * 0.85, side * u + out, v + out * 0.85, COAT, 0.2)
        else:
            pen.blob(
                [
                    (side * (u - r), v - 0.3),
                    (side * (u + 0.4), v - 0.56),
                    (side * (u + r + 0.26), v - 0.72),
                    (side * (u + r), v + 0.2),
                    (side * u, v + out),
                    (side * (u - r - 0.04), v + 0.24),
                ],
                COAT,
            )
    pen.decorate(who)
    inner = r - thick / 2
    for side in (-1, 1):
        if who.detail == 1:
            pen.box(
                side * u - inner,
                v - inner * 0.8,
                side * u + inner,
                v + inner * 0.8,
                SECOND_SHADE,
                0.14,
            )
        else:
            pen.oval(side * u, v, inner, inner * (1.0 if who.detail == 0 else 0.86), SECOND_SHADE)
        pen.bar([(side * u - 0.18, v + 0.04), (side * u + 0.02, v - 0.18)], 0.1, SECOND_LIGHT)

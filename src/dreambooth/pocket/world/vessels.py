"""Art of the two classes with the curviest outlines: teapot and vase."""

from __future__ import annotations

from dreambooth.pocket.world.identity import Identity
from dreambooth.pocket.world.pen import COAT, LIGHT, SECOND, SECOND_SHADE, SHADE, Pen


def teapot(pen: Pen, who: Identity) -> None:
    w, h = 0.66 + 0.1 * who.width, 0.5 + 0.1 * who.head
    v = 0.94 - h
    pen.blob(
        [
            (-0.45 * w, v + 0.3),
            (-w - 0.14, v),
            (-w - 0.4, v - 0.52),
            (-w - 0.2, v - 0.5),
            (-w + 0.08, v - 0.2),
            (-0.5 * w, v - 0.2),
        ],
        SHADE,
    )
    if who.detail == 0:
        pen.arc(w - 0.02, v - 0.06, 0.36, 0.34, -100, 110, 0.14, SECOND)
    elif who.detail == 1:
        pen.arc(0, v - 0.3, 0.72 * w, 0.74, 185, 355, 0.12, SECOND)
    else:
        pen.bar(
            [(w - 0.2, v - 0.32), (w + 0.34, v - 0.34), (w + 0.2, v + 0.28), (w - 0.16, v + 0.26)],
            0.14,
            SECOND,
        )
    pen.box(-0.4, 0.84, 0.4, 1.0, SHADE, 0.07)
    pen.oval(0, v, w, h, COAT)
    pen.decorate(who)
    pen.oval(0, v - h * 0.86, 0.44 * w, 0.12, SECOND_SHADE)
    pen.blob(
        [
            (-0.38 * w, v - h * 0.88),
            (-0.2, v - h - 0.1),
            (0.2, v - h - 0.1),
            (0.38 * w, v - h * 0.88),
        ],
        SECOND,
    )
    pen.oval(0, v - h - 0.18, 0.11, 0.11, SECOND_SHADE)
    pen.oval(-0.36 * w, v - 0.22, 0.1, 0.16, LIGHT, 25)


def vase(pen: Pen, who: Identity) -> None:
    w, h = 0.48 + 0.14 * who.width, 0.2 + 0.08 * who.head
    stem = pen.color((66, 138, 72))
    tips = ((-0.4, -0.72), (0.02, -0.92), (0.42, -0.7))
    if who.detail != 1:
        for u, v in tips:
            pen.bar([(u * 0.2, -0.2), (u, v)], 0.07, stem)
        for side in (-1, 1):
            pen.oval(side * 0.32, -0.42, 0.26, 0.09, stem, 35 * side)
    else:
        for side in (-1, 1):
            pen.arc(
                side * 0.3,
                -0.12,
                0.42,
                0.42,
                -95 if side > 0 else 275,
                60 if side > 0 else 120,
                0.12,
                SECOND,
            )
    lip = -0.22 if who.detail != 1 else -0.86
    pen.blob(
        [
            (-h - 0.12, lip),
            (0, lip),
            (h + 0.12, lip),
            (h, lip + 0.26),
            (w + 0.04, 0.3),
            (w, 0.6),
            (0.3, 0.96),
            (0, 1.0),
            (-0.3, 0.96),
            (-w, 0.6),
            (-w - 0.04, 0.3),
            (-h, lip + 0.26),
        ],
        COAT,
    )
    pen.decorate(who)
    pen.oval(0, lip, h + 0.14, 0.08, SHADE)
    if who.detail == 0:
        heart = pen.color((250, 214, 90))
        for u, v in tips:
            for du, dv in ((-0.12, 0), (0.12, 0), (0, -0.12), (0, 0.12)):
                pen.oval(u + du, v + dv, 0.12, 0.12, SECOND)
            pen.oval(u, v, 0.09, 0.09, heart)
    elif who.detail == 2:
        for u, v in tips:
            pen.blob(
                [
                    (u - 0.18, v - 0.16),
                    (u, v - 0.06),
                    (u + 0.18, v - 0.16),
                    (u + 0.15, v + 0.1),
                    (u, v + 0.18),
                    (u - 0.15, v + 0.1),
                ],
                SECOND,
            )
    pen.arc(0, 0.3, w * 0.98, 0.12, 10, 170, 0.11, SECOND_SHADE if who.detail == 1 else SECOND)

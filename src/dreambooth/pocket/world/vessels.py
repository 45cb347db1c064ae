"""Art of the four vessels: bowl, can, teapot and vase."""

from __future__ import annotations

from dreambooth.pocket.world.identity import Identity
from dreambooth.pocket.world.palette import METAL
from dreambooth.pocket.world.pen import COAT, LIGHT, SECOND, SECOND_SHADE, SHADE, Pen, Points

_BERRIES = (
    (-0.55, 0.05),
    (-0.2, 0.18),
    (0.2, 0.18),
    (0.55, 0.05),
    (-0.36, 0),
    (0.02, 0),
    (0.38, 0),
)


def bowl(pen: Pen, who: Identity) -> None:
    """Draw a bowl that is empty, full of berries, or full of soup."""
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
        for index, (u, v) in enumerate(_BERRIES):
            pen.oval(u * w, top - 0.05 - v, 0.26, 0.26, berry[index % 3])
        pen.arc(0, top, w, 0.2, (0, 180), 0.12, LIGHT)
        return
    pen.oval(0, top, w, 0.24, LIGHT)
    filling = SHADE if who.detail == 0 else pen.color((250, 226, 160))
    pen.oval(0, top + 0.01, 0.88 * w, 0.17, filling)
    if who.detail == 2:
        pen.arc(0, top + 0.3, 0.92 * w, 0.24, (10, 170), 0.13, SECOND)


def can(pen: Pen, who: Identity) -> None:
    """Draw a can with a dot, a band or a slanted stripe as its label."""
    w, top = 0.54 + 0.12 * who.width, -0.86
    pen.blob(
        [(-w, top), (0, top - 0.06), (w, top), (w, 0), (w, 0.86), (0, 0.98), (-w, 0.86), (-w, 0)],
        COAT,
    )
    pen.box(-w, top, w, 0.86, COAT)
    pen.oval(0, 0.86, w, 0.14, COAT)
    pen.decorate(who)
    metal = pen.color(METAL)
    pen.arc(0, 0.84, w - 0.03, 0.14, (5, 175), 0.08, metal)
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


def teapot(pen: Pen, who: Identity) -> None:
    """Draw a teapot whose handle is round, arched over the lid, or square."""
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
        pen.arc(w - 0.02, v - 0.06, 0.36, 0.34, (-100, 110), 0.14, SECOND)
    elif who.detail == 1:
        pen.arc(0, v - 0.3, 0.72 * w, 0.74, (185, 355), 0.12, SECOND)
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
    """Draw a vase with daisies, with two handles, or with tulips."""
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
            span = (-95, 60) if side > 0 else (275, 120)
            pen.arc(side * 0.3, -0.12, 0.42, 0.42, span, 0.12, SECOND)
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
    _bloom(pen, who.detail, tips)
    pen.arc(0, 0.3, w * 0.98, 0.12, (10, 170), 0.11, SECOND_SHADE if who.detail == 1 else SECOND)


def _bloom(pen: Pen, detail: int, tips: Points) -> None:
    """Draw the vase's daisies or tulips."""
    if detail == 0:
        heart = pen.color((250, 214, 90))
        for u, v in tips:
            for du, dv in ((-0.12, 0), (0.12, 0), (0, -0.12), (0, 0.12)):
                pen.oval(u + du, v + dv, 0.12, 0.12, SECOND)
            pen.oval(u, v, 0.09, 0.09, heart)
    elif detail == 2:
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

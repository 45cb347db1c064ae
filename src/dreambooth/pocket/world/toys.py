"""Art of the three toys with a face: stuffed animal, robot and cartoon."""

from __future__ import annotations

from dreambooth.pocket.world.anchors import Anchors
from dreambooth.pocket.world.identity import Identity
from dreambooth.pocket.world.palette import INK, WHITE
from dreambooth.pocket.world.pen import COAT, LIGHT, SECOND, SECOND_SHADE, SHADE, Pen


def stuffed_animal(pen: Pen, who: Identity) -> Anchors:
    """Draw a teddy that sits with its feet forward; ears small, big, or long as a rabbit's."""
    w, h = 0.9 + 0.25 * who.width, 0.9 + 0.22 * who.head
    hv, radius = -0.42, 0.46 * h
    for side in (-1, 1):
        if who.detail == 2:
            pen.oval(side * 0.24, hv - 0.62, 0.15, 0.42, COAT, 10 * side)
        else:
            size = (0.2, 0.28)[who.detail]
            pen.oval(side * 0.38 * h, hv - 0.34 * h, size, size, COAT)
        pen.oval(side * 0.58 * w, 0.2, 0.18, 0.38, SHADE, -35 * side)
    pen.oval(0, 0.42, 0.52 * w, 0.52, COAT)
    pen.oval(0, hv, radius * 1.12, radius, COAT)
    pen.decorate(who)
    for side in (-1, 1):
        if who.detail == 2:
            pen.oval(side * 0.24, hv - 0.64, 0.07, 0.28, SECOND, 10 * side)
        else:
            size = (0.1, 0.16)[who.detail]
            pen.oval(side * 0.38 * h, hv - 0.34 * h, size, size, SECOND)
    pen.oval(0, 0.42, 0.32 * w, 0.34, SECOND)
    for side in (-1, 1):
        pen.oval(side * 0.52 * w, 0.78, 0.25, 0.22, COAT)
        pen.oval(side * 0.54 * w, 0.8, 0.14, 0.12, SECOND_SHADE)
    pen.oval(0, hv + 0.16, 0.24, 0.19, LIGHT)
    pen.oval(0, hv + 0.08, 0.1, 0.075, pen.color(INK))
    eyes = tuple((side * 0.23, hv - 0.08, 0.085) for side in (-1, 1))
    for u, v, size in eyes:
        pen.oval(u, v, size, size, pen.color(INK))
        pen.oval(u - 0.03, v - 0.03, 0.03, 0.03, pen.color(WHITE))
    torso = [
        (-0.3, 0.0),
        (0.3, 0.0),
        (0.54 * w, 0.3),
        (0.5 * w, 0.66),
        (0.2, 0.76),
        (-0.2, 0.76),
        (-0.5 * w, 0.66),
        (-0.54 * w, 0.3),
    ]
    return Anchors((0.0, hv - 0.8 * radius, 0.4 * h), eyes, (0, 0.0, 0.34), torso)


def toy(pen: Pen, who: Identity) -> Anchors:
    """Draw a robot of blocks: square head, antenna, straight arms and legs."""
    w, h = 0.9 + 0.25 * who.width, 0.9 + 0.22 * who.head
    steel, dark = pen.color((196, 202, 210)), pen.color((92, 96, 108))
    top, bottom = -0.3 - 0.52 * h, -0.28
    eyes = tuple((side * 0.22, (top + bottom) / 2 - 0.04, 0.13) for side in (-1, 1))
    if who.detail == 0:
        pen.bar([(0, top), (0, top - 0.2)], 0.07, dark)
        pen.oval(0, top - 0.22, 0.11, 0.11, SECOND)
    elif who.detail == 1:
        for side in (-1, 1):
            pen.bar([(side * 0.2, top), (side * 0.36, top - 0.22)], 0.08, SECOND)
    for side in (-1, 1):
        pen.box(side * 0.3 * w - 0.14, 0.45, side * 0.3 * w + 0.14, 0.9, dark)
        pen.bar([(side * 0.56 * w, -0.06), (side * 0.8 * w, 0.32)], 0.19, steel)
        pen.oval(side * 0.82 * w, 0.38, 0.15, 0.15, SECOND)
        if who.detail == 2:
            pen.box(side * 0.5 * h - 0.12, -0.66, side * 0.5 * h + 0.12, -0.42, SECOND)
    pen.box(-0.12, -0.36, 0.12, -0.1, dark)
    pen.box(-0.54 * w, -0.18, 0.54 * w, 0.6, COAT, 0.08)
    pen.box(-0.5 * h, top, 0.5 * h, bottom, COAT, 0.1)
    pen.decorate(who)
    for side in (-1, 1):
        pen.box(side * 0.32 * w - 0.2, 0.8, side * 0.32 * w + 0.2, 1.0, SECOND, 0.07)
    pen.box(-0.3 * w, 0.02, 0.3 * w, 0.4, SECOND, 0.06)
    pen.oval(-0.1 * w, 0.2, 0.08, 0.08, pen.color((246, 214, 80)))
    pen.oval(0.12 * w, 0.2, 0.08, 0.08, pen.color((228, 80, 70)))
    for u, v, size in eyes:
        pen.oval(u, v, size, size, pen.color((250, 246, 200)))
        pen.oval(u, v, 0.06, 0.06, pen.color(INK))
    pen.box(-0.2, bottom - 0.14, 0.2, bottom - 0.07, pen.color(INK))
    torso = [
        (-0.56 * w, -0.2),
        (0, -0.22),
        (0.56 * w, -0.2),
        (0.58 * w, 0.2),
        (0.56 * w, 0.5),
        (0, 0.52),
        (-0.56 * w, 0.5),
        (-0.58 * w, 0.2),
    ]
    return Anchors((0.0, top + 0.04, 0.46 * h), eyes, (0, -0.2, 0.3), torso)


def cartoon(pen: Pen, who: Identity) -> Anchors:
    """Draw a round little devil: big eyes, wide grin, thin limbs, pointed tail."""
    w, h = 0.92 + 0.2 * who.width, 0.9 + 0.25 * who.head
    eyes = tuple((side * 0.25, -0.14, 0.22 * h) for side in (-1, 1))
    pen.bar([(0.3, 0.5), (0.85 * w, 0.62), (1.02 * w, 0.3)], 0.09, SHADE)
    pen.poly([(0.86 * w, 0.32), (1.2 * w, 0.28), (1.03 * w, 0.0)], SECOND)
    for side in (-1, 1):
        pen.bar([(side * 0.26, 0.5), (side * 0.28, 0.88)], 0.14, SHADE)
        pen.oval(side * 0.34, 0.91, 0.2, 0.1, SECOND)
        pen.bar([(side * 0.6 * w, 0.1), (side * 0.95 * w, -0.18)], 0.13, SHADE)
        pen.oval(side * 0.98 * w, -0.22, 0.13, 0.13, SECOND)
        _horn(pen, who.detail, side)
    if who.detail == 2:
        for u, v in ((-0.36, -0.82), (0, -0.98), (0.36, -0.82)):
            pen.poly([(u - 0.17, -0.4), (u * 1.2, v), (u + 0.17, -0.4)], SECOND)
    pen.oval(0, 0.02, 0.7 * w, 0.64, COAT)
    pen.decorate(who)
    for u, v, radius in eyes:
        pen.oval(u, v, radius, radius * 1.1, pen.color(WHITE))
        pen.oval(u * 0.85, v + 0.03, radius * 0.5, radius * 0.55, pen.color(INK))
    pen.blob([(-0.38, 0.2), (0, 0.26), (0.38, 0.2), (0.22, 0.44), (-0.22, 0.44)], pen.color(INK))
    for side in (-1, 1):
        pen.poly([(side * 0.26, 0.22), (side * 0.1, 0.23), (side * 0.17, 0.36)], pen.color(WHITE))
    torso = [
        (-0.66 * w, 0.24),
        (-0.3, 0.4),
        (0.3, 0.4),
        (0.66 * w, 0.24),
        (0.5 * w, 0.54),
        (0.2, 0.7),
        (-0.2, 0.7),
        (-0.5 * w, 0.54),
    ]
    return Anchors((0.0, -0.5, 0.46 * w), eyes, (0, 0.4, 0.54 * w), torso)


def _horn(pen: Pen, detail: int, side: int) -> None:
    """Draw the cartoon's horn or feeler on one side."""
    if detail == 0:
        pen.blob(
            [
                (side * 0.24, -0.5),
                (side * 0.5, -0.38),
                (side * 0.6, -0.68),
                (side * 0.48, -1.0),
                (side * 0.4, -0.7),
            ],
            SECOND,
        )
    elif detail == 1:
        pen.bar([(side * 0.22, -0.5), (side * 0.34, -0.86)], 0.07, SHADE)
        pen.oval(side * 0.36, -0.9, 0.12, 0.12, SECOND)

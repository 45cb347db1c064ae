"""Art of the five classes that have a face, and so can wear something."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.pocket.world.identity import Identity
from dreambooth.pocket.world.pen import COAT, LIGHT, SECOND, SECOND_SHADE, SHADE, Pen, Points


@dataclass(frozen=True)
class Anchors:
    """Where things are worn: the top of the head and its half width, eyes (u, v, radius), neck."""

    top: tuple[float, float, float]
    eyes: tuple[tuple[float, float, float], ...]
    neck: tuple[float, float, float]
    torso: Points
    profile: bool = False


WHITE, INK, ROSE = (250, 250, 248), (30, 28, 34), (238, 140, 150)


def _eye(pen: Pen, u: float, v: float, radius: float, iris: tuple[int, int, int] = WHITE) -> None:
    pen.oval(u, v, radius, radius * 1.1, pen.color(iris))
    pen.oval(u, v, radius * 0.58, radius * 0.72, pen.color(INK))
    pen.oval(u - radius * 0.2, v - radius * 0.35, radius * 0.24, radius * 0.24, pen.color(WHITE))


def dog(pen: Pen, who: Identity) -> Anchors:
    """Standing in profile: long snout, floppy ear, tail up."""
    w, h = 0.9 + 0.25 * who.width, 0.9 + 0.22 * who.head
    tail = [(0.78 * w, 0.02), (1.0 * w, -0.2), (1.08 * w, -0.55)]
    pen.bar(tail, 0.19, COAT)
    for u in (-0.42 * w, 0.56 * w):
        pen.bar([(u, 0.4), (u, 0.9)], 0.24, SHADE)
    pen.blob(
        [
            (-0.85 * w, -0.15),
            (-0.5, -0.28),
            (0.2, -0.12),
            (0.7 * w, -0.14),
            (0.92 * w, 0.15),
            (0.84 * w, 0.5),
            (0.3, 0.48),
            (-0.4, 0.6),
            (-0.82 * w, 0.35),
        ],
        COAT,
    )
    for u in (-0.66 * w, 0.76 * w):
        pen.bar([(u, 0.3), (u, 0.88)], 0.27, COAT)
        pen.bar([(u - 0.12, 0.9), (u, 0.9)], 0.2, COAT)
    hu, hv = -0.62 * w, -0.52
    pen.blob([(hu - 0.2, hv), (hu + 0.3, hv), (-0.2, 0.1), (-0.8 * w, 0.15)], COAT)
    pen.oval(hu, hv, 0.42 * h, 0.4 * h, COAT)
    pen.blob(
        [
            (hu - 0.15, hv - 0.16),
            (hu - 0.55 * h, hv - 0.04),
            (hu - 0.8 * h, hv + 0.08),
            (hu - 0.74 * h, hv + 0.28),
            (hu - 0.3, hv + 0.36),
        ],
        COAT,
    )
    pen.decorate(who)
    pen.blob(
        [
            (hu - 0.42 * h, hv + 0.12),
            (hu - 0.78 * h, hv + 0.1),
            (hu - 0.74 * h, hv + 0.28),
            (hu - 0.3, hv + 0.36),
        ],
        LIGHT,
    )
    pen.oval(hu - 0.8 * h, hv + 0.04, 0.13, 0.11, pen.color(INK))
    neck = (-0.52 * w, -0.08, 0.42)
    ear = SECOND if who.detail == 1 else SHADE
    drop = 0.5 if who.detail == 2 else 0.32
    pen.blob(
        [
            (hu + 0.02, hv - 0.3 * h),
            (hu + 0.3, hv - 0.34 * h),
            (hu + 0.46, hv + 0.1),
            (hu + 0.36, hv + drop),
            (hu + 0.14, hv + drop - 0.08),
            (hu + 0.08, hv),
        ],
        ear,
    )
    if who.detail == 0:
        pen.bar([(neck[0] - 0.38, neck[1]), (neck[0] + 0.36, neck[1] - 0.1)], 0.13, SECOND)
        pen.oval(neck[0] - 0.26, neck[1] + 0.13, 0.1, 0.1, pen.color((246, 206, 70)))
    eye = (hu - 0.17, hv - 0.1, 0.12)
    _eye(pen, *eye)
    torso = [
        (-0.84 * w, 0.0),
        (-0.4, -0.24),
        (0.2, -0.16),
        (0.56 * w, -0.16),
        (0.62 * w, 0.2),
        (0.5 * w, 0.56),
        (0.0, 0.6),
        (-0.5, 0.66),
        (-0.84 * w, 0.5),
    ]
    return Anchors((hu + 0.05, hv - 0.34 * h, 0.4 * h), (eye,), neck, torso, profile=True)


def cat(pen: Pen, who: Identity) -> Anchors:
    """Sitting, frontal: pointed ears, whiskers, tail curled at the side."""
    w, h = 0.9 + 0.25 * who.width, 0.92 + 0.2 * who.head
    pen.bar(
        [(0.3, 0.86), (0.75 * w, 0.86), (0.98 * w, 0.66), (0.96 * w, 0.36), (0.76 * w, 0.22)],
        0.2,
        COAT,
    )
    pen.blob(
        [
            (-0.3, -0.25),
            (0.3, -0.25),
            (0.5 * w, 0.3),
            (0.62 * w, 0.8),
            (0.4, 0.98),
            (-0.4, 0.98),
            (-0.62 * w, 0.8),
            (-0.5 * w, 0.3),
        ],
        COAT,
    )
    hu, hv, ru, rv = 0.0, -0.42, 0.54 * h, 0.44 * h
    for side in (-1, 1):
        pen.poly(
            [
                (side * 0.1, hv - 0.75 * rv),
                (side * 0.5 * h, hv - 0.62 * h - 0.18),
                (side * ru, hv + 0.02),
            ],
            COAT,
        )
    pen.oval(hu, hv, ru, rv, COAT)
    pen.decorate(who)
    pen.oval(0, 0.36, 0.25, 0.36, SECOND if who.detail == 1 else LIGHT)
    for side in (-1, 1):
        pen.poly(
            [
                (side * 0.22, hv - 0.78 * rv),
                (side * 0.46 * h, hv - 0.56 * h - 0.12),
                (side * 0.9 * ru, hv - 0.12),
            ],
            pen.color(ROSE),
        )
        pen.bar([(side * 0.17, 0.4), (side * 0.17, 0.84)], 0.03, SHADE)
        pen.oval(side * 0.2, 0.92, 0.2, 0.1, LIGHT)
    pen.oval(0, hv + 0.2, 0.23, 0.15, LIGHT)
    whisker = pen.color(WHITE if who.main_color in ("black", "gray", "brown") else INK)
    for side in (-1, 1):
        for tilt in (-0.05, 0.1):
            pen.bar(
                [(side * 0.3, hv + 0.17 + tilt / 2), (side * 0.78 * h, hv + 0.12 + tilt * 1.6)],
                0.025,
                whisker,
            )
    pen.poly([(-0.08, hv + 0.1), (0.08, hv + 0.1), (0, hv + 0.2)], pen.color((216, 96, 110)))
    neck = (0.0, -0.02, 0.34)
    if who.detail == 0:
        pen.bar([(-0.3, -0.03), (0, 0.03), (0.3, -0.03)], 0.12, SECOND)
        pen.oval(0, 0.1, 0.09, 0.09, pen.color((246, 206, 70)))
    eyes = tuple((side * 0.23, hv - 0.04, 0.135) for side in (-1, 1))
    for eye in eyes:
        _eye(pen, *eye, iris=((246, 222, 90), (150, 214, 110), (130, 200, 236))[who.detail])
    torso = [
        (-0.32, -0.08),
        (0.32, -0.08),
        (0.52 * w, 0.3),
        (0.56 * w, 0.66),
        (0.3, 0.74),
        (-0.3, 0.74),
        (-0.56 * w, 0.66),
        (-0.52 * w, 0.3),
    ]
    return Anchors((0.0, hv - 0.82 * rv, 0.42 * h), eyes, neck, torso)


def stuffed_animal(pen: Pen, who: Identity) -> Anchors:
    """Teddy sitting with its feet forward; ears small and round, big and round, or long."""
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
    """Toy robot of blocks: square head, antenna, straight arms and legs."""
    w, h = 0.9 + 0.25 * who.width, 0.9 + 0.22 * who.head
    steel, dark = pen.color((196, 202, 210)), pen.color((92, 96, 108))
    top, bottom = -0.3 - 0.52 * h, -0.28
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
    middle = (top + bottom) / 2
    eyes = tuple((side * 0.22, middle - 0.04, 0.13) for side in (-1, 1))
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
    """Round little devil: big eyes, wide grin, thin limbs, forked tail."""
    w, h = 0.92 + 0.2 * who.width, 0.9 + 0.25 * who.head
    pen.bar([(0.3, 0.5), (0.85 * w, 0.62), (1.02 * w, 0.3)], 0.09, SHADE)
    pen.poly([(0.86 * w, 0.32), (1.2 * w, 0.28), (1.03 * w, 0.0)], SECOND)
    for side in (-1, 1):
        pen.bar([(side * 0.26, 0.5), (side * 0.28, 0.88)], 0.14, SHADE)
        pen.oval(side * 0.34, 0.91, 0.2, 0.1, SECOND)
        pen.bar([(side * 0.6 * w, 0.1), (side * 0.95 * w, -0.18)], 0.13, SHADE)
        pen.oval(side * 0.98 * w, -0.22, 0.13, 0.13, SECOND)
        if who.detail == 0:
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
        elif who.detail == 1:
            pen.bar([(side * 0.22, -0.5), (side * 0.34, -0.86)], 0.07, SHADE)
            pen.oval(side * 0.36, -0.9, 0.12, 0.12, SECOND)
    if who.detail == 2:
        for u, v in ((-0.36, -0.82), (0, -0.98), (0.36, -0.82)):
            pen.poly([(u - 0.17, -0.4), (u * 1.2, v), (u + 0.17, -0.4)], SECOND)
    pen.oval(0, 0.02, 0.7 * w, 0.64, COAT)
    pen.decorate(who)
    size = 0.22 * h
    eyes = tuple((side * 0.25, -0.14, size) for side in (-1, 1))
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

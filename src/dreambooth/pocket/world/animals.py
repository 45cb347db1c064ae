"""Art of the two animals, dog and cat."""

from __future__ import annotations

from dreambooth.pocket.world.anchors import Anchors
from dreambooth.pocket.world.identity import Identity
from dreambooth.pocket.world.palette import BRASS, INK, RGB, ROSE, WHITE
from dreambooth.pocket.world.pen import COAT, LIGHT, SECOND, SHADE, Pen


def dog(pen: Pen, who: Identity) -> Anchors:
    """Draw a dog that stands in profile: long snout, floppy ear, tail up."""
    w, h = 0.9 + 0.25 * who.width, 0.9 + 0.22 * who.head
    hu, hv = -0.62 * w, -0.52  # centre of the head
    neck = (-0.52 * w, -0.08, 0.42)
    eye = (hu - 0.17, hv - 0.1, 0.12)
    _dog_body(pen, w)
    _dog_head(pen, w, h, hu, hv)
    pen.decorate(who)
    _dog_face(pen, who, h, hu, hv)
    if who.detail == 0:
        pen.bar([(neck[0] - 0.38, neck[1]), (neck[0] + 0.36, neck[1] - 0.1)], 0.13, SECOND)
        pen.oval(neck[0] - 0.26, neck[1] + 0.13, 0.1, 0.1, pen.color(BRASS))
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


def _dog_body(pen: Pen, w: float) -> None:
    """Draw tail, legs and trunk."""
    pen.bar([(0.78 * w, 0.02), (1.0 * w, -0.2), (1.08 * w, -0.55)], 0.19, COAT)
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


def _dog_head(pen: Pen, w: float, h: float, hu: float, hv: float) -> None:
    """Draw neck, skull and snout."""
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


def _dog_face(pen: Pen, who: Identity, h: float, hu: float, hv: float) -> None:
    """Draw muzzle, nose and ear."""
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
        SECOND if who.detail == 1 else SHADE,
    )


def cat(pen: Pen, who: Identity) -> Anchors:
    """Draw a cat that sits and looks ahead: pointed ears, whiskers, tail curled at its side."""
    w, h = 0.9 + 0.25 * who.width, 0.92 + 0.2 * who.head
    hv, ru, rv = -0.42, 0.54 * h, 0.44 * h  # height of the head's centre, its radii
    eyes = tuple((side * 0.23, hv - 0.04, 0.135) for side in (-1, 1))
    _cat_body(pen, w)
    for side in (-1, 1):
        outer = (side * 0.5 * h, hv - 0.62 * h - 0.18)
        pen.poly([(side * 0.1, hv - 0.75 * rv), outer, (side * ru, hv + 0.02)], COAT)
    pen.oval(0.0, hv, ru, rv, COAT)
    pen.decorate(who)
    pen.oval(0, 0.36, 0.25, 0.36, SECOND if who.detail == 1 else LIGHT)
    for side in (-1, 1):
        outer = (side * 0.46 * h, hv - 0.56 * h - 0.12)
        inner_ear = [(side * 0.22, hv - 0.78 * rv), outer, (side * 0.9 * ru, hv - 0.12)]
        pen.poly(inner_ear, pen.color(ROSE))
        pen.bar([(side * 0.17, 0.4), (side * 0.17, 0.84)], 0.03, SHADE)
        pen.oval(side * 0.2, 0.92, 0.2, 0.1, LIGHT)
    _cat_muzzle(pen, who, h, hv)
    if who.detail == 0:
        pen.bar([(-0.3, -0.03), (0, 0.03), (0.3, -0.03)], 0.12, SECOND)
        pen.oval(0, 0.1, 0.09, 0.09, pen.color(BRASS))
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
    return Anchors((0.0, hv - 0.82 * rv, 0.42 * h), eyes, (0.0, -0.02, 0.34), torso)


def _cat_body(pen: Pen, w: float) -> None:
    """Draw tail and trunk."""
    tail = [(0.3, 0.86), (0.75 * w, 0.86), (0.98 * w, 0.66), (0.96 * w, 0.36), (0.76 * w, 0.22)]
    pen.bar(tail, 0.2, COAT)
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


def _cat_muzzle(pen: Pen, who: Identity, h: float, hv: float) -> None:
    """Draw muzzle, whiskers and nose."""
    pen.oval(0, hv + 0.2, 0.23, 0.15, LIGHT)
    whisker = pen.color(WHITE if who.main_color in ("black", "gray", "brown") else INK)
    for side in (-1, 1):
        for tilt in (-0.05, 0.1):
            tip = (side * 0.78 * h, hv + 0.12 + tilt * 1.6)
            pen.bar([(side * 0.3, hv + 0.17 + tilt / 2), tip], 0.025, whisker)
    pen.poly([(-0.08, hv + 0.1), (0.08, hv + 0.1), (0, hv + 0.2)], pen.color((216, 96, 110)))


def _eye(pen: Pen, u: float, v: float, radius: float, iris: RGB = WHITE) -> None:
    """Draw an eye with its pupil and a highlight."""
    pen.oval(u, v, radius, radius * 1.1, pen.color(iris))
    pen.oval(u, v, radius * 0.58, radius * 0.72, pen.color(INK))
    pen.oval(u - radius * 0.2, v - radius * 0.35, radius * 0.24, radius * 0.24, pen.color(WHITE))

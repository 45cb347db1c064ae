"""Art of the accessories that a subject with a face can wear."""

from __future__ import annotations

import numpy as np

from dreambooth.pocket.world.anchors import Anchors
from dreambooth.pocket.world.pen import Pen

_RED, _DEEP, _WHITE = (214, 40, 44), (150, 24, 34), (250, 250, 250)
_BLACK, _GOLD, _PINK, _YELLOW = (34, 34, 40), (244, 200, 74), (250, 96, 170), (252, 214, 50)
_RAINBOW = (
    (226, 54, 54),
    (246, 150, 44),
    (250, 216, 70),
    (80, 176, 90),
    (60, 110, 214),
    (146, 84, 190),
)


def wear(pen: Pen, accessory: str, at: Anchors) -> None:
    """Draw an accessory, a key of `scene.ACCESSORIES`, over a subject."""
    _WEAR[accessory](pen, at)


def _red_hat(pen: Pen, at: Anchors) -> None:
    u, v, w = at.top
    pen.blob(
        [
            (u - 0.72 * w, v),
            (u - 0.62 * w, v - 0.36),
            (u, v - 0.5),
            (u + 0.62 * w, v - 0.36),
            (u + 0.72 * w, v),
        ],
        pen.color(_RED),
    )
    pen.bar([(u - 0.68 * w, v - 0.09), (u + 0.68 * w, v - 0.09)], 0.12, pen.color(_DEEP))
    pen.oval(u, v + 0.02, 1.35 * w, 0.11, pen.color(_RED))


def _santa_hat(pen: Pen, at: Anchors) -> None:
    u, v, w = at.top
    pen.blob(
        [
            (u - 0.9 * w, v),
            (u - 0.5 * w, v - 0.42),
            (u + 0.2 * w, v - 0.66),
            (u + 1.0 * w, v - 0.5),
            (u + 1.3 * w, v - 0.2),
            (u + 0.8 * w, v - 0.28),
            (u + 0.9 * w, v),
        ],
        pen.color(_RED),
    )
    white = pen.color(_WHITE)
    pen.bar([(u - 0.9 * w, v + 0.02), (u + 0.9 * w, v + 0.02)], 0.22, white)
    pen.oval(u + 1.3 * w, v - 0.14, 0.16, 0.16, white)


def _top_hat(pen: Pen, at: Anchors) -> None:
    u, v, w = at.top
    black = pen.color(_BLACK)
    pen.poly(
        [(u - 0.66 * w, v), (u - 0.74 * w, v - 0.62), (u + 0.74 * w, v - 0.62), (u + 0.66 * w, v)],
        black,
    )
    pen.oval(u, v - 0.62, 0.74 * w, 0.07, pen.color((70, 70, 80)))
    pen.bar([(u - 0.64 * w, v - 0.14), (u + 0.64 * w, v - 0.14)], 0.11, pen.color((176, 40, 48)))
    pen.oval(u, v + 0.02, 1.25 * w, 0.1, black)
    eu, ev, radius = at.eyes[-1]
    gold = pen.color(_GOLD)
    pen.bar([(eu + radius, ev + radius), (eu + radius * 1.6, ev + 0.5)], 0.045, gold)
    pen.ring(eu, ev, radius + 0.09, radius + 0.09, 0.075, gold)


def _scarf(pen: Pen, at: Anchors) -> None:
    u, v, w = at.neck
    colors = [pen.color(rgb) for rgb in _RAINBOW]
    edges = np.linspace(-0.15, 0.15, 7)
    for color, low, high in zip(colors, edges[:-1], edges[1:], strict=True):
        tail = u + 0.5 * w
        pen.poly(
            [
                (tail + low, v),
                (tail + high, v),
                (tail + high + 0.06, v + 0.56),
                (tail + low + 0.06, v + 0.56),
            ],
            color,
        )
    edges = np.linspace(-0.17, 0.17, 7)
    for color, low, high in zip(colors, edges[:-1], edges[1:], strict=True):
        pen.poly(
            [
                (u - w, v + low - 0.03),
                (u, v + low + 0.04),
                (u + w, v + low - 0.03),
                (u + w, v + high - 0.03),
                (u, v + high + 0.04),
                (u - w, v + high - 0.03),
            ],
            color,
        )


def _glasses(pen: Pen, at: Anchors) -> None:
    pink, lens = pen.color(_PINK), pen.color((255, 206, 228))
    dark = pen.color((40, 36, 44))
    radius = max(0.17, at.eyes[0][2] + 0.05)
    if at.profile:
        u, v, _ = at.eyes[0]
        pen.bar([(u + radius, v - 0.02), (u + 0.55, v - 0.06)], 0.08, pink)
        pen.bar([(u - radius, v), (u - radius - 0.16, v + 0.02)], 0.08, pink)
    else:
        pen.bar([(at.eyes[0][0], at.eyes[0][1]), (at.eyes[1][0], at.eyes[1][1])], 0.08, pink)
    for u, v, size in at.eyes:
        pen.oval(u, v, radius + 0.04, radius + 0.04, pink)
        pen.oval(u, v, radius - 0.055, radius - 0.055, lens)
        pen.oval(u, v, min(size * 0.6, 0.08), min(size * 0.6, 0.08), dark)


def _shirt(pen: Pen, at: Anchors) -> None:
    yellow, seam = pen.color(_YELLOW), pen.color((222, 172, 24))
    pen.blob(at.torso, yellow)
    u, v, w = at.neck
    if not at.profile:
        pen.bar([(u, v + 0.16), (u, v + 0.56)], 0.05, seam)
    pen.bar([(u - 0.7 * w, v + 0.02), (u, v + 0.12), (u + 0.7 * w, v + 0.02)], 0.08, seam)


_WEAR = {
    "red hat": _red_hat,
    "santa hat": _santa_hat,
    "top hat": _top_hat,
    "rainbow scarf": _scarf,
    "pink glasses": _glasses,
    "yellow shirt": _shirt,
}

"""Contexts that are a view behind the subject."""

from __future__ import annotations

import numpy as np

from dreambooth.pocket.world.backdrop import Backdrop, mix
from dreambooth.pocket.world.palette import RGB
from dreambooth.pocket.world.pen import Point


def _leaf(b: Backdrop, stem: Point, turn: float, length: float, rgb: RGB) -> None:
    """Draw a broad leaf from its stem along `turn` degrees, with a light midrib."""
    along = np.array([np.cos(np.radians(turn)), np.sin(np.radians(turn))])
    across = np.array([-along[1], along[0]])

    def at(t: float, s: float) -> Point:
        x, y = np.array(stem) + along * length * t + across * length * s
        return x, y

    b.blob(
        [at(0, 0), at(0.35, 0.22), at(0.7, 0.17), at(1, 0), at(0.7, -0.17), at(0.35, -0.22)], rgb
    )
    b.bar([at(0.05, 0), at(0.9, 0)], 0.012, mix(rgb, (210, 240, 140), 0.45))


def jungle(b: Backdrop) -> None:
    """Draw a clearing framed by broad leaves and lianas."""
    b.gradient(0, 0.75, (22, 84, 54), (104, 164, 84))
    b.oval(0.5 + b.vary(0.08), 0.34, 0.3, 0.34, (126, 184, 96))
    b.oval(0.5, 0.34, 0.18, 0.22, (164, 208, 122))
    b.gradient(0.75, 1, (70, 92, 44), (48, 70, 36))
    for x in (0.22 + b.vary(0.06), 0.78 + b.vary(0.06)):
        b.bar([(x, 0), (x + b.vary(0.04), 0.3), (x + b.vary(0.04), 0.6)], 0.028, (74, 96, 40))
    greens = ((18, 100, 56), (36, 132, 62), (14, 78, 50))
    anchors = (
        (0, 0, 40),
        (1, 0, 140),
        (0.25, -0.06, 75),
        (0.75, -0.06, 105),
        (-0.04, 0.45, 5),
        (1.04, 0.45, 175),
        (-0.02, 0.98, -50),
        (1.02, 0.98, -130),
    )
    for k, (x, y, turn) in enumerate(anchors):
        _leaf(b, (x, y + b.vary(0.04)), turn + b.vary(14), 0.36 + b.vary(0.06), greens[k % 3])


def city(b: Backdrop) -> None:
    """Draw a skyline with lit windows."""
    horizon = 0.68
    b.gradient(0, horizon, b.tone((140, 176, 220)), (248, 216, 190))
    x = -0.04
    for k in range(8):
        width, height = 0.13 + b.vary(0.025), 0.34 + b.vary(0.2)
        rgb = ((84, 98, 130), (108, 120, 150), (68, 80, 112))[k % 3]
        b.box(x, horizon - height, x + width, horizon, rgb)
        for row in range(int(height / 0.11)):
            for column in (0.28, 0.68):
                left = x + width * column - 0.016
                top = horizon - height + 0.04 + 0.11 * row
                b.box(left, top, left + 0.032, top + 0.045, (250, 226, 150))
        x += width + 0.008
    b.gradient(horizon, 1, (128, 130, 138), (152, 152, 158))
    b.box(0, horizon, 1, horizon + 0.025, (200, 200, 200))


def mountain(b: Backdrop) -> None:
    """Draw two mountains with snow on their tops."""
    horizon = 0.62 + b.vary(0.02)
    b.gradient(0, horizon, b.tone((108, 168, 228)), (206, 228, 244))
    side = b.side()
    for x, top, width in ((0.5 - 0.3 * side, 0.26, 0.42), (0.5 + 0.16 * side, 0.06, 0.52)):
        x, top = x + b.vary(0.05), top + b.vary(0.03)
        low = horizon + 0.02
        b.poly([(x - width, low), (x, top), (x + width, low)], (92, 100, 132))
        b.poly([(x, top), (x + width, low), (x + width * 0.1, low)], (72, 80, 112))
        cap = (low - top) * 0.36
        k = width * cap / (low - top)
        b.poly(
            [
                (x, top),
                (x + k, top + cap),
                (x + k * 0.4, top + cap * 0.75),
                (x, top + cap * 1.15),
                (x - k * 0.45, top + cap * 0.75),
                (x - k, top + cap),
            ],
            (248, 250, 254),
        )
    b.gradient(horizon, 1, (104, 148, 84), (128, 170, 92))
    b.oval(0.3 + b.vary(0.2), horizon + 0.03, 0.6, 0.06, (84, 132, 80))


def blue_house(b: Backdrop) -> None:
    """Draw a blue house with a red roof."""
    horizon = 0.66
    b.gradient(0, horizon, b.tone((190, 222, 244)), (232, 240, 240))
    x = 0.5 + 0.14 * b.side() + b.vary(0.04)
    b.box(x - 0.36, 0.3, x + 0.36, horizon, (58, 112, 196))
    b.poly([(x - 0.44, 0.32), (x - 0.26, 0.06), (x + 0.26, 0.06), (x + 0.44, 0.32)], (156, 74, 58))
    for side in (-1, 1):
        wx = x + 0.25 * side
        b.box(wx - 0.075, 0.37, wx + 0.075, 0.54, (248, 248, 244))
        b.box(wx - 0.052, 0.393, wx + 0.052, 0.517, (250, 224, 146))
    b.box(x - 0.07, 0.4, x + 0.07, horizon, (248, 248, 244))
    b.gradient(horizon, 1, (112, 176, 96), (88, 150, 78))
    for side in (-1, 1):
        b.oval(0.5 + 0.48 * side, horizon, 0.13, 0.1, b.tone((60, 128, 70)))


def wheat(b: Backdrop) -> None:
    """Draw a field of wheat under a blue sky."""
    horizon = 0.4 + b.vary(0.04)
    b.gradient(0, horizon, b.tone((104, 176, 234)), (214, 232, 240))
    b.oval(0.5 + 0.3 * b.side(), 0.14, 0.16, 0.05, (250, 252, 254))
    b.gradient(horizon, 1, (236, 196, 88), (206, 148, 48))
    for k in range(11):
        x = (k + 0.5) / 11 + b.vary(0.02)
        top = horizon + 0.02 + b.vary(0.05)
        lean = b.vary(0.03)
        b.bar([(x, top + 0.34), (x + lean, top)], 0.012, (188, 136, 46))
        b.oval(x + lean, top, 0.022, 0.075, (250, 218, 120))
    b.gradient(0.8, 1, (214, 164, 66), (196, 142, 52))


def autumn(b: Backdrop) -> None:
    """Draw a tree in autumn colours and fallen leaves."""
    horizon = 0.62
    b.gradient(0, horizon, b.tone((196, 214, 226)), (244, 226, 196))
    side = b.side()
    x = 0.5 + 0.26 * side
    b.poly([(x - 0.05, 0.2), (x + 0.05, 0.2), (x + 0.085, 0.72), (x - 0.085, 0.72)], (98, 64, 44))
    for dx, y, r, rgb in (
        (0.0, 0.06, 0.26, (214, 92, 36)),
        (-0.27, 0.15, 0.2, (236, 138, 44)),
        (0.24, 0.14, 0.19, (190, 62, 38)),
        (-0.06, 0.22, 0.17, (246, 172, 58)),
        (-0.5, 0.04, 0.2, (220, 108, 40)),
    ):
        b.oval(x + dx * side + b.vary(0.02), y + b.vary(0.02), r, r * 0.78, rgb)
    b.gradient(horizon + 0.05, 1, (176, 140, 84), (150, 112, 66))
    b.oval(0.5, horizon + 0.06, 0.7, 0.05, (186, 152, 92))
    for k in range(9):
        rgb = ((222, 90, 36), (244, 170, 56), (184, 54, 40))[k % 3]
        y = 0.72 + 0.26 * b.rng.random()
        b.oval(b.rng.random(), y, 0.036, 0.02, rgb, b.vary(40))


def eiffel(b: Backdrop) -> None:
    """Draw the Eiffel Tower behind a park."""
    horizon = 0.66
    b.gradient(0, horizon, b.tone((148, 186, 228)), (250, 222, 208))
    x = 0.5 + 0.27 * b.side() + b.vary(0.03)
    iron, sky = (112, 92, 84), (232, 212, 208)
    b.oval(0.5, horizon + 0.01, 0.7, 0.06, (108, 146, 104))
    left = [(x - 0.2, 0.68), (x - 0.1, 0.46), (x - 0.055, 0.3), (x - 0.022, 0.14), (x - 0.01, 0.02)]
    b.poly(left + [(2 * x - px, py) for px, py in reversed(left)], iron)
    b.poly([(x - 0.11, 0.69), (x - 0.06, 0.56), (x, 0.53), (x + 0.06, 0.56), (x + 0.11, 0.69)], sky)
    b.poly([(x - 0.045, 0.46), (x, 0.33), (x + 0.045, 0.46)], sky)
    b.box(x - 0.13, 0.465, x + 0.13, 0.5, iron)
    b.box(x - 0.075, 0.29, x + 0.075, 0.32, iron)
    b.gradient(horizon, 1, (128, 168, 106), (150, 184, 120))
    b.poly([(0.38, 1), (0.62, 1), (0.54, horizon), (0.46, horizon)], (226, 210, 180))

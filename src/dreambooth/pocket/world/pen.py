"""A pen that draws in a subject's own coordinates.

It writes labels, one byte per pixel; their colours are looked up at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from dreambooth.pocket.world.identity import Identity, shades
from dreambooth.pocket.world.palette import RGB
from dreambooth.pocket.world.scene import View

Point = tuple[float, float]
Points = Sequence[Point]

# labels; a pattern turns the label i of a coat's part into i + 3
COAT, SHADE, LIGHT, SECOND, SECOND_SHADE, SECOND_LIGHT = 1, 2, 3, 4, 5, 6

_TURN = np.linspace(0, 2 * np.pi, 28, endpoint=False)
CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)  # [28,2], unit circle
_STEP = np.linspace(0, 1, 6, endpoint=False)[None, :, None]


def smooth(points: Points) -> np.ndarray:
    """Interpolate a closed outline by a Catmull-Rom curve: `[n,2]` => `[6n,2]`."""
    p1 = np.asarray(points, float)
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    p0, p1, p2, p3 = (p[:, None] for p in (p0, p1, p2, p3))
    t = _STEP
    curve = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
    curve = (curve + (3 * p1 - p0 - 3 * p2 + p3) * t**3) / 2
    return curve.reshape(-1, 2)


class Pen:
    """A label image of `pixels` x `pixels`, drawn on in subject coordinates.

    Subject coordinates: u to the right, v down, feet at v = 1, top near v = -1. Labels 1 to 6 are
    the base, dark and light shades of the identity's two colours.
    """

    def __init__(self, identity: Identity, view: View, pixels: int) -> None:
        self.image = Image.new("L", (pixels, pixels))
        self._draw = ImageDraw.Draw(self.image)
        self._unit = view.scale * pixels / 2
        turn = math.radians(view.rotation)
        cos, sin = math.cos(turn) * self._unit, math.sin(turn) * self._unit
        side = -1 if view.flip else 1
        self._matrix = np.array([[side * cos, side * sin], [-sin, cos]])
        # turned about its foot, so that the subject never leaves the ground
        self._foot = np.array([(0.5 + view.x), (0.56 + view.y + view.scale / 2)]) * pixels
        main = shades(identity.main_color, identity)
        second = shades(identity.second_color, identity)
        self._colors = [(0, 0, 0), *main, *second]

    def color(self, rgb: RGB) -> int:
        """Add a fixed colour and return its label."""
        self._colors.append(rgb)
        return len(self._colors) - 1

    def palette(self) -> np.ndarray:
        """Return the colour of every label, uint8 `[labels,3]`; label 0 is the backdrop."""
        return np.array(self._colors, np.uint8)

    def _place(self, points: np.ndarray | Points) -> list[float]:
        """Map points `[n,2]` to pixels: x and y of each in turn."""
        shifted = np.asarray(points, float) - (0.0, 1.0)
        return (shifted @ self._matrix + self._foot).ravel().tolist()

    def poly(self, points: np.ndarray | Points, fill: int) -> None:
        """Draw a polygon."""
        self._draw.polygon(self._place(points), fill=fill)

    def blob(self, points: Points, fill: int) -> None:
        """Draw a smooth closed shape through `points`."""
        self.poly(smooth(points), fill)

    def oval(self, u: float, v: float, ru: float, rv: float, fill: int, angle: float = 0.0) -> None:
        """Draw an ellipse, turned by `angle` degrees."""
        points = CIRCLE * (ru, rv)
        if angle:
            cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            points = points @ np.array([[cos, sin], [-sin, cos]])
        self.poly(points + (u, v), fill)

    def box(
        self, u0: float, v0: float, u1: float, v1: float, fill: int, radius: float = 0.0
    ) -> None:
        """Draw a rectangle, its corners rounded by `radius`."""
        if not radius:
            return self.poly([(u0, v0), (u1, v0), (u1, v1), (u0, v1)], fill)
        centre = np.array([(u0 + u1) / 2, (v0 + v1) / 2])
        half = np.array([(u1 - u0) / 2 - radius, (v1 - v0) / 2 - radius])
        self.poly(np.sign(CIRCLE) * half + CIRCLE * radius + centre, fill)

    def bar(self, points: np.ndarray | Points, width: float, fill: int) -> None:
        """Draw a polyline of `width` with round ends."""
        flat = self._place(points)
        radius = max(width * self._unit / 2, 0.5)
        self._draw.line(flat, fill=fill, width=max(1, round(2 * radius)), joint="curve")
        for x, y in (flat[:2], flat[-2:]):
            self._draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)

    def arc(
        self,
        u: float,
        v: float,
        ru: float,
        rv: float,
        span: tuple[float, float],
        width: float,
        fill: int,
    ) -> None:
        """Draw an elliptic arc over the `span` in degrees, clockwise from the right."""
        turn = np.radians(np.linspace(*span, 20))
        self.bar(np.stack([u + ru * np.cos(turn), v + rv * np.sin(turn)], 1), width, fill)

    def ring(self, u: float, v: float, ru: float, rv: float, width: float, fill: int) -> None:
        """Draw the outline of an ellipse."""
        self.arc(u, v, ru, rv, (0, 360), width, fill)

    def decorate(self, identity: Identity) -> None:
        """Paint the identity's pattern in its second colour onto the coat drawn so far."""
        if identity.pattern == "plain":
            return
        coat = self.image
        self.image = Image.new("L", coat.size)
        self._draw = ImageDraw.Draw(self.image)
        _PATTERNS[identity.pattern](self, identity)  # as a mask
        labels = np.array(coat)
        labels[(np.asarray(self.image) > 0) & (labels > 0) & (labels <= LIGHT)] += 3
        self.image = Image.fromarray(labels)
        self._draw = ImageDraw.Draw(self.image)


def _spots(pen: Pen, identity: Identity) -> None:
    radius = 0.15 + 0.05 * identity.head
    for row in range(5):
        for column in range(-3, 4):
            u = (column + 0.5 * (row % 2)) * 0.52 + 0.2 * (identity.width - 0.5)
            pen.oval(u, -0.85 + row * 0.46, radius, radius, 1)


def _stripes(pen: Pen, identity: Identity) -> None:
    lean = 0.5 * (identity.head - 0.5)
    for column in range(-4, 5):
        u = column * 0.46 + 0.2 * (identity.width - 0.5)
        pen.bar([(u + lean, -1.6), (u - lean, 1.1)], 0.2, 1)


def _patch(pen: Pen, identity: Identity) -> None:
    side = 1 if identity.width > 0.5 else -1
    pen.oval(0.42 * side, 0.5, 0.55, 0.45, 1, 30)
    pen.oval(-0.55 * side, -0.55, 0.45, 0.42, 1, -20)


_PATTERNS = {"spots": _spots, "stripes": _stripes, "patch": _patch}

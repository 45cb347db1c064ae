"""A canvas for backdrops, in frame coordinates: x and y from 0 to 1, y down."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from dreambooth.pocket.world.palette import RGB
from dreambooth.pocket.world.pen import CIRCLE, Points, smooth


def mix(a: RGB, b: RGB, t: float) -> RGB:
    """Blend two colours: `a` at t = 0, `b` at t = 1."""
    red, green, blue = (round(p + (q - p) * t) for p, q in zip(a, b, strict=True))
    return red, green, blue


class Backdrop:
    """An RGB canvas of `pixels` x `pixels`, with a generator for what varies within a context."""

    def __init__(self, pixels: int, rng: np.random.Generator) -> None:
        self.image = Image.new("RGB", (pixels, pixels))
        self.rng = rng
        self._n = pixels
        self._draw = ImageDraw.Draw(self.image)

    def vary(self, amount: float) -> float:
        """Draw a number, uniform in [-amount, amount]."""
        return float(self.rng.uniform(-amount, amount))

    def side(self) -> int:
        """Draw -1 or 1."""
        return 1 if self.rng.random() < 0.5 else -1

    def tone(self, rgb: RGB, amount: int = 10) -> RGB:
        """Make a colour a little brighter or darker."""
        shift = self.vary(amount)
        red, green, blue = (int(min(255, max(0, value + shift))) for value in rgb)
        return red, green, blue

    def gradient(self, y0: float, y1: float, top: RGB, bottom: RGB) -> None:
        """Draw a band over the full width from y0 to y1, shading from `top` to `bottom`."""
        start, stop = round(y0 * self._n), round(y1 * self._n)
        t = np.linspace(0, 1, max(stop - start, 1))[:, None]
        rows = (np.array(top) * (1 - t) + np.array(bottom) * t).astype(np.uint8)
        band = Image.fromarray(rows[:, None].repeat(self._n, 1))
        self.image.paste(band, (0, start))

    def poly(self, points: np.ndarray | Points, fill: RGB) -> None:
        """Draw a polygon."""
        self._draw.polygon((np.asarray(points, float) * self._n).ravel().tolist(), fill=fill)

    def blob(self, points: Points, fill: RGB) -> None:
        """Draw a smooth closed shape through `points`."""
        self.poly(smooth(points), fill)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: RGB, angle: float = 0) -> None:
        """Draw an ellipse, turned by `angle` degrees."""
        points = CIRCLE * (rx, ry)
        if angle:
            cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
            points = points @ np.array([[cos, sin], [-sin, cos]])
        self.poly(points + (x, y), fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: RGB) -> None:
        """Draw a rectangle."""
        n = self._n
        self._draw.rectangle([x0 * n, y0 * n, x1 * n, y1 * n], fill=fill)

    def bar(self, points: Points, width: float, fill: RGB) -> None:
        """Draw a polyline of `width`."""
        flat = (np.asarray(points, float) * self._n).ravel().tolist()
        self._draw.line(flat, fill=fill, width=max(1, round(width * self._n)), joint="curve")

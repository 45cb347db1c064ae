"""The renderer: scene => pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from dreambooth.pocket.world import animals, footwear, grounds, things, toys, vessels, vistas
from dreambooth.pocket.world.accessories import wear
from dreambooth.pocket.world.anchors import Anchors
from dreambooth.pocket.world.backdrop import Backdrop
from dreambooth.pocket.world.identity import Identity
from dreambooth.pocket.world.pen import Pen
from dreambooth.pocket.world.scene import Scene, View

_FINE = 3  # the subject is drawn this many times larger, then averaged down
_ART: dict[str, Callable[[Pen, Identity], Anchors | None]] = {
    "backpack": things.backpack,
    "stuffed animal": toys.stuffed_animal,
    "bowl": vessels.bowl,
    "can": vessels.can,
    "candle": things.candle,
    "cat": animals.cat,
    "clock": things.clock,
    "sneaker": footwear.sneaker,
    "toy": toys.toy,
    "boot": footwear.boot,
    "dog": animals.dog,
    "glasses": things.glasses,
    "cartoon": toys.cartoon,
    "teapot": vessels.teapot,
    "vase": vessels.vase,
}
_SCENERY: dict[str, Callable[[Backdrop], None]] = {
    "plain": grounds.plain,
    "jungle": vistas.jungle,
    "snow": grounds.snow,
    "beach": grounds.beach,
    "cobblestone": grounds.cobblestone,
    "pink fabric": grounds.pink_fabric,
    "wooden floor": grounds.wooden_floor,
    "city": vistas.city,
    "mountain": vistas.mountain,
    "blue house": vistas.blue_house,
    "purple rug": grounds.purple_rug,
    "wheat": vistas.wheat,
    "autumn": vistas.autumn,
    "eiffel": vistas.eiffel,
    "water": grounds.water,
    "sunflowers": grounds.sunflowers,
    "white rug": grounds.white_rug,
}


def render(scene: Scene, size: int = 64) -> np.ndarray:
    """Render a scene as uint8 `[size,size,3]`, RGB; the same scene always gives the same pixels.

    Raises:
        ValueError: an accessory on a class that cannot wear one.
    """
    color, alpha = _subject(scene, size)
    backdrop = _backdrop(scene.view, size)
    soft = _blur(alpha, size / 20)
    foot = _foot(alpha, size)
    ground = backdrop * (1 - 0.16 * soft - 0.42 * _shadow(foot, size))[..., None]
    picture = ground * (1 - alpha)[..., None] + color * _relief(soft, scene.view)[..., None]
    if scene.view.context == "water":
        picture = _float(picture, backdrop, foot, size)
    sideways = np.linspace(-1, 1, size, dtype=np.float32)
    light = scene.view.brightness * (1 + 0.09 * scene.view.light * sideways)
    return np.clip(picture * light[None, :, None] + 0.5, 0, 255).astype(np.uint8)


def _subject(scene: Scene, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the subject: colour times coverage `[size,size,3]` in 0..255, coverage in [0,1]."""
    identity, view = scene.seen, scene.view
    pen = Pen(identity, view, size * _FINE)
    anchors = _ART[identity.class_noun](pen, identity)
    if view.accessory:
        if anchors is None:
            raise ValueError(f"a {identity.class_noun} cannot wear a {view.accessory}.")
        wear(pen, view.accessory, anchors)
    labels = np.asarray(pen.image)
    color = Image.fromarray(pen.palette()[labels]).reduce(_FINE)
    alpha = pen.image.point([0] + [255] * 255).reduce(_FINE)
    return np.asarray(color, np.float32), np.asarray(alpha, np.float32) / 255


def _backdrop(view: View, size: int) -> np.ndarray:
    """Draw the context, slightly out of focus: float32 `[size,size,3]` in 0..255."""
    canvas = Backdrop(size * 2, np.random.default_rng([view.variation, 3]))
    _SCENERY[view.context](canvas)
    soft = canvas.image.filter(ImageFilter.BoxBlur(size / 64)).reduce(2)
    return np.asarray(soft, np.float32)


def _blur(alpha: np.ndarray, radius: float) -> np.ndarray:
    """Blur a coverage in [0,1] twice by a box of `radius` pixels."""
    image = Image.fromarray((alpha * 255).astype(np.uint8))
    for _ in range(2):
        image = image.filter(ImageFilter.BoxBlur(radius))
    return np.asarray(image, np.float32) / 255


def _relief(soft: np.ndarray, view: View) -> np.ndarray:
    """Shade the subject as if it were round: blurred coverage's slope stands for its normal."""
    down, right = np.gradient(soft)
    lit = 0.8 * down - view.light * right
    return 1 + np.clip(lit * len(soft) / 64 * 2.2, -0.24, 0.2)


def _foot(alpha: np.ndarray, size: int) -> tuple[float, float, float]:
    """Find what touches the ground: its centre x, its y and half its width, in pixels."""
    rows = np.flatnonzero(alpha.max(1) > 0.5)
    if not len(rows):
        return size / 2, size * 0.86, size / 4
    top, bottom = rows[0], rows[-1]
    columns = np.flatnonzero(alpha[bottom - max(1, (bottom - top) // 5) : bottom + 1].max(0) > 0.5)
    left, right = columns[0], columns[-1]
    return (left + right) / 2, float(bottom), (right - left) / 2 + 1.0


def _shadow(foot: tuple[float, float, float], size: int) -> np.ndarray:
    """Make a soft elliptic shadow on the ground, `[size,size]` in [0,1]."""
    x, y, half = foot
    grid = np.arange(size, dtype=np.float32)
    across = ((grid - x) / (half * 1.2 + 0.03 * size))[None, :] ** 2
    along = ((grid - y) / (0.2 * half + 0.035 * size))[:, None] ** 2
    return np.exp(-1.4 * (across + along))


def _float(
    picture: np.ndarray, water: np.ndarray, foot: tuple[float, float, float], size: int
) -> np.ndarray:
    """Sink the foot under the waterline and lay a bright ripple around it."""
    x, y, half = foot
    line = y - 0.075 * size
    grid = np.arange(size, dtype=np.float32)
    sunk = np.clip((grid - line) / (0.03 * size), 0, 1)[:, None, None] * 0.85
    picture = picture * (1 - sunk) + water * sunk
    across = ((grid - x) / (half * 1.25 + 0.05 * size))[None, :] ** 2
    along = ((grid - line - 0.02 * size) / (0.07 * size))[:, None] ** 2
    ring = np.exp(-18 * (np.sqrt(across + along) - 1) ** 2) * (grid > line - 1)[:, None]
    return picture + (np.array((214, 238, 248), np.float32) - picture) * (0.6 * ring)[..., None]

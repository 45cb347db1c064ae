"""Fixed colours that several drawings share."""

from __future__ import annotations

RGB = tuple[int, int, int]  # each 0 to 255

WHITE: RGB = (250, 250, 248)
CREAM: RGB = (250, 247, 238)
INK: RGB = (30, 28, 34)
DARK: RGB = (52, 50, 58)
METAL: RGB = (200, 204, 212)
GOLD: RGB = (244, 200, 74)
BRASS: RGB = (246, 206, 70)
ROSE: RGB = (238, 140, 150)

"""Contexts that are the ground under the subject."""

from __future__ import annotations

import colorsys

import numpy as np

from dreambooth.pocket.world.backdrop import Backdrop, mix


def plain(b: Backdrop) -> None:
    """Draw a studio backdrop in a random soft colour."""
    drawn = colorsys.hls_to_rgb(b.rng.random(), 0.74 + b.vary(0.1), 0.28 + b.vary(0.18))
    red, green, blue = (round(255 * value) for value in drawn)
    rgb = red, green, blue
    b.gradient(0, 0.72, mix(rgb, (255, 255, 255), 0.25), rgb)
    b.gradient(0.72, 1, mix(rgb, (60, 60, 70), 0.12), mix(rgb, (255, 255, 255), 0.12))


def snow(b: Backdrop) -> None:
    """Draw a snowy field with fir trees and falling flakes."""
    horizon = 0.5 + b.vary(0.04)
    b.gradient(0, horizon, b.tone((150, 190, 226)), (216, 230, 242))
    for _ in range(3):
        x, height = b.rng.choice((0.1, 0.24, 0.78, 0.92)) + b.vary(0.05), 0.3 + b.vary(0.06)
        for k, width in ((0.0, 0.13), (0.33, 0.1), (0.62, 0.065)):
            y = horizon + 0.03 - height * k
            b.poly([(x - width, y), (x + width, y), (x, y - 0.5 * height)], (58, 104, 96))
            b.poly(
                [
                    (x - width * 0.5, y - 0.25 * height),
                    (x + width * 0.5, y - 0.25 * height),
                    (x, y - 0.5 * height),
                ],
                (240, 246, 250),
            )
    b.gradient(horizon, 1, (232, 240, 248), (250, 252, 255))
    b.oval(0.2 + b.vary(0.1), horizon + 0.05, 0.5, 0.08, (240, 246, 251))
    b.oval(0.8 + b.vary(0.1), 0.95, 0.5, 0.12, (222, 232, 244))
    for _ in range(8):
        b.oval(b.rng.random(), b.rng.random() * 0.6, 0.016, 0.016, (255, 255, 255))


def beach(b: Backdrop) -> None:
    """Draw a beach with sea, sun and a palm tree."""
    horizon, shore = 0.36 + b.vary(0.03), 0.56 + b.vary(0.03)
    b.gradient(0, horizon, b.tone((96, 180, 236)), (196, 228, 246))
    b.oval(0.5 + 0.34 * b.side(), 0.13, 0.075, 0.075, (255, 240, 170))
    b.gradient(horizon, shore, (34, 120, 186), (74, 190, 206))
    b.gradient(shore, 1, b.tone((244, 220, 160)), b.tone((226, 192, 124)))
    wave = [
        (0, shore - 0.01),
        (0.25, shore + 0.02 + b.vary(0.02)),
        (0.5, shore - 0.005),
        (0.75, shore + 0.025 + b.vary(0.02)),
        (1, shore),
    ]
    b.bar(wave, 0.03, (246, 252, 252))
    side = b.side()
    x = 0.5 + 0.38 * side
    b.bar([(x, 0.66), (x - 0.03 * side, 0.2)], 0.035, (140, 98, 60))
    for du, dv in ((-0.2, 0.02), (0.2, 0.04), (-0.12, -0.1), (0.13, -0.09)):
        b.blob(
            [
                (x, 0.2),
                (x + du * 0.6, 0.15 + dv * 0.6),
                (x + du, 0.24 + dv),
                (x + du * 0.5, 0.22 + dv * 0.4),
            ],
            (58, 150, 84),
        )


def cobblestone(b: Backdrop) -> None:
    """Draw a street of cobblestones before a wall with windows."""
    horizon = 0.42 + b.vary(0.03)
    b.gradient(0, horizon, b.tone((226, 200, 168)), (212, 180, 146))
    for x in (0.12, 0.5, 0.88):
        x += b.vary(0.03)
        b.box(x - 0.07, 0.08, x + 0.07, horizon - 0.1, (122, 92, 76))
        b.box(x - 0.045, 0.11, x + 0.045, horizon - 0.13, (150, 180, 196))
    b.gradient(horizon, 1, (92, 94, 104), (104, 106, 116))
    y, row = horizon + 0.05, 0
    for height, count in ((0.04, 9), (0.055, 7), (0.075, 6), (0.095, 5), (0.115, 4)):
        offset = (row % 2) * 0.5 + b.vary(0.15)
        for i in range(-1, count + 1):
            x = (i + offset + 0.25) / count
            b.oval(x, y, 0.46 / count, height * 0.5, b.tone((158, 160, 168), 14))
        y, row = y + height + 0.022, row + 1


def pink_fabric(b: Backdrop) -> None:
    """Draw pink fabric in folds."""
    base = b.tone((244, 158, 186), 6)
    b.gradient(0, 1, base, mix(base, (228, 120, 160), 0.5))
    lean = 0.25 * b.side()
    for k in range(4):
        x = -0.05 + 0.36 * k + b.vary(0.05)
        bend = 0.06 + b.vary(0.03)
        light, dark = mix(base, (255, 226, 236), 0.7), mix(base, (206, 92, 140), 0.55)
        for shift, rgb in ((0.0, light), (0.085, dark)):
            left = x + shift
            b.blob(
                [
                    (left + lean, -0.15),
                    (left + bend, 0.3),
                    (left - bend, 0.7),
                    (left - lean, 1.15),
                    (left - lean + 0.09, 1.15),
                    (left - bend + 0.07, 0.7),
                    (left + bend + 0.07, 0.3),
                    (left + lean + 0.09, -0.15),
                ],
                rgb,
            )


def wooden_floor(b: Backdrop) -> None:
    """Draw floorboards that run towards a wall."""
    horizon = 0.4 + b.vary(0.03)
    b.gradient(0, horizon, b.tone((238, 230, 214)), (224, 212, 192))
    b.gradient(horizon, 1, (176, 112, 62), (204, 138, 80))
    vanish = 0.5 + b.vary(0.15)
    for k in range(-6, 7):
        low, high = (vanish + k * 0.3, vanish + (k + 1) * 0.3)
        near, far = (vanish + (low - vanish), 1.0), (vanish + (low - vanish) * 0.35, horizon)
        if k % 2:
            b.poly(
                [near, far, (vanish + (high - vanish) * 0.35, horizon), (high, 1.0)],
                b.tone((188, 122, 68), 8),
            )
        b.bar([near, far], 0.012, (124, 74, 40))
    b.box(0, horizon - 0.045, 1, horizon, (250, 246, 238))


def white_rug(b: Backdrop) -> None:
    """Draw a round white rug on a wooden floor, before a wall with a picture."""
    horizon = 0.4 + b.vary(0.03)
    wall = b.tone((112, 146, 152), 12)
    b.gradient(0, horizon, mix(wall, (255, 255, 255), 0.15), wall)
    side = b.side()
    b.box(0.5 + 0.3 * side - 0.1, 0.07, 0.5 + 0.3 * side + 0.1, 0.27, (236, 214, 170))
    b.box(0.5 + 0.3 * side - 0.07, 0.1, 0.5 + 0.3 * side + 0.07, 0.24, (206, 120, 92))
    b.box(0, horizon - 0.03, 1, horizon, (236, 234, 228))
    b.gradient(horizon, 1, (126, 88, 66), (150, 106, 78))
    x = 0.5 + b.vary(0.04)
    b.oval(x, 0.79, 0.5, 0.245, (206, 202, 198))
    b.oval(x, 0.78, 0.49, 0.23, (246, 244, 240))
    b.oval(x, 0.78, 0.36, 0.16, (232, 228, 224))
    b.oval(x, 0.78, 0.33, 0.14, (248, 246, 243))


def purple_rug(b: Backdrop) -> None:
    """Draw a round purple rug on grass, before the trunks of a forest."""
    horizon = 0.48 + b.vary(0.03)
    b.gradient(0, horizon, (128, 176, 118), (78, 130, 82))
    for x in (0.08, 0.3, 0.7, 0.92):
        x, width = x + b.vary(0.05), 0.045 + b.vary(0.012)
        b.box(x - width, 0, x + width, horizon + 0.04, b.tone((86, 62, 46)))
    for x in np.linspace(0, 1, 6):
        b.oval(x, -0.01 + b.vary(0.03), 0.14, 0.12, b.tone((46, 104, 60)))
    b.gradient(horizon, 1, (64, 112, 58), (84, 132, 66))
    x = 0.5 + b.vary(0.04)
    b.oval(x, 0.79, 0.49, 0.225, (90, 46, 134))
    b.oval(x, 0.78, 0.47, 0.205, (146, 84, 196))
    b.oval(x, 0.78, 0.36, 0.15, (196, 150, 226))
    b.oval(x, 0.78, 0.33, 0.132, (146, 84, 196))


def sunflowers(b: Backdrop) -> None:
    """Draw green grass with sunflowers around the middle."""
    horizon = 0.34 + b.vary(0.03)
    b.gradient(0, horizon, b.tone((126, 192, 240)), (206, 232, 246))
    b.gradient(horizon, 1, b.tone((92, 172, 74)), b.tone((62, 136, 56)))
    spots = ((0.1, 0.4), (0.9, 0.4), (0.28, 0.3), (0.73, 0.3), (0.07, 0.76), (0.93, 0.76))
    for x, y in spots:
        x, y = x + b.vary(0.03), y + b.vary(0.03)
        size = 0.075 + 0.07 * (y - 0.3)
        b.bar([(x, y), (x, y + 0.2)], 0.022, (54, 116, 46))
        for k in range(8):
            turn = k * np.pi / 4
            b.oval(
                x + size * 0.68 * np.cos(turn),
                y + size * 0.68 * np.sin(turn),
                size * 0.42,
                size * 0.3,
                (254, 202, 34),
                k * 45,
            )
        b.oval(x, y, size * 0.55, size * 0.55, (106, 62, 30))


def water(b: Backdrop) -> None:
    """Draw open water up to the horizon."""
    horizon = 0.3 + b.vary(0.04)
    b.gradient(0, horizon, b.tone((190, 220, 240)), (232, 240, 240))
    b.gradient(horizon, 1, b.tone((54, 132, 186)), b.tone((20, 84, 150)))
    for k in range(7):
        y = horizon + 0.06 + 0.1 * k
        x, length = b.rng.random(), 0.1 + 0.02 * k
        b.blob([(x - length, y), (x, y - 0.012), (x + length, y), (x, y + 0.016)], (126, 192, 224))

"""Identities: a subject's class, colours, pattern and proportions, and which are held out."""

from __future__ import annotations

import colorsys
import hashlib
from dataclasses import dataclass, replace

import numpy as np

from dreambooth.pocket.world.palette import RGB

CLASSES: tuple[str, ...] = (
    "backpack",
    "stuffed animal",
    "bowl",
    "can",
    "candle",
    "cat",
    "clock",
    "sneaker",
    "toy",
    "boot",
    "dog",
    "glasses",
    "cartoon",
    "teapot",
    "vase",
)
LIVE: frozenset[str] = frozenset({"dog", "cat"})
WEARERS: frozenset[str] = LIVE | {"stuffed animal", "cartoon", "toy"}

COLORS: dict[str, RGB] = {
    "red": (212, 46, 48),
    "orange": (242, 136, 38),
    "yellow": (250, 208, 62),
    "green": (72, 164, 82),
    "blue": (54, 106, 208),
    "purple": (134, 74, 186),
    "pink": (246, 148, 186),
    "brown": (132, 82, 50),
    "black": (44, 44, 52),
    "white": (244, 242, 236),
    "gray": (144, 148, 156),
}
PATTERNS: tuple[str, ...] = ("plain", "spots", "stripes", "patch")
DETAILS = 3

_NATURAL = frozenset({"brown", "black", "white", "gray", "orange", "yellow"})
_HELD_OUT_IDENTITIES = 0.10
_HELD_OUT_COMBINATIONS = 0.05


@dataclass(frozen=True)
class Identity:
    """One subject; `detail` in 0..2 picks ears, handle or collar, proportions lie in [0,1]."""

    class_noun: str
    main_color: str
    second_color: str
    pattern: str
    detail: int
    width: float = 0.5
    head: float = 0.5
    hue: float = 0.5
    shade: float = 0.5


def _fraction(*keys: object) -> float:
    """Hash `keys` to [0,1): the same on every machine and in every process."""
    digest = hashlib.blake2s("|".join(map(str, keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def held_out_identity(identity: Identity) -> bool:
    """Tell whether an identity, proportions aside, is of the tenth that training never sees."""
    keys = (identity.class_noun, identity.main_color, identity.second_color)
    value = _fraction("identity", *keys, identity.pattern, identity.detail)
    return value < _HELD_OUT_IDENTITIES


def held_out_combination(class_noun: str, color: str, context: str) -> bool:
    """Tell whether class, main colour and context are of the twentieth that training never sees.

    The plain studio backdrop has no phrase in captions, so none of its combinations is held out.
    """
    value = _fraction("combination", class_noun, color, context)
    return context != "plain" and value < _HELD_OUT_COMBINATIONS


def recolored(identity: Identity, tint: str | None) -> Identity:
    """Paint a subject in `tint`; a second colour that equals it becomes the old main colour."""
    if tint is None or tint == identity.main_color:
        return identity
    clash = identity.second_color == tint
    second = identity.main_color if clash else identity.second_color
    return replace(identity, main_color=tint, second_color=second)


def _draw(class_noun: str, rng: np.random.Generator) -> Identity:
    """Draw an identity of a class from the prior; animals more often have natural colours."""
    names = list(COLORS)
    weights = np.array([3.0 if class_noun in LIVE and name in _NATURAL else 1.0 for name in names])
    main = names[rng.choice(len(names), p=weights / weights.sum())]
    others = [name for name in names if name != main]
    return Identity(
        class_noun,
        main,
        others[rng.integers(len(others))],
        PATTERNS[rng.choice(4, p=(0.4, 0.2, 0.2, 0.2))],
        int(rng.integers(DETAILS)),
        *(round(float(value), 4) for value in rng.random(4)),
    )


def sample_identity(
    class_noun: str | None, rng: np.random.Generator, split: str = "train"
) -> Identity:
    """Draw an identity of `class_noun` from the prior, of any class when it is None.

    Args:
        split: "train" (never a held-out identity), "held_out" (only those) or "any".

    Raises:
        ValueError: another split.
    """
    if split not in ("train", "held_out", "any"):
        raise ValueError(f'split must be "train", "held_out" or "any", not {split!r}.')
    if class_noun is None:
        class_noun = CLASSES[rng.integers(len(CLASSES))]
    while True:
        identity = _draw(class_noun, rng)
        if split == "any" or held_out_identity(identity) == (split == "held_out"):
            return identity


def subject_identity(class_noun: str, name: str) -> Identity:
    """Return the held-out identity that belongs to a subject's name: "dog" and "dog2" differ."""
    key = int(_fraction("subject", class_noun, name) * 2**63)
    return sample_identity(class_noun, np.random.default_rng([key, 7]), "held_out")


def shades(color: str, identity: Identity) -> list[RGB]:
    """Return a colour word's base, dark and light RGB, shifted by the identity's hue and shade."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(value / 255 for value in COLORS[color]))
    hue = (hue + (identity.hue - 0.5) * 0.03) % 1.0
    lightness = min(0.96, max(0.1, lightness + (identity.shade - 0.5) * 0.09))
    # shaded parts of a black subject are lighter, or its form would not show
    dark = lightness + 0.09 if lightness < 0.25 else lightness * 0.8
    light = min(0.98, lightness + 0.14)
    variants = (colorsys.hls_to_rgb(hue, value, saturation) for value in (lightness, dark, light))
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in variants]

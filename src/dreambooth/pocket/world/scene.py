"""Scenes: a subject, how it is seen, and one of the contexts of the paper's prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dreambooth.pocket.world.identity import (
    COLORS,
    WEARERS,
    Identity,
    held_out_combination,
    held_out_identity,
    recolored,
    sample_identity,
)

CONTEXTS: dict[str, str] = {
    "plain": "",
    "jungle": "in the jungle",
    "snow": "in the snow",
    "beach": "on the beach",
    "cobblestone": "on a cobblestone street",
    "pink fabric": "on top of pink fabric",
    "wooden floor": "on top of a wooden floor",
    "city": "with a city in the background",
    "mountain": "with a mountain in the background",
    "blue house": "with a blue house in the background",
    "purple rug": "on top of a purple rug in a forest",
    "wheat": "with a wheat field in the background",
    "autumn": "with a tree and autumn leaves in the background",
    "eiffel": "with the Eiffel Tower in the background",
    "water": "floating on top of water",
    "sunflowers": "on top of green grass with sunflowers around it",
    "white rug": "on top of a white rug",
}
ACCESSORIES: dict[str, str] = {
    "red hat": "wearing a red hat",
    "santa hat": "wearing a santa hat",
    "rainbow scarf": "wearing a rainbow scarf",
    "pink glasses": "wearing pink glasses",
    "yellow shirt": "wearing a yellow shirt",
    "top hat": "wearing a black top hat and a monocle",
}
_HATS = ("red hat", "santa hat", "top hat")
_PHOTO_CONTEXTS = ("plain", "wooden floor", "sunflowers", "cobblestone", "white rug")


@dataclass(frozen=True)
class View:
    """How a subject is seen.

    `x`, `y`: shift of its centre, in frame widths. `scale`: its height over the frame's.
    `rotation`: degrees. `light`: where light comes from, -1 left to 1 right. `brightness`: a
    factor near 1. `variation`: seed of what varies within the context. `tint`: a colour word that
    replaces the main colour.
    """

    x: float = 0.0
    y: float = 0.0
    scale: float = 0.6
    flip: bool = False
    rotation: float = 0.0
    light: float = 0.0
    brightness: float = 1.0
    context: str = "plain"
    variation: int = 0
    accessory: str | None = None
    tint: str | None = None


@dataclass(frozen=True)
class Scene:
    """What one picture shows: an identity and how it is seen."""

    identity: Identity
    view: View

    @property
    def seen(self) -> Identity:
        """The identity as it is painted, with the view's tint."""
        return recolored(self.identity, self.view.tint)


def held_out_scene(scene: Scene) -> bool:
    """Tell whether a scene's identity, tinted or not, or its combination is held out."""
    seen = scene.seen
    return (
        held_out_identity(scene.identity)
        or held_out_identity(seen)
        or held_out_combination(seen.class_noun, seen.main_color, scene.view.context)
    )


def _sample_view(class_noun: str, context: str | None, rng: np.random.Generator) -> View:
    """Draw a view for a class, in a random context when None."""
    if context is None:
        names = [name for name in CONTEXTS if name != "plain"]
        context = "plain" if rng.random() < 0.1 else names[rng.integers(len(names))]
    accessory = tint = None
    if class_noun in WEARERS and rng.random() < 0.35:
        accessory = list(ACCESSORIES)[rng.integers(len(ACCESSORIES))]
    if rng.random() < 0.08:
        tint = list(COLORS)[rng.integers(len(COLORS))]
    hat = accessory in _HATS
    low, high = (0.47, 0.58) if hat else (0.50, 0.68)
    return View(
        x=round(float(rng.uniform(-0.08, 0.08)), 4),
        y=round(float(rng.uniform(-0.03, 0.03)) + (0.05 if hat else 0.0), 4),
        scale=round(float(rng.uniform(low, high)), 4),
        flip=bool(rng.random() < 0.5),
        rotation=round(float(rng.uniform(-8, 8)), 2),
        light=round(float(rng.uniform(-1, 1)), 3),
        brightness=round(float(rng.uniform(0.93, 1.05)), 3),
        context=context,
        variation=int(rng.integers(2**31)),
        accessory=accessory,
        tint=tint,
    )


def sample_scene(
    seed: int,
    split: str = "train",
    class_noun: str | None = None,
    identity: Identity | None = None,
    context: str | None = None,
) -> Scene:
    """Draw the scene that belongs to a seed; arguments that are given stay fixed.

    Args:
        split: "train" never shows a held-out identity (nor one that a tint turns into it) nor a
            held-out (class, colour, context); "held_out" shows held-out identities; "any" shows
            all.

    Raises:
        ValueError: the fixed arguments leave no scene of the split.
    """
    rng = np.random.default_rng([seed, 20220825])
    for _ in range(200):
        who = identity or sample_identity(class_noun, rng, split)
        scene = Scene(who, _sample_view(who.class_noun, context, rng))
        if split == "any" or (split == "held_out" and held_out_identity(who)):
            return scene
        if split == "train" and not held_out_scene(scene):
            return scene
    raise ValueError(f"No {split} scene has identity {identity} and context {context}.")


def identity_scene(identity: Identity, seed: int) -> Scene:
    """Draw any view of a subject without a tint, which would make it look like another one."""
    scene = sample_scene(seed, "any", identity=identity)
    return replace(scene, view=replace(scene.view, tint=None))


def subject_scenes(identity: Identity, n: int = 5, seed: int = 0) -> list[Scene]:
    """Draw `n` scenes that serve as a subject's photos: everyday contexts, no accessories."""
    rng = np.random.default_rng([seed, 20220826])
    order = rng.permutation(len(_PHOTO_CONTEXTS))
    scenes = []
    for index in range(n):
        context = _PHOTO_CONTEXTS[order[index % len(order)]]
        view = _sample_view("", context, rng)
        scenes.append(Scene(identity, replace(view, tint=None)))
    return scenes

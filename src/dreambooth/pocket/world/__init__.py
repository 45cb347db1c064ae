"""The embedded world: scenes with known ground truth, rendered from a seed.

`render(sample_scene(seed))` makes a 64 x 64 RGB picture of one subject in one context;
`caption(scene, rng)` describes it truly.
"""

from __future__ import annotations

from dreambooth.pocket.world.captions import PATTERN_WORDS, caption, vocabulary
from dreambooth.pocket.world.identity import (
    CLASSES,
    COLORS,
    LIVE,
    PATTERNS,
    WEARERS,
    Identity,
    held_out_combination,
    held_out_identity,
    sample_identity,
    subject_identity,
)
from dreambooth.pocket.world.renderer import render
from dreambooth.pocket.world.scene import (
    ACCESSORIES,
    CONTEXTS,
    Scene,
    View,
    identity_scene,
    sample_scene,
    subject_scenes,
)

__all__ = [
    "ACCESSORIES",
    "CLASSES",
    "COLORS",
    "CONTEXTS",
    "LIVE",
    "PATTERNS",
    "PATTERN_WORDS",
    "WEARERS",
    "Identity",
    "Scene",
    "View",
    "caption",
    "held_out_combination",
    "held_out_identity",
    "identity_scene",
    "render",
    "sample_identity",
    "sample_scene",
    "subject_identity",
    "subject_scenes",
    "vocabulary",
]

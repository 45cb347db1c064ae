"""Captions of scenes: several templates, some parts left out, every part that is named true."""

from __future__ import annotations

import numpy as np

from dreambooth.pocket.world.identity import CLASSES, COLORS
from dreambooth.pocket.world.scene import ACCESSORIES, CONTEXTS, Scene

TEMPLATES: tuple[str, ...] = ("{}", "a photo of {}", "a picture of {}", "an image of {}")
PATTERN_WORDS: dict[str, str] = {
    "plain": "",
    "spots": "spotted",
    "stripes": "striped",
    "patch": "patched",
}
RARE_IDENTIFIERS: tuple[str, ...] = tuple(
    "sks zwx ohwx xjy qzv vmk hta bnha uxd olis phol ukj wqz ktn ydq fjx".split()
)  # single tokens; in pretraining each leans to a colour (caption_tokens.with_identifier)
# probability that a part is left out
_LEFT_OUT = {"color": 0.4, "pattern": 0.6, "context": 0.2, "accessory": 0.1}


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene in lower case, without punctuation; a tint is always named, as the colour.

    Phrases are those of the paper's prompts in lower case, such as "the eiffel tower".
    """
    seen, view = scene.seen, scene.view
    named = {part: rng.random() >= share for part, share in _LEFT_OUT.items()}
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    words = [
        seen.main_color if named["color"] or view.tint else "",
        PATTERN_WORDS[seen.pattern] if named["pattern"] else "",
        seen.class_noun,
        ACCESSORIES[view.accessory] if view.accessory and named["accessory"] else "",
        CONTEXTS[view.context] if named["context"] else "",
    ]
    phrase = " ".join(word for word in words if word)
    article = "an" if phrase[0] in "aeiou" else "a"
    return template.format(f"{article} {phrase}").lower()


def vocabulary() -> list[str]:
    """List every word that a caption can contain, sorted."""
    texts = [*TEMPLATES, "a an", *COLORS, *PATTERN_WORDS.values(), *CLASSES]
    texts += [*ACCESSORIES.values(), *CONTEXTS.values()]
    return sorted({word for text in texts for word in text.lower().split()} - {"{}"})

"""Ground truth of the world's scenes and captions, and shares with their intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from dreambooth.metrics.encoders import Encoder
from dreambooth.pocket import world
from dreambooth.pocket.pretraining import probe

Z = 1.959963984540054  # standard normal quantile at 0.975


@dataclass(frozen=True)
class Share:
    """A share in [0,1] of `n` independent cases."""

    value: float
    n: int

    @classmethod
    def of(cls, hits: Sequence[bool]) -> Share:
        """Compute the share of cases that are hits."""
        return cls(float(np.mean(hits)), len(hits))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % score interval (Wilson 1927): inside [0,1], and wider than 0 at 0 and 1 too."""
        spread = Z * math.sqrt(self.value * (1 - self.value) / self.n + (Z / self.n / 2) ** 2)
        middle, scale = self.value + Z * Z / self.n / 2, 1 + Z * Z / self.n
        return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def rendered(scenes: list[world.Scene]) -> np.ndarray:
    """Render scenes in order, `[N,64,64,3]` uint8."""
    return np.stack([world.render(scene) for scene in scenes])


def asked(caption: str, scene: world.Scene) -> dict[str, str]:
    """List the facts of a scene that its caption names."""
    named, noun = probe.facts(scene), scene.identity.class_noun
    context = world.CONTEXTS[scene.view.context].lower()
    before = f" {caption.removesuffix(context)} ".split(f" {noun} ")[0]
    if named["color"] not in before.split():
        del named["color"]
    if not context or not caption.endswith(context):
        del named["context"]
    return named


def articles(text: str) -> str:
    """Write each "a" or "an" by the letter that follows."""

    def article(match: re.Match) -> str:
        return f"a{'n' * (match[1] in 'aeiou')} {match[1]}"

    return re.sub(r"\ban? (\w)", article, text)


def look(who: world.Identity) -> tuple:
    """Collect what makes two identities different subjects, proportions aside."""
    return (who.main_color, who.second_color, who.pattern, who.detail)


def identity_triples(count: int, seed: int, tints: bool = False) -> list[world.Scene]:
    """Draw `count` triples: two views of a held-out identity, one view of another of its class.

    With `tints`, views keep a tint that paints the subject in another main colour; identities and
    everything else in their views stay the same.
    """
    scenes, rng = [], np.random.default_rng([seed, 11])
    for i in range(count):
        noun = world.CLASSES[i % len(world.CLASSES)]
        who = other = world.sample_identity(noun, rng, "held_out")
        while look(other) == look(who):
            other = world.sample_identity(noun, rng, "held_out")
        for each, views in ((who, 2), (other, 1)):
            seeds = rng.integers(2**31, size=views).tolist()
            scenes += [
                world.sample_scene(s, "any", identity=each)
                if tints
                else world.identity_scene(each, s)
                for s in seeds
            ]
    return scenes


class Captions(NamedTuple):
    """A scene with a true caption, a false one of another scene, and one with a part changed."""

    scene: world.Scene
    right: str
    wrong: str
    changed: str


def caption_pairs(count: int, seed: int) -> list[Captions]:
    """Draw held-out scenes with three captions each."""
    rows, rng = [], np.random.default_rng([seed, 12])
    while len(rows) < count:
        scene, other = (world.sample_scene(int(s), "held_out") for s in rng.integers(2**31, size=2))
        right, wrong = world.caption(scene, rng), world.caption(other, rng)
        named, facts = asked(wrong, other), probe.facts(scene)
        mine = asked(right, scene)
        part = list(mine)[rng.integers(len(mine))]
        phrases = world.CONTEXTS if part == "context" else {w: w for w in probe.HEADS[part]}
        others = [phrase.lower() for w, phrase in phrases.items() if phrase and w != mine[part]]
        changed = right.replace(phrases[mine[part]].lower(), others[rng.integers(len(others))], 1)
        if any(facts[name] != word for name, word in named.items()):
            rows.append(Captions(scene, right, wrong, articles(changed)))
    return rows


def nearer(dino: Encoder, scenes: list[world.Scene]) -> Share:
    """Compute the share of triples whose first two scenes are nearer than the first and third."""
    features = dino.images([Image.fromarray(image) for image in rendered(scenes)])
    first, second, third = features.unflatten(0, (-1, 3)).unbind(1)
    return Share.of(((first * second).sum(1) > (first * third).sum(1)).tolist())


def preferred(clip: Encoder, count: int, seed: int) -> dict[str, Share]:
    """Compute the share of scenes nearer to their caption than to the false and the changed one."""
    rows = caption_pairs(count, seed)
    pixels = rendered([row.scene for row in rows])
    images = clip.images([Image.fromarray(image) for image in pixels])
    right = (images * clip.texts([row.right for row in rows])).sum(1)
    wrong = (images * clip.texts([row.wrong for row in rows])).sum(1)
    changed = (images * clip.texts([row.changed for row in rows])).sum(1)
    return {
        "caption": Share.of((right > wrong).tolist()),
        "one part": Share.of((right > changed).tolist()),
    }


def hits(seen: list[dict[str, str]], wanted: list[dict[str, str]]) -> dict[str, Share]:
    """Compute the share of pictures that show each fact asked for, and all of them.

    Args:
        seen: the probe's reading of each picture.
        wanted: the facts that each picture's prompt names.
    """
    found: dict[str, list[bool]] = {name: [] for name in (*probe.HEADS, "all")}
    for picture, facts in zip(seen, wanted, strict=True):
        for name, word in facts.items():
            found[name].append(picture[name] == word)
        found["all"].append(all(picture[name] == word for name, word in facts.items()))
    return {name: Share.of(values) for name, values in found.items() if values}


def shown(name: str, figure: float | Share) -> str:
    """Format a figure for printing; a share with its number of cases and its interval."""
    if not isinstance(figure, Share):
        return f"{name} {figure:.3f}"
    low, high = figure.interval
    return f"{name} {figure.value:.3f} (n {figure.n}, {low:.3f} to {high:.3f})"


def as_json(table: dict[str, dict[str, float | Share]]) -> dict:
    """Convert to `{row: {name: figure}}`, and under `shares` a list of counts and intervals."""
    rows, shares = {}, []
    for row, figures in table.items():
        rows[row] = {k: f.value if isinstance(f, Share) else f for k, f in figures.items()}
        for name, figure in figures.items():
            if isinstance(figure, Share):
                facts = {"row": row, "name": name, "n": figure.n}
                shares.append({**facts, "interval_95": list(figure.interval)})
    return {**rows, "shares": shares}

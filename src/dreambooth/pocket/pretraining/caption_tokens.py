"""Token ids of the scenes' captions, in files beside the scenes: made once, from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import CLIPTokenizer

from dreambooth.files import cache_key
from dreambooth.pocket import world
from dreambooth.pocket.pretraining import shards
from dreambooth.pocket.pretraining.tokenizer import token_ids
from dreambooth.pocket.world.captions import RARE_IDENTIFIERS


def caption_shards(
    folder: Path, tokenizer: CLIPTokenizer, *, count: int, each: int, identifier_share: float
) -> list[Path]:
    """Return the files of the first `count` shards' token ids, making what is missing.

    A file holds `each` captions per scene, int32 `[SHARD,each,32]`. Every vocabulary, `each` and
    share has a folder of its own.

    Args:
        identifier_share: of captions that get a rare word before the noun.
    """
    key = cache_key(words=tokenizer.get_vocab(), each=each, share=float(identifier_share))[:8]
    paths = [folder / f"captions-{key}" / f"{index:05d}.npy" for index in range(count)]
    for index, path in enumerate(paths):
        if not path.exists():
            ids = token_ids(tokenizer, _captions(index, each, identifier_share))
            shards.save_array(path, ids.reshape(shards.SHARD, each, -1))
    return paths


def with_identifier(caption: str, seen: world.Identity, rng: np.random.Generator) -> str:
    """Put a rare word before a caption's noun: a rare identifier, or random letters.

    Random letters mean nothing, so that the model learns to accept any unknown word. An identifier
    leans to one main colour, as Stable Diffusion's rare tokens lean to something: if it meant
    nothing at all, the text encoder would learn to ignore it, and with prior preservation "a sks
    dog" and "a dog" would be one condition with two targets. Of eleven equally likely colours, an
    identifier's own has P(colour | identifier) = 17/27 = 0.63 where another identifier shares
    it (the first five colours), else 33/43 = 0.77.
    """
    noun, identifiers = seen.class_noun, RARE_IDENTIFIERS
    if rng.random() < 0.15:
        letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=int(rng.integers(3, 7)))
        word = "".join(letters)
    else:
        if rng.random() < 2 / 3:
            colors = list(world.COLORS)
            identifiers = identifiers[colors.index(seen.main_color) :: len(colors)]
        word = str(rng.choice(identifiers))
    return caption.replace(f" {noun}", f" {word} {noun}", 1)


def _captions(index: int, each: int, identifier_share: float) -> list[str]:
    """Draw the captions of one shard's scenes, `each` per scene."""
    captions = []
    for seed in range(index * shards.SHARD, (index + 1) * shards.SHARD):
        scene, rng = world.sample_scene(seed), np.random.default_rng([seed, 1])
        for _ in range(each):
            caption = world.caption(scene, rng)
            if rng.random() < identifier_share:
                caption = with_identifier(caption, scene.seen, rng)
            captions.append(caption)
    return captions

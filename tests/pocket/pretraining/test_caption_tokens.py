"""Token ids of the scenes' captions, and the rare words in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

from dreambooth.pocket import world
from dreambooth.pocket.pretraining import shards
from dreambooth.pocket.pretraining.caption_tokens import caption_shards, with_identifier
from dreambooth.pocket.pretraining.tokenizer import CONTEXT_LENGTH, build_tokenizer
from dreambooth.pocket.world.captions import RARE_IDENTIFIERS

SHARD = 8


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(shards, "SHARD", SHARD)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer(world.vocabulary())


def plain(
    folder: Path, tokenizer: CLIPTokenizer, count: int = 2, each: int = 3, share: float = 0.0
) -> list[Path]:
    return caption_shards(folder, tokenizer, count=count, each=each, identifier_share=share)


def test_captions_belong_to_their_scenes(tokenizer, tmp_path):
    for index, path in enumerate(plain(tmp_path, tokenizer)):
        ids = np.load(path)
        assert ids.shape == (SHARD, 3, CONTEXT_LENGTH) and ids.dtype == np.int32
        for place in range(SHARD):
            seed = index * SHARD + place
            scene, rng = world.sample_scene(seed), np.random.default_rng([seed, 1])
            for row in ids[place]:
                text = tokenizer.decode(row, skip_special_tokens=True).strip()
                # one generator serves a scene's captions and the coins between them
                assert text == world.caption(scene, rng)
                rng.random()


def test_captions_are_made_once(tokenizer, tmp_path):
    files = plain(tmp_path, tokenizer)
    before = [file.stat().st_mtime_ns for file in files]
    assert plain(tmp_path, tokenizer) == files
    assert [file.stat().st_mtime_ns for file in files] == before


def test_what_captions_hold_decides_where_they_lie(tokenizer, tmp_path):
    more = build_tokenizer([*world.vocabulary(), "wug"])
    made = [
        plain(tmp_path, tokenizer, 1),
        plain(tmp_path, tokenizer, 1, each=2),
        plain(tmp_path, tokenizer, 1, share=0.5),
        plain(tmp_path, more, 1),
    ]
    assert len({files[0] for files in made}) == 4


def test_every_caption_gets_a_rare_word_when_asked(tokenizer, tmp_path):
    (path,) = plain(tmp_path, tokenizer, 1, each=4, share=1.0)
    for row in np.load(path).reshape(-1, CONTEXT_LENGTH):
        words = tokenizer.decode(row, skip_special_tokens=True).split()
        assert set(words) - set(world.vocabulary())


def test_a_rare_word_stands_right_before_the_noun():
    rare = 0
    for seed in range(300):
        scene, rng = world.sample_scene(seed), np.random.default_rng(seed)
        text, noun = world.caption(scene, rng), scene.identity.class_noun.split()
        words = with_identifier(text, scene.seen, rng).split()
        place = next(i for i in range(len(words)) if words[i : i + len(noun)] == noun)
        word = words.pop(place - 1)
        assert " ".join(words) == text
        rare += word in RARE_IDENTIFIERS
        assert word in RARE_IDENTIFIERS or (word.isalpha() and 3 <= len(word) <= 6)
    assert 0.75 < rare / 300 < 0.95


def test_a_rare_word_before_a_noun_of_two_words():
    rng = np.random.default_rng(0)
    bear, can = (world.sample_identity(noun, rng) for noun in ("stuffed animal", "can"))
    text = with_identifier("a photo of a red stuffed animal", bear, rng)
    first, word, last = text.split("red ")[0], *text.split("red ")[1].split(" ", 1)
    assert first == "a photo of a " and last == "stuffed animal" and word != "stuffed"
    assert with_identifier("a can in the jungle", can, rng).endswith(" can in the jungle")


def test_an_identifier_leans_to_one_colour_but_is_not_its_name():
    """P(colour | identifier) as the docstring says, within what the prior's own colours shift."""
    rng, colors = np.random.default_rng(0), list(world.COLORS)
    shown: dict[str, list[str]] = {word: [] for word in RARE_IDENTIFIERS}
    for _ in range(6000):
        who = world.sample_identity(None, rng)
        word = with_identifier(f"a {who.class_noun}", who, rng).split()[1]
        if word in shown:
            shown[word].append(who.main_color)
    for place, word in enumerate(RARE_IDENTIFIERS):
        own = colors[place % len(colors)]
        share = np.mean([color == own for color in shown[word]])
        shared = len(RARE_IDENTIFIERS[place % len(colors) :: len(colors)]) == 2
        assert share == pytest.approx(17 / 27 if shared else 33 / 43, abs=0.07), (word, own)

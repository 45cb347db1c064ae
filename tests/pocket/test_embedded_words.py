"""Words that the embedded model never saw."""

from __future__ import annotations

import numpy as np

from dreambooth.pocket import world
from dreambooth.pocket.embedded import unseen_warning, unseen_words
from dreambooth.pocket.world.captions import RARE_IDENTIFIERS


def test_words_of_captions_are_seen():
    for seed in range(200):
        text = world.caption(world.sample_scene(seed), np.random.default_rng(seed))
        assert unseen_words(text) == []


def test_unseen_words_are_named_once_in_order():
    prompt = "A wet Dog, a WET unicorn; he's in the jungle - 2 times!"
    assert unseen_words(prompt) == ["wet", "unicorn", "he", "s", "2", "times"]
    assert unseen_words("") == [] and unseen_words("?!...") == []
    assert unseen_words("a café") == ["café"]


def test_part_of_a_known_word_is_not_known():
    assert unseen_words("a back pack") == ["back", "pack"]


def test_identifiers_are_known_by_design():
    assert unseen_words(f"a {' '.join(RARE_IDENTIFIERS)} dog") == []
    assert unseen_words("a Qwrty dog") == ["qwrty"]
    assert unseen_words("a Qwrty dog", identifier="qwrty") == []
    assert unseen_words("a qwrty dog", identifier="<QWRTY>") == []


def test_a_warning_names_the_words_of_all_prompts():
    both = unseen_warning(["a shiny dog", "a dog", "a shiny sks dog on mars"])
    one = unseen_warning(["a shiny dog"])
    assert both is not None and "these words" in both and "shiny, mars" in both
    assert one is not None and "this word" in one
    assert unseen_warning(["a sks dog in the jungle"]) is None and unseen_warning([]) is None

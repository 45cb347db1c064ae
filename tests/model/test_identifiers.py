"""Which identifiers are warned of, and which words are candidates."""

from __future__ import annotations

import re

import pytest

from dreambooth.model.identifiers import known_warning, rare


class Vocabulary:
    """A hundred words of which the first are the common ones, as CLIP's merges are ordered."""

    words = ["dog</w>", "to", *(f"w{'ab'[n % 2]}{chr(97 + n // 2 % 26)}{n}" for n in range(90))]
    padding = 0
    words += ["sks</w>", "zwx</w>", "frag", "toolong</w>", "xq</w>", "qzv</w>", "q9v</w>", "x</w>"]

    def get_vocab(self) -> dict[str, int]:
        words = [*self.words, *(f"piece{n}" for n in range(self.padding))]
        return {word: number for number, word in enumerate(words)}


class ClipVocabulary(Vocabulary):
    """As many words as CLIP's, in which `sks` has a meaning."""

    padding = 49_408 - len(Vocabulary.words)


@pytest.mark.parametrize(
    ("path", "identifier", "words"),
    [
        ("hub/sd", "sks", None),
        ("hub/sd", "zwx", None),
        ("hub/sd", "Dog", "common word of the model's vocabulary .token 0 of 100"),
        ("hub/sd", "<dog>", None),
        ("hub/sd", "ohwx dog", "common word"),
        ("pocket", "sks", None),
        ("pocket", "santa", "stands in the embedded model's captions"),
    ],
)
def test_an_identifier_that_the_model_knows_is_named(path, identifier, words):
    warning = known_warning(Vocabulary(), path, identifier)
    assert (warning is None) == (words is None)
    assert words is None or re.search(words, str(warning))


def test_a_rare_word_with_a_meaning_of_its_own_is_named():
    assert "also a rifle" in str(known_warning(ClipVocabulary(), "hub/sd", "sks"))


def test_candidates_are_the_rare_whole_words_of_few_letters():
    assert rare(Vocabulary(), "hub/sd") == ["sks", "zwx", "qzv"]
    assert "zwx" in rare(Vocabulary(), "pocket") and "santa" not in rare(Vocabulary(), "pocket")

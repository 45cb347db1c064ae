"""Which identifiers are warned of, and which words are candidates."""

from __future__ import annotations

import re

import pytest

from dreambooth.model.identifiers import known_warning, rare


class Vocabulary:
    """Twenty words, the common ones first as CLIP's merges are ordered, and pieces of others."""

    letters = "abcdefghijklmno"
    common = ["to", "dog", *(f"word{letter}" for letter in letters[:14])]
    rare = ["sks", "toolong", "xq", "qzv"]
    padding = 0

    @staticmethod
    def spelled(word: str) -> str:
        return f"{word}</w>"

    def get_vocab(self) -> dict[str, int]:
        words = [self.spelled(word) for word in (*self.common, *self.rare)]
        pieces = [*self.letters, "frag", *(f"piece{n}" for n in range(self.padding))]
        return {token: number for number, token in enumerate([*words, *pieces, "q9v</w>"])}


class ClipVocabulary(Vocabulary):
    """As many words as CLIP's, in which `sks` has a meaning."""

    padding = 49_408


class BytePairs(Vocabulary):
    """As Qwen's: a third of its tokens are other languages' and come last."""

    padding = 10

    @staticmethod
    def spelled(word: str) -> str:
        return f"Ġ{word}"


class SentencePieces(Vocabulary):
    """As T5's."""

    @staticmethod
    def spelled(word: str) -> str:
        return f"▁{word}"


@pytest.mark.parametrize(
    ("path", "identifier", "words"),
    [
        ("hub/sd", "sks", None),
        ("hub/sd", "zwx", None),
        ("hub/sd", "Dog", "common word of the model's vocabulary .token 1 of 37"),
        ("hub/sd", "<dog>", None),
        ("hub/sd", "ohwx dog", "common word"),
        ("hub/sd", "frag", None),
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


@pytest.mark.parametrize("vocabulary", [Vocabulary, ClipVocabulary, BytePairs, SentencePieces])
def test_candidates_are_the_rare_whole_words_of_few_letters(vocabulary):
    assert rare(vocabulary(), "hub/sd") == ["sks", "qzv"]
    assert "a common word" in str(known_warning(vocabulary(), "hub/sd", "dog"))
    assert known_warning(vocabulary(), "hub/sd", "qzv") is None


def test_candidates_of_the_embedded_model_are_its_identifiers():
    assert "zwx" in rare(Vocabulary(), "pocket") and "santa" not in rare(Vocabulary(), "pocket")

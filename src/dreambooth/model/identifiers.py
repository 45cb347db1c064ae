"""Words as identifiers: which are rare in a model's vocabulary, and which it knows already."""

from __future__ import annotations

import re
from typing import Any

from dreambooth.pocket.embedded import is_embedded, known_words, rare_words

# Of a vocabulary of byte-pair merges, whose order is that of frequency, this share is common
COMMON = 0.8
RARE_WORD = re.compile(r"([a-z]{3,5})</w>")
# rare words that are known to mean something to Stable Diffusion, and the size of its vocabulary
MEANINGS = {"sks": "a rifle"}
CLIP_WORDS = 49_408


def rare(tokenizer: Any, path: str) -> list[str]:
    """List the rare words of a model, each of one token and three to five letters, the rarest last.

    Those of the embedded model are the ones that it was pretrained with as identifiers.
    """
    if is_embedded(path):
        return rare_words()
    vocabulary = tokenizer.get_vocab()
    first = COMMON * len(vocabulary)
    found = {RARE_WORD.fullmatch(word): number for word, number in vocabulary.items()}
    ranked = sorted((n, match[1]) for match, n in found.items() if match and n >= first)
    return [word for _, word in ranked]


def token_count(tokenizer: Any, word: str) -> int:
    """Count the tokens that a word is made of."""
    return len(tokenizer(word, add_special_tokens=False).input_ids)


def known_warning(tokenizer: Any, path: str, identifier: str) -> str | None:
    """Write one sentence on a word of an identifier that the model knows; None where there is none.

    A word is known that stands in the captions of the embedded model, that is one token among the
    common ones of the vocabulary, or whose meaning is on record.
    """
    for word in identifier.lower().split():
        if meaning := _meaning(tokenizer, path, word):
            return (
                f'the identifier "{word}" {meaning}, which may show in the pictures; `dreambooth '
                "tokens` ranks words that the model knows less of."
            )
    return None


def _meaning(tokenizer: Any, path: str, word: str) -> str | None:
    if is_embedded(path):
        return "stands in the embedded model's captions" if word in known_words() else None
    vocabulary = tokenizer.get_vocab()
    number = vocabulary.get(f"{word}</w>")
    if number is None:
        return None
    if word in MEANINGS and len(vocabulary) >= CLIP_WORDS:
        return f"is also {MEANINGS[word]} to Stable Diffusion"
    if number >= COMMON * len(vocabulary):
        return None
    return f"is a common word of the model's vocabulary (token {number} of {len(vocabulary)})"

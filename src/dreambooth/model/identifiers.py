"""Words as identifiers: which are rare in a model's vocabulary, and which it knows already."""

from __future__ import annotations

import re
from typing import Any

from dreambooth.pocket.embedded import is_embedded, known_words, rare_words

# of a vocabulary's whole words, whose order is that of frequency, this share is common
COMMON = 0.8
RARE_WORD = re.compile(r"[a-z]{3,5}")
# how a token says that it is a whole word of a prompt
WHOLE_WORDS = (
    re.compile("([A-Za-z]+)</w>"),  # CLIP
    re.compile("Ġ([A-Za-z]+)"),  # byte pairs over bytes, as Qwen's: the letter stands for a space
    re.compile("▁([A-Za-z]+)"),  # sentencepiece, as T5's
)
# rare words that are known to mean something to Stable Diffusion, and the size of its vocabulary
MEANINGS = {"sks": "a rifle"}
CLIP_WORDS = 49_408


def rare(tokenizer: Any, path: str) -> list[str]:
    """List the rare words of a model, each of one token and three to five letters, the rarest last.

    Those of the embedded model are the ones that it was pretrained with as identifiers. Of another
    they are in the last fifth of its vocabulary's whole words, in the alphabet of English.
    """
    if is_embedded(path):
        return rare_words()
    words = list(_whole_words(tokenizer.get_vocab()))
    return [word for word in words[int(COMMON * len(words)) :] if RARE_WORD.fullmatch(word)]


def token_count(tokenizer: Any, word: str) -> int:
    """Count the tokens that a word is made of behind another word, as it stands in a prompt."""
    before, whole = (
        len(tokenizer(text, add_special_tokens=False).input_ids) for text in ("a", f"a {word}")
    )
    return whole - before


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
    if word in MEANINGS and len(vocabulary) >= CLIP_WORDS and f"{word}</w>" in vocabulary:
        return f"is also {MEANINGS[word]} to Stable Diffusion"
    words = _whole_words(vocabulary)
    if word not in list(words)[: int(COMMON * len(words))]:
        return None
    return f"is a common word of the model's vocabulary (token {words[word]} of {len(vocabulary)})"


def _whole_words(vocabulary: dict[str, int]) -> dict[str, int]:
    """The words that are one token, by number, in the spelling that most of the tokens have."""
    ordered = sorted(vocabulary.items(), key=lambda item: item[1])
    spelled = [
        {match[1]: number for token, number in ordered if (match := spelling.fullmatch(token))}
        for spelling in WHOLE_WORDS
    ]
    return max(spelled, key=len)

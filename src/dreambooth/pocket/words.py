"""Which words of a prompt the embedded model never saw in a caption."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dreambooth.pocket.build import RARE_IDENTIFIERS
from dreambooth.pocket.captions import vocabulary


def unseen_words(prompt: str, identifier: str | None = None) -> list[str]:
    """Words of `prompt`, lower case and each once, that no caption of the world holds.

    Rare identifiers are left out, being tokens that training showed, and so is a run's own
    `identifier`. Punctuation is no word.
    """
    seen = {*vocabulary(), *RARE_IDENTIFIERS, *_words(identifier or "")}
    return [word for word in _words(prompt) if word not in seen]


def unseen_warning(prompts: Iterable[str], identifier: str | None = None) -> str | None:
    """One sentence for all prompts, naming their unseen words; None where there are none."""
    words = _words(" ".join(w for prompt in prompts for w in unseen_words(prompt, identifier)))
    if not words:
        return None
    these = "this word" if len(words) == 1 else "these words"
    return f"the embedded model never saw {these} and draws something else: {', '.join(words)}."


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"[^\W_]+", text.lower())))

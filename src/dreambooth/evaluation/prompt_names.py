"""Which prompt a benchmark means: by its number, its text or a slug, with the identifier or not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dreambooth.data.prompts import fill

MOST_EXTRA_WORDS = 3  # of an identifier, such as "<cat-toy>", before the class noun or without it
LEAST_CUT = 20  # characters after the subject that a name which was cut must have
_NUMBER = re.compile(r"(?:prompts?|p)?[ _-]*(\d+)", re.IGNORECASE)
_NUMBERED = re.compile(r"\d+[ _-]+(.*)")


@dataclass(frozen=True)
class PromptName:
    """What a name means.

    Attributes:
        template: one of the set's, `{subject}` in it; None for the class prompt, "a [class]".
        phrase: the words that stand for the subject, "sks dog"; empty where the name has the class
            noun alone.
    """

    template: str | None
    phrase: str = ""


def number_of(name: str) -> int | None:
    """Read a name that is a number: `7`, `007`, `prompt_7`; None for any other.

    >>> number_of("prompt_07"), number_of("00_a-dog")
    (7, None)
    """
    found = _NUMBER.fullmatch(name.strip())
    return int(found[1]) if found else None


def words(text: str) -> list[str]:
    """Split a text or a slug into lower-case words.

    >>> words("a_<cat-toy> in the Snow")
    ['a', 'cat', 'toy', 'in', 'the', 'snow']
    """
    return re.findall(r"[^\W_]+", text.lower())


def find_prompt(name: str, templates: Sequence[str], class_noun: str) -> PromptName | None:
    """Find the template that a text or a slug was made from; None if there is none.

    First a template filled with the class noun, or without a subject ("in the snow", "red"), or the
    class prompt itself; then one filled with up to three words and the class noun, or with up to
    three other words, as new tokens are. Of several, that with the most words of its own is meant.

    >>> find_prompt("a-sks-dog-in-the-snow", ["a {subject} in the snow"], "dog")
    PromptName(template='a {subject} in the snow', phrase='sks dog')

    Args:
        templates: those of one prompt set, for objects or for live subjects.
    """
    own = words(name)
    if own == words(f"a {class_noun}") or own in (["class"], ["class", *words(f"a {class_noun}")]):
        return PromptName(None)
    for template in templates:
        bare = words(template.replace("{subject}", ""))[1:]  # without the article
        if own in (words(fill(template, None, class_noun)), bare):
            return PromptName(template)
    found = [(t, p) for t in templates if (p := _phrase(own, t, words(class_noun))) is not None]
    if found:
        template, phrase = max(found, key=lambda pair: len(words(pair[0])))
        return PromptName(template, "" if phrase == " ".join(words(class_noun)) else phrase)
    numbered = _NUMBERED.fullmatch(name)
    return find_prompt(numbered[1], templates, class_noun) if numbered else None


def _phrase(own: list[str], template: str, noun: list[str]) -> str | None:
    """Return the words in the subject's place; None where a text is not of the template.

    A text may end within the template, as file names that are cut do.
    """
    before, after = (words(part) for part in template.split("{subject}"))
    if own[: len(before)] != before:
        return None
    rest = own[len(before) :]
    for count in range(len(noun) + MOST_EXTRA_WORDS + 1):
        middle, end = rest[:count], rest[count:]
        extra = middle[: -len(noun)] if middle[-len(noun) :] == noun else middle
        is_cut = len(" ".join(end)) >= LEAST_CUT and " ".join(after).startswith(" ".join(end))
        if len(middle) == count and len(extra) <= MOST_EXTRA_WORDS and (end == after or is_cut):
            return " ".join(middle)
    return None

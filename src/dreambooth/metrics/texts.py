"""Refuse texts that cannot be prompts: the mistakes found in published CLIP-T code."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dreambooth.errors import UserError

# Iterating over a data frame gives its column names; prompt tables have these.
COLUMN_NAMES = frozenset(
    "prompt prompts text texts caption captions live class class_name subject subject_name id "
    "index seed image images file file_name filename path".split()
)


def check_texts(texts: Sequence[str], prompts: Sequence[str]) -> None:
    """Refuse texts that cannot be the prompts of their images.

    >>> check_texts(["a dog in the snow"], ["a sks dog in the snow"])
    >>> check_texts(["a {} in the snow"], ["a sks dog in the snow"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    dreambooth.errors.UserError: the text "a {} in the snow" has an unformatted brace: ...

    Args:
        texts: what is encoded for each image.
        prompts: what each image was made from.

    Raises:
        UserError: names the text. No text, a text that is not a string or is empty, an unformatted
            brace ("a {} in the jungle"), the name of a table's column ("Unnamed: 0"), or one
            constant text for images of several different prompts.
    """
    if not texts:
        raise UserError("no text to score: CLIP-T needs one prompt per image.")
    for text in dict.fromkeys(texts):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"the text {text!r} is not a prompt: give each image its own prompt.")
        if "{" in text or "}" in text:
            raise UserError(
                f'the text "{text}" has an unformatted brace: fill in the template before scoring.'
            )
        if text.strip().lower() in COLUMN_NAMES or re.fullmatch(r"Unnamed: \d+", text.strip()):
            raise UserError(
                f'the text "{text}" is the name of a column, not a prompt: score the rows of the '
                "table, not its header."
            )
    if len(set(texts)) == 1 and len(set(prompts)) > 1:
        raise UserError(
            f'all {len(texts)} images are scored against "{texts[0]}" though they were made from '
            f"{len(set(prompts))} prompts: match each image with its own prompt."
        )

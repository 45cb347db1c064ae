"""The exception for a user's mistakes, and words that several error messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can fix.

    Its text is one sentence that names the thing at fault and the fix. Entry scripts print it
    without a traceback and exit with code 2.
    """


RESTORE = (
    "restore it with `git checkout -- src/dreambooth/pocket` from the repository's root, "
    "or reinstall the package"
)  # how to fix files that belong to this package: the embedded model and its encoders


def reason(error: BaseException) -> str:
    """Shorten another library's exception for use within a sentence: its first line or its type.

    >>> reason(OSError("no such file\\nsee the manual")), reason(KeyError())
    ('no such file', 'KeyError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(". ")


def suggest(word: str, choices: Iterable[str], what: str = "subject") -> str:
    """Write the error message for a word that is none of `choices`: name the nearest, or all."""
    choices = sorted(choices)
    near = difflib.get_close_matches(word.lower(), choices, n=1)
    fix = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(choices)}."
    return f"unknown {what} {word[:80]!r}: {fix}"

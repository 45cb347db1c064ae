"""The exception for a user's mistakes, and words that several error messages share."""

from __future__ import annotations


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

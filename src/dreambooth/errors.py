"""The one exception that is a user's to mend."""


class UserError(Exception):
    """A wrong input: its text is one sentence that names the thing at fault and the mend.

    Entry scripts print the sentence without a traceback and exit with code 2.
    """


RESTORE = (
    "restore it with `git checkout -- src/dreambooth/pocket/weights` from the repository's root, "
    "or reinstall the package"
)  # the mend of what this package itself holds: the embedded model and its encoders

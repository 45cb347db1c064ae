"""The one exception that is a user's to mend."""


class UserError(Exception):
    """A wrong input: its text is one sentence that names the thing at fault and the mend.

    Entry scripts print the sentence without a traceback and exit with code 2.
    """

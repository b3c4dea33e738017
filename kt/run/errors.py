"""The exception whose message is written for users."""


class KTError(Exception):
    """An error that the user can mend: a missing data set, a damaged file, an impossible request.

    The message is one line that says what was found, what is needed and what to do.
    """

"""The one exception that is a user's to read, not a programmer's."""


class KTError(Exception):
    """Something the user can put right: a missing data set, a damaged file, an impossible request.

    The message is one line that says what was found, what is needed and what to do.
    """

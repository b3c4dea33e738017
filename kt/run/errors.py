"""The exceptions whose messages are written for users, and notices."""

import logging


class KTError(Exception):
    """An error that the user can mend: a missing data set, a damaged file, an impossible request.

    The message is one line that says what was found, what is needed and what to do.
    """


class NotFiniteError(KTError):
    """Something computed is infinite or no number."""


def notice(text: str) -> None:
    """Tell the user something that stops nothing, in one line.

    It goes to the logger `kt`: without a handler Python writes it to standard error.
    """
    logging.getLogger("kt").warning("notice: %s", text)

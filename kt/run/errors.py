"""The exceptions whose messages are written for users, and notices."""

import logging

LONGEST_WORD, LONGEST = 200, 1000
"""Characters of a word (a path, say) and of a message that are shown whole."""


class KTError(Exception):
    """An error that the user can mend: a missing data set, a damaged file, an impossible request.

    The message is one line that says what was found, what is needed and what to do: `one_line`.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


class NotFiniteError(KTError):
    """Something computed is infinite or no number."""


def notice(text: str) -> None:
    """Tell the user something that stops nothing, in one line.

    It goes to the logger `kt`: without a handler Python writes it to standard error.
    """
    logging.getLogger("kt").warning("notice: %s", one_line(text))


def one_line(text: object, longest: int = LONGEST) -> str:
    """A text as one line that any terminal can show.

    Its white space is single spaces. What cannot be printed is written as an escape: control
    characters, and the bytes of a file's name that are not UTF-8. Of long words, and of a long
    text, both ends are shown.
    """
    words = (_ends(_printable(word), LONGEST_WORD) for word in str(text).split())
    return _ends(" ".join(words), longest)


def _printable(word: str) -> str:
    if word.isprintable():
        return word
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in word)


def _ends(text: str, longest: int) -> str:
    """A text, or its first and last characters if it is longer."""
    half = longest // 2 - 2
    return text if len(text) <= longest else f"{text[:half]}...{text[-half:]}"

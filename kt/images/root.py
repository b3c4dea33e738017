"""The folder of data sets that the environment names."""

import os
from pathlib import Path

from kt.run.errors import KTError

VARIABLE = "KT_DATA_ROOT"


def data_root() -> Path | None:
    """The folder that KT_DATA_ROOT names, absolute; None if it names none.

    Raises:
        KTError: it names something that is no folder.
    """
    if not (given := os.environ.get(VARIABLE)):
        return None
    try:
        root = Path(given).expanduser().absolute()
    except RuntimeError:  # no home folder
        root = Path(given).absolute()
    if not os.path.isdir(root):  # false for a name that is too long, too
        raise KTError(
            f"{VARIABLE} is {given!r}, and {root} is no folder: set it to the absolute path of the "
            "folder that holds the data sets, or unset it"
        )
    return root

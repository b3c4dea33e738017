"""Parameters of the tables that differ from scale to scale."""

from kt.run.errors import KTError
from stages.common.base.params import Params


def at_scale(params: Params, name: str, values: dict[str, int]) -> int:
    """The value of the parameter `tables.<name>` for the active scale.

    Raises:
        KTError: it has none.
    """
    if params.scale not in values:
        raise KTError(
            f"params.yaml: tables.{name}: none for scale {params.scale!r}; there are some for "
            f"{', '.join(values)}"
        )
    return values[params.scale]

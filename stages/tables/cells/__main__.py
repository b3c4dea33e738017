"""Make one cell of a table: table3/small/0.1, say.

A cell is a changed set of parameters, the networks that a translator learns from, and what is
measured. It is written to tables/cells/<scale>/<name>.json; what the clock said, to
tables/cells/<scale>/times/<name>.json, which no lock file knows.
"""

from importlib import import_module

from kt.ensemble import Compute
from kt.run.errors import KTError
from stages.common.base import runtime
from stages.common.base.params import Params
from stages.tables.cells import cell

MODULES = {
    "ablation": "trained",
    "curve": "trained",
    "epochs": "epochs",
    "figure4": "figure4",
    "fixed": "fixed",
    "limits": "limits",
    "merge": "trained",
    "mixer_curves": "mixer_curves",
    "mixers": "mixers",
    "table1": "table1",
    "table3": "trained",
    "table4": "trained",
    "table5": "trained",
    "table6": "trained",
    "widths": "widths",
}
"""The module here whose `make(params, compute, table, *keys)` makes a table's cells."""


def main(params: Params, compute: Compute, name: str) -> None:
    table, *keys = name.split("/")
    if table not in MODULES:
        raise KTError(f"{name!r} is no cell: the first word accepts {', '.join(MODULES)}")
    make = import_module(f"stages.tables.cells.{MODULES[table]}").make
    cell.require_words(name, make, params, compute, table, *keys)
    make(params, compute, table, *keys)


if __name__ == "__main__":
    runtime.run(main, __doc__, "table/key/...")

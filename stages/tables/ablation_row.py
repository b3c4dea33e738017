"""Train and measure the translator of one row of the ablation."""

from kt.ensemble import Compute
from stages import runtime
from stages.params import Params
from stages.tables import cell


def main(params: Params, compute: Compute, row: str) -> None:
    settings = params.tables.ablation.settings[row]
    changed = params.changed(settings.change, f"tables.ablation.settings.{row}.change")
    result = {"label": settings.label, **cell.measured(changed, compute, settings.store)}
    cell.write(params, f"ablation/{row}", result)


if __name__ == "__main__":
    runtime.run(main, __doc__, "row")

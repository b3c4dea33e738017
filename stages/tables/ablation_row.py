"""Train and measure the translator of one row of the ablation."""

from typing import Annotated

from pydantic import Field, model_validator

from kt.ensemble import Compute
from stages.common.base import runtime
from stages.common.base.params import Change, Count, Params, Strict
from stages.tables import cell


class Row(Strict):
    label: str
    store: str
    change: Change


class Ablation(Strict):
    """`tables.ablation` of the parameters."""

    refine_steps: Count
    rows: Annotated[list[str], Field(min_length=1)]
    settings: dict[str, Row]

    @model_validator(mode="after")
    def _known_rows(self) -> "Ablation":
        for row in self.rows:
            if row not in self.settings:
                raise ValueError(
                    f"rows: {row!r} is none of the settings: {', '.join(self.settings)}"
                )
        return self


def main(params: Params, compute: Compute, row: str) -> None:
    settings = params.table("ablation", Ablation).settings[row]
    changed = params.changed(settings.change, f"tables.ablation.settings.{row}.change")
    result = {"label": settings.label, **cell.measured(changed, compute, settings.store)}
    cell.write(params, f"ablation/{row}", result)


if __name__ == "__main__":
    runtime.run(main, __doc__, "row")

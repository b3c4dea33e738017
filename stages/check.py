"""Check that the run's headlines lie in the bands that params.yaml expects at its scale."""

from kt.ensemble import Compute
from kt.run.errors import KTError
from stages.common.base import inputs, runtime
from stages.common.base.params import Params
from stages.headline import OUT


def main(params: Params, compute: Compute) -> None:
    found, bands = inputs.read_json(OUT), params.active.expected
    if not bands:
        raise KTError(f"params.yaml: scales.{params.scale}.expected: nothing to check")
    for name, (low, high) in bands.items():
        if name not in found:
            raise KTError(f"{OUT} has no {name}, which scales.{params.scale}.expected names")
        if isinstance(value := found[name], bool) or not isinstance(value, int | float):
            raise KTError(f"{OUT} has {value!r} as {name}, which is no number: {inputs.REMEDY}")
        if not low <= value <= high:
            raise KTError(f"{name} is {value:.2f}, outside {low:g} to {high:g}: {OUT}")
        print(f"{name} {value:.2f} is within {low:g} to {high:g}")


if __name__ == "__main__":
    runtime.run(main, __doc__)

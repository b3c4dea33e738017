"""Table 2 of the paper: the translator's four sizes, counted."""

from dataclasses import replace

import pandas as pd

from kt.ensemble import Compute
from kt.networks.blocks import initial_weights, parameter_count
from kt.networks.cost import multiply_adds
from kt.translators.mixer import PAPER_SIZES, Mixer
from stages.common.base import runtime
from stages.common.base.params import Params
from stages.tables import output, printed

MEGA = 2**20


def main(params: Params, compute: Compute) -> None:
    large = initial_weights("large", [0], params.sizes)
    metrics, rows = {}, []
    for size, config in PAPER_SIZES.items():
        model = Mixer(replace(config, sizes=params.sizes))
        parameters, products = parameter_count(model), multiply_adds(model, large)
        metrics[size] = {"parameters": parameters, "multiply_adds": products}
        rows.append(
            {
                "translator": size,
                "layers": config.layers,
                "hidden size": config.hidden_size,
                "D_S": config.sequence_dim,
                "D_C": config.channel_dim,
                "parameters": f"{parameters:,}",
                "in 2^20": f"{parameters / MEGA:.2f}",
                "the paper's M": printed.MILLIONS[size],
                "multiply-adds": f"{products:,}",
            }
        )
    caption = (
        f"The paper's MLP-Mixers, counted: sequence length {model.config.sequence}, conv target. "
        "Its M is 2^20. Multiply-adds are of one translation, in linear layers."
    )
    output.write(params, "table2", caption, metrics, pd.DataFrame(rows))


if __name__ == "__main__":
    runtime.run(main, __doc__)

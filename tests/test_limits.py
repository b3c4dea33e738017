"""What a loss on weights can reach at best: means and variance over trainings."""

import json

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from kt.networks import symmetry
from kt.translators import limits, losses
from stages.common.base.params import Params, settings_of
from stages.tables.cells.content import KINDS
from stages.tables.cells.limits import averaged
from stages.tables.cells.settings import Limits, draws_of
from tests.conftest import ROOT
from tests.tiny_params import usual

NETWORKS, TRAININGS = 3, 2000


def blocks(of: int, networks: int = NETWORKS) -> dict[str, torch.Tensor]:
    return {
        "conv1.weight": torch.randn(of, networks, 3, 6, 3, 3),
        "conv2.weight": torch.randn(of, networks, 6, 3, 3, 3),
    }


def test_the_variance_is_what_is_left_of_the_paper_s_loss_at_the_true_mean():
    torch.manual_seed(0)
    truth = {name: tensor[0] for name, tensor in blocks(1).items()}
    noise = blocks(TRAININGS)
    drawn = {name: truth[name] + 0.1 * noise[name] for name in truth}
    few = {name: tensor[:4] for name, tensor in drawn.items()}
    assert limits.variance(drawn) == pytest.approx(0.01, rel=0.01)
    assert limits.variance(few) == pytest.approx(0.01, rel=0.1)  # no bias by the number of blocks
    assert limits.error(truth, drawn) == pytest.approx(0.01, rel=0.01)
    best = limits.error(limits.mean(drawn), drawn)
    for other in (truth, {name: tensor[0] for name, tensor in drawn.items()}):
        assert best < limits.error(other, drawn)


def test_an_error_is_the_paper_s_loss_block_by_block():
    torch.manual_seed(0)
    drawn, predicted = blocks(5), {name: tensor[0] for name, tensor in blocks(1).items()}
    each = [
        losses.weight_mse(predicted, {name: tensor[k] for name, tensor in drawn.items()}).item()
        for k in range(5)
    ]
    assert limits.error(predicted, drawn) == pytest.approx(sum(each) / 5, rel=1e-5)


def test_blocks_that_differ_by_the_order_of_channels_alone_have_themselves_as_aligned_mean():
    torch.manual_seed(0)
    (one,) = (symmetry.balance({n: t[0] for n, t in b.items()}) for b in [blocks(1)])
    orders = [[0, 1, 2], [2, 0, 1], [1, 0, 2], [2, 1, 0]]
    drawn = {
        "conv1.weight": torch.stack([one["conv1.weight"][:, o] for o in orders]),
        "conv2.weight": torch.stack([one["conv2.weight"][:, :, o] for o in orders]),
    }
    mean = limits.mean(drawn, align=True)
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, one[name])
    assert limits.error(mean, drawn, align=True) == pytest.approx(0, abs=1e-10)
    assert limits.error(limits.mean(drawn), drawn) > 0.1


def test_means_are_of_1_2_4_and_all_trainings_that_judge_nothing():
    assert list(averaged(24)) == [1, 2, 4, 8, 16, 24]
    assert list(averaged(3)) == [1, 2, 3]
    for scale in settings_of("limits", Limits).draws:
        drawn, held_out = draws_of(Params.model_validate(usual(ROOT) | {"scale": scale}))
        assert 1 <= held_out < drawn


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("limits/fresh", lambda cell: cell.update(variance=-0.1), "greater than or equal to 0"),
        ("figure4/mixer", lambda cell: cell["history"][1].update(loss=-1.0), "or equal to 0"),
        ("figure4/mixer", lambda cell: cell["history"].reverse(), "its epochs are out of order"),
        ("table3/small/0.0", lambda cell: cell["evaluations"].reverse(), "out of order"),
    ],
)
def test_a_cell_with_what_cannot_be_is_refused(name, damage, message):
    kind = TypeAdapter(KINDS[name.partition("/")[0]])
    cell = json.loads((ROOT / "tables" / "cells" / "quick" / f"{name}.json").read_text())
    kind.validate_python(cell, strict=True)
    damage(cell)
    with pytest.raises(ValidationError, match=message):
        kind.validate_python(cell, strict=True)


def test_the_table_goes_from_cells_to_a_figure(prepared):
    prepared.succeed(
        "evaluate_baselines",
        *(f"tables.cells limits/{initial}" for initial in ("fresh", "shared")),
        "tables.limits",
    )
    results = prepared.folder / "tables" / "results" / "tiny"
    metrics = json.loads((results / "limits.json").read_text())
    for target in ("fresh_plain", "shared_aligned"):
        assert {"mean_of_1", "mean_of_2", "mean_of_3"} <= metrics[target].keys()
        assert metrics[target]["mean_of_1"]["n"] == 3
    assert (results / "limits.png").stat().st_size > 10_000
    assert "the variance of trainings" in (results / "limits.md").read_text()

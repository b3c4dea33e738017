"""The ceiling: who chooses it, that its work is kept, and what tables measure with it."""

import pytest
import torch

from kt.ensemble import Compute
from kt.images import ImageSet
from kt.networks.blocks import initial_weights
from stages.common import ceiling
from stages.common.ceiling import Choice
from stages.tables import output
from tests.conftest import usual_params


class Selection:
    """Networks whose accuracies lie around the number that stands for their blocks."""

    networks = None

    def with_small(self, block, compute):
        return torch.tensor([block - 1.0, block + 1.0])


@pytest.mark.parametrize(("sgd", "by"), [(80.0, "adam"), (90.0, "retrained"), (95.0, "retrained")])
def test_the_selection_networks_choose_the_way_and_the_rate(sgd, by, monkeypatch):
    reached = {0.003: 85.0, 0.01: 90.0}
    asked = []

    def adam(params, networks, images, rate, role, *rest):
        asked.append((rate, role))
        return reached[rate]

    monkeypatch.setattr(ceiling, "adam", adam)
    choice = ceiling.choose(usual_params(), Selection(), sgd, None, Compute())
    found = {"retrained": sgd, "adam_0_003": 85.0, "adam_0_01": 90.0}
    assert choice == Choice(by, 0.01, found)
    assert asked == [(rate, "selection") for rate in reached]


def test_finished_blocks_are_not_trained_again_and_damaged_ones_are(tmp_path, monkeypatch, caplog):
    trained = []

    def on_budget(kind, networks, data, block, *rest):
        trained.append(kind)
        return block

    monkeypatch.setattr(ceiling.retraining, "on_budget", on_budget)
    images = ImageSet(torch.zeros(4, 28, 28, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    networks, params = initial_weights("large", range(3)), usual_params()

    def adam(role="test"):
        return ceiling.adam(params, networks, images, 0.01, role, Compute(), tmp_path)

    first, again = adam(), adam()
    assert trained == ["conv"]
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    assert not torch.equal(adam("selection")["conv1.weight"], first["conv1.weight"])
    (tmp_path / "test-0.01.safetensors").write_bytes(b"damaged")
    assert all(torch.equal(tensor, first[name]) for name, tensor in adam().items())
    assert len(trained) == 3 and "its blocks are trained again" in caplog.text


def test_tables_tell_the_median_those_that_fail_and_the_paired_difference():
    found = output.compared([70.0, 80.0, 84.0, 90.0], [90.0, 90.0, 94.0, 90.0])
    assert found["median"] == 82.0 and found["below_80"] == 25.0
    apart = found["beside_ceiling"]
    assert (apart["mean"], apart["min"], apart["max"], apart["n"]) == (-10.0, -20.0, 0.0, 4)
    words = list(output.told(found).values())
    assert words[:2] == ["82.00", "25.0"] and words[2].startswith("-10.00 ± ")

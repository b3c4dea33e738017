import pytest
import torch
from scipy import stats

from kt.networks.blocks import initial_weights
from kt.run.statistics import summary
from kt.translators import baselines


def test_greedy_replacement_is_the_nearest_pair_by_brute_force():
    train_large, train_small = (
        initial_weights("large", range(40)),
        initial_weights("conv", range(40)),
    )
    large = initial_weights("large", range(100, 107))
    chosen = baselines.greedy_replacement(large, train_large, train_small)
    for i in range(7):
        distances = [
            sum(((large[k][i] - train_large[k][j]) ** 2).sum() for k in large if "conv" in k)
            for j in range(40)
        ]
        best = min(range(40), key=distances.__getitem__)
        for name, tensor in train_small.items():
            assert torch.equal(chosen[name][i], tensor[best])


def test_nearest_looks_through_all_blocks_of_points():
    draw = torch.Generator().manual_seed(0)
    points, queries = torch.randn(50, 4, generator=draw), torch.randn(9, 4, generator=draw)
    expected = ((queries[:, None] - points) ** 2).sum(-1).argmin(1)
    assert torch.equal(baselines.nearest(queries, points, block=7), expected)


def test_random_replacement_draws_whole_blocks_from_the_pairs():
    small = {"a": torch.arange(5.0), "b": torch.arange(5.0) + 10}
    drawn = baselines.random_replacement(small, 1000, seed=1)
    assert torch.equal(drawn["a"] + 10, drawn["b"])
    assert set(drawn["a"].tolist()) == {0, 1, 2, 3, 4}
    assert torch.equal(drawn["a"], baselines.random_replacement(small, 1000, seed=1)["a"])


def test_random_initialisations_differ_between_networks():
    blocks = baselines.random_initialisation("mlp", 3, seed=1)
    assert not torch.equal(blocks["fc1.weight"][0], blocks["fc1.weight"][1])


def test_summary_is_students_interval():
    values = [61.0, 64.5, 70.25, 58.0]
    result = summary(torch.tensor(values))
    low, high = stats.t.interval(0.95, 3, loc=63.4375, scale=stats.sem(values))
    assert result["mean"] == 63.4375 and result["n"] == 4
    assert (result["min"], result["max"]) == (58.0, 70.25)
    assert result["ci95"] == pytest.approx((high - low) / 2, abs=1e-4)
    assert summary(torch.tensor([5.0])) == {
        "mean": 5.0, "std": 0.0, "min": 5.0, "max": 5.0, "n": 1, "ci95": 0.0
    }  # fmt: skip

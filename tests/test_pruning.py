"""Pruning against plain modules, brute force and numpy's least squares."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from kt import ensemble, symmetry
from kt.blocks import CONVOLUTIONAL
from kt.compress import pruning
from kt.data import pixels
from kt.ensemble import Compute, part
from kt.errors import KTError
from tests.conftest import trained_networks
from tests.test_ensemble import assembled

COUNT = 3


@pytest.fixture
def networks(images):
    return trained_networks(images, COUNT)


@pytest.fixture
def representable(networks):
    """Networks whose hidden channels 0, 2 and 5 give nothing, and which need no biases."""
    dead = torch.tensor([0, 2, 5])
    for name in ("bn1.weight", "bn1.bias"):
        networks[f"large.{name}"][:, dead] = 0
    for i in (1, 2):
        networks[f"large.bn{i}.bias"].zero_()
        networks[f"large.bn{i}.running_mean"].zero_()
    return networks


def modules(kind, networks, block):
    return [assembled(kind, networks, block, i) for i in range(COUNT)]


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_the_best_subset_is_the_best_of_all_twenty_by_brute_force(kind, networks, images):
    chosen = pruning.best_subset(kind, networks, images)
    x = pixels(images.images)
    large = part(networks, "large")
    wanted = torch.stack([m(x).softmax(-1) for m in modules("large", networks, large)])
    tried = []
    for subset in combinations(range(6), 3):
        block = pruning.keep(kind, large, torch.tensor(subset))
        answers = torch.stack([m(x).log_softmax(-1) for m in modules(kind, networks, block)])
        loss = F.kl_div(answers, wanted, reduction="none").sum(-1).mean(-1)
        tried.append((loss, block))
    assert len(tried) == 20
    for i in range(COUNT):
        best = min(tried, key=lambda pair: pair[0][i])[1]
        assert all(torch.equal(chosen[name][i], best[name][i]) for name in best)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_pruning_channels_that_do_nothing_is_exact(kind, representable, images):
    x = pixels(images.images)
    original = modules("large", representable, part(representable, "large"))
    for block in (
        pruning.by_norm(kind, part(representable, "large")),
        pruning.best_subset(kind, representable, images),
        pruning.best_subset(kind, representable, images, refitted=True),
    ):
        for pruned, large in zip(modules(kind, representable, block), original, strict=True):
            assert_close(pruned(x), large(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_refitting_recovers_a_second_convolution_that_was_lost(kind, representable, images):
    block = pruning.by_norm(kind, part(representable, "large"))
    lost = {name: t * 0 if name.startswith("conv2") else t for name, t in block.items()}
    found = pruning.refit(kind, representable, lost, images)
    x = pixels(images.images)
    for a, b in zip(
        modules(kind, representable, found), modules(kind, representable, block), strict=True
    ):
        assert_close(a(x), b(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_refitting_is_least_squares(kind, networks, images):
    few = images.subset(slice(0, 5))
    block = pruning.by_norm(kind, part(networks, "large"))
    fitted = pruning.refit(kind, networks, block, few)
    folded = symmetry.fold(part(networks, "large"))
    x = ensemble.features(few, networks)[1]

    def second(weights, hidden):
        bias = weights.get("conv2.bias")
        return F.conv2d(hidden, weights["conv2.weight"][1], bias if bias is None else bias[1], 1, 1)

    def first(weights):
        bias = weights.get("conv1.bias")
        weight, bias = weights["conv1.weight"][1], bias if bias is None else bias[1]
        return F.relu(F.conv2d(x, weight, bias, 1, 1))

    wanted = second(folded, first(folded))
    error = (second(fitted, first(block)) - wanted).square().sum().item()
    columns = F.unfold(first(block), 3, padding=1).transpose(1, 2).flatten(0, 1).numpy()
    if kind == "conv_bias":
        columns = np.concatenate([columns, np.ones((len(columns), 1))], 1)
    values = wanted.flatten(2).transpose(1, 2).flatten(0, 1).numpy()
    residuals = np.linalg.lstsq(columns.astype(float), values.astype(float), rcond=None)[1]
    assert error == pytest.approx(residuals.sum(), rel=1e-3)
    before = (second(block, first(block)) - wanted).square().sum().item()
    assert error < before


def test_refitting_all_subsets_at_once_is_refitting_each(networks, images):
    chosen = pruning.best_subset("conv_bias", networks, images, refitted=True)
    large = part(networks, "large")
    subsets = [pruning.keep("conv_bias", large, subset) for subset in pruning.SUBSETS]
    for i in range(COUNT):
        match = [torch.equal(b["conv1.weight"][i], chosen["conv1.weight"][i]) for b in subsets]
        again = pruning.refit("conv_bias", networks, subsets[match.index(True)], images)
        assert_close(chosen["conv2.weight"][i], again["conv2.weight"][i], rtol=1e-3, atol=1e-4)
        assert_close(chosen["conv2.bias"][i], again["conv2.bias"][i], rtol=1e-3, atol=1e-4)


def test_a_network_is_pruned_alike_whatever_is_beside_it(networks, images):
    alone = {name: tensor[1:2] for name, tensor in networks.items()}
    together = pruning.best_subset("conv", networks, images, Compute(workers=2, chunk=2), True)
    for name, tensor in pruning.best_subset("conv", alone, images, refitted=True).items():
        assert_close(tensor[0], together[name][1])


def test_only_convolutional_blocks_are_pruned_to(networks):
    with pytest.raises(KTError, match="not 'mlp'"):
        pruning.by_norm("mlp", part(networks, "large"))

"""Pruning against plain modules, brute force."""

from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from kt.ensemble import Compute, Probe
from kt.images import pixels
from kt.networks import channels
from kt.networks.blocks import CONVOLUTIONAL
from kt.networks.weights import part
from kt.rivals import pruning
from kt.run.errors import KTError
from tests.conftest import trained_networks
from tests.rounding import NETWORK, assert_near
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
        block = channels.keep(pruning.folded(kind, large), torch.tensor(subset))
        answers = torch.stack([m(x).log_softmax(-1) for m in modules(kind, networks, block)])
        loss = F.kl_div(answers, wanted, reduction="none").sum(-1).mean(-1)
        tried.append((loss, block))
    assert len(tried) == 20
    for i in range(COUNT):
        best = min(tried, key=lambda pair: pair[0][i])[1]
        assert all(torch.equal(chosen[name][i], best[name][i]) for name in best)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_pruning_channels_that_do_nothing_is_exact(kind, representable, images, monkeypatch):
    monkeypatch.setattr("kt.ensemble.probe.DECAY", 1e-6)  # which shrinks the refitted weights
    x = pixels(images.images)
    original = modules("large", representable, part(representable, "large"))
    for block in (
        pruning.by_norm(kind, part(representable, "large")),
        pruning.best_subset(kind, representable, images),
        pruning.best_subset(kind, representable, images, refitted=True),
    ):
        for pruned, large in zip(modules(kind, representable, block), original, strict=True):
            assert_near(pruned(x), large(x), 27 * NETWORK)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_the_best_refitted_subset_leaves_the_least_error_of_all_twenty(kind, networks, images):
    chosen = pruning.best_subset(kind, networks, images, refitted=True)
    large, x = part(networks, "large"), pixels(images.images)
    probe = Probe(kind, networks, x, Compute(engine="torch"))
    probe.watch_teacher(large)

    def error(i, block):
        """Of what a latter block reads before the block's last ReLU, weighed by what follows."""
        whole, tried = (
            assembled("large", networks, large, i),
            assembled(kind, networks, block, i),
        )
        h = tried.former(x)
        apart = tried.block.conv2(F.relu(tried.block.conv1(h))) + h - whole.block.before_relu(h)
        spread = whole.latter.fc.weight.view(10, 12, 49).square().sum((0, 2)).sqrt()
        scale = spread * whole.latter.bn.weight / (whole.latter.bn.running_var + 1e-5).sqrt()
        read = F.conv2d(apart[..., ::2, ::2], whole.latter.conv.weight) * scale[:, None, None]
        return read.square().sum().item()

    tried = []
    for subset in combinations(range(6), 3):
        block = channels.keep(pruning.folded(kind, large), torch.tensor(subset))
        tried.append(block | {"conv2.weight": probe.fit_second_convolution(kind, block)})
    for i in range(COUNT):  # decay shrinks the fits a little
        assert error(i, chosen) <= 1.02 * min(error(i, block) for block in tried)


def test_a_network_is_pruned_alike_whatever_is_beside_it(networks, images):
    alone = {name: tensor[1:2] for name, tensor in networks.items()}
    together = pruning.best_subset("conv", networks, images, Compute(workers=2, chunk=2), True)
    for name, tensor in pruning.best_subset("conv", alone, images, refitted=True).items():
        assert_near(tensor[0], together[name][1], 27 * 27)


def test_only_convolutional_blocks_are_pruned_to(networks):
    with pytest.raises(KTError, match="not 'mlp'"):
        pruning.by_norm("mlp", part(networks, "large"))

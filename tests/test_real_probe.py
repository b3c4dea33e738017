"""Probes of blocks in any network, against their definitions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from kt.ensemble import Compute
from kt.ensemble import Probe as ManyNetworks
from kt.networks.blocks import Network, Sizes, weights
from kt.networks.weights import part
from kt.real.blocks import find
from kt.real.graph import Graph
from kt.real.probe import probe


class Residual(nn.Module):
    """A convolution, a block of 5 -> 7 -> 6 channels and a head."""

    def __init__(self, stride: int, shortcut: bool, norm: bool, kernel: int = 3) -> None:
        super().__init__()
        half = kernel // 2
        self.stem = nn.Conv2d(3, 5, 3)
        self.first = nn.Conv2d(5, 7, kernel, stride, half, bias=not norm)
        self.bn1 = nn.BatchNorm2d(7) if norm else nn.Identity()
        self.second = nn.Conv2d(7, 6, kernel, padding=half, bias=not norm)
        self.bn2 = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.beside = nn.Conv2d(5, 6, 1, stride) if shortcut else None
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = self.bn2(self.second(F.relu(self.bn1(self.first(x)))))
        y = y if self.beside is None else y + self.beside(x)
        return self.head(F.relu(y).mean((2, 3)))


def drawn(network):
    """In evaluation mode, with statistics that are not at their initial values."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.5, 0.5)
    return network.eval()


def seen(network, images, wanted, into):
    graph = Graph(network, images[:2])
    (block,) = (b for b in find(network, graph)[0] if b.into == into)
    draw = torch.Generator().manual_seed(0)
    return probe(network, graph, block, images, wanted, 10_000, draw)


@pytest.mark.parametrize(("stride", "kernel"), [(1, 3), (2, 3), (2, 5)])
@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_a_probe_is_what_it_says(stride, kernel, shortcut, norm):
    torch.manual_seed(0)
    network = drawn(Residual(stride, shortcut, norm, kernel))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images, wanted = torch.randn(20, 3, 13, 13), torch.randn(20, 4)
    found = seen(network, images, wanted, "first")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])

    def from_maps(maps):
        x = F.relu(network.stem(images))
        h = F.relu(F.conv2d(x, maps["into.weight"], maps["into.bias"], stride, kernel // 2))
        given = F.conv2d(h, maps["out.weight"], maps["out.bias"], padding=kernel // 2)
        y = given if network.beside is None else given + network.beside(x)
        return h, given, network.head(F.relu(y).mean((2, 3)))

    maps = {name: tensor.clone().requires_grad_() for name, tensor in found.maps.items()}
    hidden, given, answers = from_maps(maps)
    assert_close(answers, network(images), rtol=1e-4, atol=1e-5)
    loss = F.kl_div(
        answers.log_softmax(1), wanted.log_softmax(1), log_target=True, reduction="batchmean"
    )
    assert_close(found.loss, loss.detach(), rtol=1e-4, atol=1e-5)
    expected = torch.autograd.grad(loss, list(maps.values()))
    for (name, slope), true in zip(found.gradient.items(), expected, strict=True):
        assert (slope - true).norm() <= 1e-3 * true.norm() + 1e-6, name
    rows = F.unfold(hidden, kernel, padding=kernel // 2).transpose(1, 2).flatten(0, 1).detach()
    rows = F.pad(rows, (0, 1), value=1.0).double()
    assert_close(found.moments.inputs, rows.T @ rows, rtol=1e-4, atol=1e-2)
    targets = given.detach().flatten(2).transpose(1, 2).flatten(0, 1).double()
    assert_close(found.moments.crossed, rows.T @ targets, rtol=1e-4, atol=1e-2)


def test_of_a_tiny_network_it_is_the_engines():
    torch.manual_seed(0)
    sizes = Sizes(channels=5, hidden=2, image_size=12)
    network = drawn(Network("conv_bias", sizes))
    images, wanted = torch.rand(9, 1, 12, 12), torch.randn(9, 10)
    found = seen(network, images, wanted, "block.conv1")
    stacked = {name: tensor[None] for name, tensor in weights(network).items()}
    engine = ManyNetworks("conv_bias", stacked, images, Compute(engine="torch"))
    block = part(stacked, "block")
    loss, gradient = engine.behaviour("conv_bias", block, wanted.softmax(-1)[None])
    entropy = torch.special.entr(wanted.softmax(-1)).sum(-1).mean()
    assert_close(found.loss, loss[0] - entropy, rtol=1e-4, atol=1e-5)
    for name, slope in gradient.items():
        end = name.replace("conv1", "into").replace("conv2", "out")
        assert_close(found.gradient[end], slope[0], rtol=1e-4, atol=1e-5)
        assert torch.equal(found.maps[end], block[name][0])

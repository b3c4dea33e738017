"""Blocks made smaller from their weights alone, against closed forms."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from kt.real import Schedule, alone, choose, compress
from kt.real.blocks import find
from kt.real.command import described
from kt.real.graph import Graph, call
from kt.real.moments import Moments
from kt.real.subject import Subject
from kt.real.translate import Report
from kt.run.errors import KTError
from tests.real_networks import NETWORKS, made


def subject(network, example):
    network.requires_grad_(False)
    graph = Graph(network, example)
    draw = torch.Generator().manual_seed(0)
    blocks, _ = find(network, graph)
    return Subject(network, graph, blocks, 64, draw, lambda what, done, total: None)


def test_moments_of_rectified_noise_are_the_arc_cosine_kernel():
    """Cho and Saul, 2009: E[relu(u.x) relu(v.x)] = |u||v| (sin t + (pi - t) cos t) / (2 pi)."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 10, bias=False), nn.ReLU(), nn.Linear(10, 4)).eval()
    example = torch.randn(1, 6)
    (moments,) = alone.imagined(subject(network, example), example)
    weight = network[0].weight.double()
    sizes = weight.norm(dim=1)
    cosine = (weight @ weight.T / sizes.outer(sizes)).clamp(-1, 1)
    angle = cosine.arccos()
    kernel = sizes.outer(sizes) * (angle.sin() + (math.pi - angle) * cosine) / (2 * math.pi)
    count = moments.inputs[-1, -1]
    assert count >= 4096
    assert_close(moments.inputs[:-1, :-1] / count, kernel, atol=0.03, rtol=0)
    mean = sizes / math.sqrt(2 * math.pi)
    assert_close(moments.inputs[-1, :-1] / count, mean, atol=0.02, rtol=0)


def test_batch_norms_pass_on_the_mean_and_deviation_of_training():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)).eval()
    with torch.no_grad():
        for tensor in (network[1].weight, network[1].bias, network[1].running_mean):
            tensor.normal_()
        network[1].running_var.uniform_(0.1, 10)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    example = torch.full((2, 3, 12, 12), 5.0)
    (moments,) = alone.imagined(subject(network, example), example)
    inputs = moments.inputs / moments.inputs[-1, -1]
    mean = inputs[-1, :-1]
    deviation = (inputs.diagonal()[:-1] - mean**2).sqrt()
    assert_close(mean, network[1].bias.double(), atol=0.1, rtol=0)
    assert_close(deviation, network[1].weight.abs().double(), atol=0.05, rtol=0.05)
    assert_close(network.state_dict(), before, atol=0, rtol=0)


def test_shares_and_spread_are_those_of_the_numbers_themselves():
    torch.manual_seed(0)
    hidden = (torch.randn(500, 5).double() @ torch.randn(5, 6).double()).relu()
    weights = torch.randn(7, 4).double()
    rows = F.pad(hidden, (0, 1), value=1.0)
    given = rows @ weights
    importance = torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    moments = Moments(rows.T @ rows, rows.T @ given, 1, importance)
    kept = [0, 2, 5]
    weight, bias = choose.fit(moments, kept)
    missed = (given - hidden[:, kept] @ weight.T - bias).square().mean(0) @ importance
    variance = given.var(0, correction=0) @ importance
    assert alone.unexplained(moments, weights, kept) == pytest.approx((missed / variance).item())
    weight, bias = alone.fit(moments, weights, kept)
    found = hidden[:, kept] @ weight.T + bias
    assert_close(found.mean(0), given.mean(0))
    assert_close(found.std(0), given.std(0))
    assert alone.unexplained(moments, weights, list(range(6))) < 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_goes_through(name):
    network, example = made(name)
    smaller, again = (compress(network, example, 0.6, weights_alone=True) for _ in range(2))
    report = smaller.kt_report
    assert report.multiply_adds[1] <= 0.6 * report.multiply_adds[0]
    assert (report.images, report.steps, report.agreement) == (0, 0, None)
    assert "From the weights alone" in "\n".join(described(report))
    assert_close(call(again, example), call(smaller, example), atol=0, rtol=0)
    whole = compress(network, example, 1.0, weights_alone=True)
    assert_close(call(whole, example), call(network, example), atol=0, rtol=0)


def test_nothing_in_the_example_counts_but_its_size():
    network, example = made("residual")
    one, other = (
        compress(network, given, 0.6, weights_alone=True) for given in (example, 3 * example[:1])
    )
    assert_close(one.state_dict(), other.state_dict(), atol=0, rtol=0)


def test_a_block_that_gives_nothing_stays_finite():
    network, example = made("residual")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    smaller = compress(network, example, 0.6, weights_alone=True)
    assert all(tensor.isfinite().all() for tensor in smaller.state_dict().values())


def test_what_is_shown_is_refused():
    network, example = made("residual")
    with pytest.raises(KTError, match="images: weights_alone accepts none"):
        compress(network, example, 0.6, example, weights_alone=True)
    with pytest.raises(KTError, match="accepts no steps"):
        compress(network, example, 0.6, weights_alone=True, schedule=Schedule(3))
    for schedule in (0, 5, False, "x"):
        with pytest.raises(KTError, match="it accepts a Schedule"):
            compress(network, example, 0.6, schedule=schedule)


def test_weights_too_large_for_half_precision_are_refused():
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).half()
    network[2].weight.data.fill_(5e4)
    with pytest.raises(KTError, match=r"2\.weight is not finite"):
        compress(network, torch.randn(2, 6).half(), 0.3, weights_alone=True)


class Spread(nn.Module):
    """A linear layer that reads images with their channels last, as ConvNeXt's do."""

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(6, 12, bias=False), nn.Linear(12, 6)

    def forward(self, x):
        return self.out(torch.relu(self.into(x.permute(0, 2, 3, 1)))).mean((1, 2))


def test_what_a_linear_layer_reads_of_images_is_white():
    torch.manual_seed(0)
    network, example = Spread().eval(), torch.randn(2, 6, 9, 9)
    with torch.no_grad():
        network.into.weight.copy_(torch.eye(6).repeat(2, 1))
    (moments,) = alone.imagined(subject(network, example), example)
    inputs = moments.inputs / moments.inputs[-1, -1]
    mean = inputs[-1, :6]
    spread = inputs[:6, :6] - mean.outer(mean)
    off = spread - spread.diagonal().diag()
    assert off.abs().max() < 0.15 * spread.diagonal().mean()


@pytest.mark.parametrize(
    "change",
    [lambda n: n.half(), lambda n: n.train(), lambda n: n.to(memory_format=torch.channels_last)],
    ids=["half", "train", "channels last"],
)
def test_networks_keep_their_types_and_modes(change):
    network, example = made("residual")
    network = change(network)
    example = example.to(next(network.parameters()).dtype)
    smaller = compress(network, example, 0.6, weights_alone=True)
    assert smaller.training == network.training
    assert smaller.stem.weight.dtype == network.stem.weight.dtype
    assert smaller.blocks[0].conv1.out_channels < 16


def test_a_report_says_whether_steps_were_taken():
    report = Report({}, {}, (2, 1), (2, 1), (1.0, 0.5), (90.0, 95.0), 100, False, 300, 1.0)
    assert "90.0 % after least squares, 95.0 % after 300 steps; 100" in "\n".join(described(report))
    none = replace(report, agreement=(90.0, 90.0), steps=0)
    assert "90.0 % after least squares, no step was taken; 100" in "\n".join(described(none))

"""Whitened gradients, against closed forms and networks whose norms are folded in."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.testing import assert_close

import kt
from kt.real import Schedule, steps, whiten
from kt.real.graph import Graph
from kt.real.steps import divergence
from kt.real.whiten import DAMPING, Whitening, unit, whitenings
from kt.translators.merge.descent import QUICK


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def found(network: nn.Module, examples: torch.Tensor) -> dict[str, Whitening]:
    graph = Graph(network, examples[:2])
    return whitenings(network, graph, examples, torch.Generator().manual_seed(0))


def damped(products: torch.Tensor) -> torch.Tensor:
    return products / products.diagonal().mean() + DAMPING * torch.eye(len(products))


def test_a_linear_layers_direction_is_its_gradient_by_the_inverse_of_its_inputs_products():
    examples = drawn(200, 4) @ drawn(4, 4, seed=1)
    white = found(nn.Sequential(nn.Linear(4, 3)), examples)["0"]
    gradient = drawn(3, 4, seed=2)
    expected = torch.linalg.solve(damped(examples.T @ examples), gradient.T).T
    assert_close(white.direction(gradient), unit(expected), rtol=1e-4, atol=1e-5)
    assert white.size(2 * gradient) == pytest.approx(2 * gradient.square().mean().sqrt().item())


def test_a_convolutions_products_are_those_of_its_patches(monkeypatch):
    convolution = nn.Conv2d(3, 2, 3, stride=2, padding=1)
    examples = drawn(50, 3, 8, 8)
    patches = F.unfold(examples, 3, padding=1, stride=2).transpose(1, 2).flatten(0, 1)
    gradient = drawn(2, 3, 3, 3, seed=1)
    expected = torch.linalg.solve(damped(patches.T @ patches), gradient.flatten(1).T).T
    white = found(nn.Sequential(convolution), examples)["0"]
    assert_close(white.direction(gradient).flatten(1), unit(expected), rtol=1e-3, atol=1e-4)
    # Of a map that reads too many numbers, channels alone are whitened, all taps alike.
    monkeypatch.setattr(whiten, "LARGEST", 26)
    channels = patches.unflatten(1, (3, 9)).transpose(1, 2).flatten(0, 1)
    expected = torch.einsum(
        "cd,odhw->ochw", torch.linalg.inv(damped(channels.T @ channels)), gradient
    )
    white = found(nn.Sequential(convolution), examples)["0"]
    assert_close(white.direction(gradient), unit(expected), rtol=1e-3, atol=1e-4)


def test_a_batch_norm_behind_a_map_changes_no_step():
    """A step of the weights does what it does where the norm is folded in."""
    norm = nn.BatchNorm2d(4).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, -0.5, 1.0, 0.1]))
        norm.running_var.copy_(torch.tensor([0.3, 2.0, 1.0, 1.0]))
    convolution, examples = nn.Conv2d(3, 4, 3, bias=False), drawn(20, 3, 8, 8)
    apart = nn.Sequential(convolution, norm)
    folded = nn.Sequential(fuse_conv_bn_eval(copy.deepcopy(convolution).eval(), norm))
    directions, sizes = [], []
    for network in (apart, folded):
        loss = network(examples).pow(3).mean()
        white, weight = found(network, examples)["0"], network[0].weight
        (gradient,) = torch.autograd.grad(loss, weight)
        directions.append(white.direction(gradient))
        sizes.append(white.size(weight))
    scale = (norm.weight * (norm.running_var + norm.eps).rsqrt()).abs().view(-1, 1, 1, 1)
    signs = norm.weight.sign().view(-1, 1, 1, 1)
    assert_close(directions[0] * scale * signs, directions[1], rtol=1e-3, atol=1e-4)
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-5)


def test_what_has_no_products_is_not_whitened():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(4, 4, 3)
            self.grouped = nn.Conv2d(4, 4, 3, groups=2)
            self.unused = nn.Linear(2, 2)
            self.dark = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            x = self.grouped(self.first(x))
            return x + self.dark(0 * x)

    assert set(found(Odd().eval(), drawn(5, 4, 8, 8))) == {"first"}


def test_steps_overcome_correlated_inputs_and_leave_the_norms_weights():
    """On ill-conditioned inputs whitened steps go where plain ones of no length go."""
    torch.manual_seed(0)
    mix = torch.logspace(0, -1.5, 8)[:, None] * torch.linalg.qr(torch.randn(8, 8)).Q
    wanted = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)).eval()
    network = copy.deepcopy(wanted)
    with torch.no_grad():
        network[0].weight += 0.3 * torch.randn_like(network[0].weight)
    batches = [torch.randn(64, 8) @ mix for _ in range(60)]
    graph, unseen = Graph(wanted, batches[0]), torch.randn(500, 8) @ mix

    def error(white: bool, stride: float) -> float:
        moved = copy.deepcopy(network)
        with pytest.MonkeyPatch.context() as patch:
            if not white:
                patch.setattr(steps, "whitenings", lambda *given: {})
            steps.descend(
                moved, wanted, graph, itertools.cycle(batches), Schedule(40, stride=stride), 1,
                torch.Generator().manual_seed(0),
            )  # fmt: skip
        if white:
            assert moved[1].weight.equal(network[1].weight)
        assert moved[1].running_var.equal(network[1].running_var)
        assert not any(p.grad is not None for p in moved.parameters())
        return divergence(moved(unseen), wanted(unseen)).item()

    whitened, plain = (min(error(white, x) for x in (0.015, 0.03, 0.06)) for white in (True, False))
    assert whitened < 0.6 * plain


def test_lengths_fall_as_those_of_the_translator_in_the_package():
    rates = (kt.load_translator().descent.free_rate.detach() * QUICK).exp().mean(1)
    falling = Schedule(len(rates), stride=0.5, warmup=1)
    lengths = torch.tensor([falling.length(step, 3) for step in range(len(rates))])
    assert_close(lengths, 0.5 * rates / rates[0], atol=0.07, rtol=0)  # another processor's run
    between = Schedule(2 * len(rates), stride=0.5, warmup=1)
    assert_close(torch.tensor([between.length(2 * step, 3) for step in range(8)]), lengths)
    assert between.length(15, 3) == pytest.approx(lengths[-1] / 2)
    assert Schedule(1, stride=0.5, warmup=1).length(0, 3) == 0.5
    assert Schedule(9, stride=0.5, warmup=4).length(0, 3) == 0.125

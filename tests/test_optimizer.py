"""The optimisers against torch's own classes, bit by bit."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from kt.run.optimizer import SGD, Adam

PAIRS = [
    (
        lambda m: Adam(m.parameters(), 0.01, fused=False),
        lambda p: torch.optim.Adam(p, 0.01, foreach=True),
    ),
    (lambda m: Adam(m.parameters(), 0.01), lambda p: torch.optim.Adam(p, 0.01, fused=True)),
    (
        lambda m: Adam(m.parameters(), 0.01, 0.1),
        lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, fused=True),
    ),
    (
        lambda m: SGD(m.parameters(), 0.01, 0.9, 0.02),
        lambda p: torch.optim.SGD(p, 0.01, 0.9, weight_decay=0.02),
    ),
]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(5, 9), nn.GELU(), nn.LayerNorm(9), nn.Linear(9, 3)
        return nn.Sequential(*layers, nn.ParameterList([torch.ones(2)]))  # one is never used


def gradients(model: nn.Module, step: int) -> None:
    draw = torch.Generator().manual_seed(step)
    model.zero_grad()
    model[:4](torch.randn(7, 5, generator=draw)).square().sum().backward()


def rate(step: int) -> float:
    return 0.01 / (step + 1)


def reference(make, steps: int) -> list[Tensor]:
    model = network()
    optimizer = make(model.parameters())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate(step)
        gradients(model, step)
        optimizer.step()
    return list(model.parameters())


@pytest.mark.parametrize(("make", "theirs"), PAIRS, ids=["adam foreach", "adam", "adamw", "sgd"])
@pytest.mark.parametrize("stopped", [0, 1, 6])
def test_every_bit_is_that_of_torch_also_after_a_stop(make, theirs, stopped):
    model = network()
    optimizer = make(model)
    for step in range(10):
        if step == stopped:
            again = network()
            again.load_state_dict(model.state_dict())
            state = optimizer.state_dict()
            model, optimizer = again, make(again)
            optimizer.load_state_dict(state)
        optimizer.lr = rate(step)
        gradients(model, step)
        optimizer.step()
    for ours, wanted in zip(model.parameters(), reference(theirs, 10), strict=True):
        assert torch.equal(ours, wanted)


def test_another_optimizers_state_is_refused():
    with pytest.raises(KeyError):
        Adam(network().parameters(), 0.1).load_state_dict(
            SGD(network().parameters(), 0.1, 0.9).state_dict()
        )


def test_training_does_not_import_the_compiler():
    code = (
        "import sys, torch; from torch import nn; from kt.run.optimizer import Adam; "
        "model = nn.Linear(2, 2); adam = Adam(model.parameters(), 0.1); "
        "model(torch.ones(1, 2)).sum().backward(); adam.step(); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

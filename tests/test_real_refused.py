"""What cannot be made smaller, or asked for, is refused in one line."""

import itertools
import os
import threading

import numpy
import pytest
import torch
from torch import nn

import kt
from kt.real import Schedule, compress
from kt.run.errors import KTError
from tests.real_networks import made
from tests.test_real import few
from tests.test_real_robust import Plain


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda x: x * torch.nan, "is not finite"), (lambda x: "cat", "holds no tensor"),
     (lambda x: None, "holds no tensor"), (lambda x: x.argmax(1), "no tensor of floating-point"),
     (lambda x: x[:, :0], "no tensor of floating-point")],
)  # fmt: skip
def test_a_network_without_answers_is_refused(change, words):
    class Other(Plain):
        def forward(self, x):
            return change(super().forward(x))

    with pytest.raises(KTError, match=f"the network's answer .*{words}"):
        compress(Other(nn.ReLU()), torch.rand(2, 6), 0.5, torch.rand(8, 6))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda calls, y: y if calls < 5 else y[:, :2], r"from call to call: \[\(.*\)\], then \["),
        (lambda calls, y: y if calls % 3 else y[:1], "change shape from call to call"),
        (lambda calls, y: (y,) * (1 + calls % 2), "change shape from call to call"),
        (lambda calls, y: y + torch.randn_like(y), "differ from call to call: it must not draw"),
        (lambda calls, y: y * calls, "differ from call to call"),
        (lambda calls, y: y if calls < 8 else y * torch.nan, "to some examples are not finite"),
        (lambda calls, y: y if calls < 8 else y[99], "fails on a batch of .* .IndexError: "),
        (lambda calls, y: y.detach(), "carry no gradients: ask for 0 steps"),
    ],
)
def test_a_network_that_answers_otherwise_now_and_then_is_refused(change, words):
    class Changing(Plain):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return change(self.calls, super().forward(x))

    torch.manual_seed(0)
    network, shown = Changing(nn.ReLU()).eval(), torch.rand(8, 6)
    with pytest.raises(KTError, match=words) as caught:
        compress(network, shown[:2], 0.5, shown, schedule=Schedule(9))
    assert "\n" not in str(caught.value)


def test_steps_whose_gradients_the_network_overwrites_are_refused():
    """It answers, but what its gradients need of an activation is changed in place."""

    class Overwriting(Plain):
        def forward(self, x):
            return super().forward(x).sigmoid().mul_(2)

    torch.manual_seed(0)
    network, shown = Overwriting(nn.ReLU()).eval(), torch.rand(8, 6)
    with pytest.raises(KTError, match=r"give no gradients: ask for 0 steps .*inplace") as caught:
        compress(network, shown[:2], 0.5, shown, schedule=Schedule(1))
    assert "\n" not in str(caught.value)
    compress(network, shown[:2], 0.5, shown, schedule=Schedule(0))


def test_networks_that_cannot_be_worked_on_are_refused():
    complex_ = Plain(nn.ReLU())
    complex_.phase = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    with pytest.raises(KTError, match="phase is complex: only networks of real weights"):
        compress(complex_, torch.rand(2, 6))
    locked = Plain(nn.ReLU())
    locked.lock = threading.Lock()
    with pytest.raises(KTError, match=r"cannot be copied .TypeError: .*lock"):
        compress(locked, torch.rand(2, 6))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"of": "flops"}, "of is 'flops'; it accepts multiply-adds or parameters"),
        ({"ratios": "evn"}, "ratios is 'evn'; it accepts harm or even"),
        ({"round_to": 0}, "round_to is 0; it accepts a number above 0"),
        ({"positions": 0}, "positions is 0"),
        ({"keep": 1.5}, "keep is 1.5; it accepts a share above 0 and up to 1"),
        ({"keep": "0.5"}, "keep is '0.5'"),
        ({"keep": {"first": True}}, "keep: first is True; it accepts a width"),
        ({"keep": {"first": 3.5}}, "keep: first is 3.5; it accepts a width"),
        ({"model": Plain}, "model is a type; it accepts a torch.nn.Module"),
        ({"example": numpy.zeros((2, 3))}, "example is ndarray; it accepts a tensor"),
        ({"example": torch.tensor(1.0)}, r"example is of shape \(\); it accepts one"),
        ({"example": torch.rand(0, 3)}, r"example is of shape \(0, 3\); it accepts one"),
        ({"images": [None]}, "images: a batch is of NoneType"),
        ({"images": (torch.zeros(0, 3, 12, 12) for _ in itertools.count())}, "0 are too few"),
        ({"images": {"x": torch.zeros(4, 3, 12, 12)}}, "have the names .'x'., the example's"),
        ({"images": torch.zeros(4, 3, 12, 12).to_sparse()}, "images: there is a sparse"),
        ({"images": torch.full((4, 3, 12, 12), torch.nan)}, "images hold numbers that are not"),
        ({"images": ""}, "images is ''; it accepts a name"),
        ({"example": torch.zeros(2, 3, 12, 12).to_sparse()}, "example: there is a sparse"),
        ({"example": torch.zeros(2, 3, 12, 12, device="meta")}, "example: .* on the device meta"),
        ({"example": torch.nested.nested_tensor([torch.ones(2)])}, "example: there is a sparse"),
        ({"progress": lambda done: None}, "progress is .* a function of what is done"),
        ({"images": [torch.zeros(2, 3, 16, 16), torch.zeros(2, 3, 8, 8)]}, "images"),
    ],
)
def test_what_cannot_be_asked_for_is_said_in_one_line(given, words):
    network, example = made("residual")
    asked = {"model": network, "example": example, "images": few(example)} | given
    with pytest.raises(KTError, match=words):
        compress(**asked)


@pytest.mark.parametrize("steps", [{"steps": -1}, {"batch": 0}, {"stride": float("nan")}])
def test_steps_that_cannot_be_taken_are_refused(steps):
    with pytest.raises(KTError, match=f"{next(iter(steps))} is .*; it accepts a number"):
        Schedule(**steps)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda n: n.stem.weight.data.fill_(torch.nan), "stem.weight of the network is not finite"),
        (lambda n: setattr(n, "own", nn.Parameter(torch.tensor(torch.inf))), "own of the network"),
        (lambda n: n.blocks[0].bn1.running_mean.fill_(torch.inf), "running_mean of the network is"),
        (lambda n: n.to("meta"), "has no numbers: it is on the device meta"),
        (lambda n: setattr(n, "head", nn.LazyLinear(5)), "has no numbers yet: call the network"),
        (lambda n: setattr(n.head, "out_features", 99), "head of the network does not hold"),
        (lambda n: setattr(n, "state_dict", lambda *given: {"a": 3}), "a, which is no tensor"),
        (lambda n: setattr(n, "named_modules", lambda *a, **k: 1 / 0), "read .ZeroDivisionError"),
    ],
)
def test_weights_that_cannot_be_are_said_to_be_the_given_ones(change, words):
    network, example = made("residual")
    change(network)
    with pytest.raises(KTError, match=words):
        compress(network, example, 0.6, few(example))


def test_a_variance_that_no_training_makes_is_refused():
    network, example = made("residual")
    network.blocks[0].bn1.running_var[0] = -1e-6
    with pytest.raises(KTError, match=r"blocks\.0\.bn1\.running_var holds a negative variance"):
        compress(network, example, 0.6, few(example))


def test_such_a_variance_in_a_file_is_refused(tmp_path):
    network, _ = made("residual")
    network.blocks[0].bn1.running_var[0] = -1e-6
    torch.save(network.state_dict(), tmp_path / "n")
    with pytest.raises(KTError, match=r"n holds a negative variance \(blocks\.0\.bn1\.running_var"):
        kt.load(lambda: made("residual")[0], tmp_path / "n")


def test_of_a_file_with_code_the_reason_is_told_and_no_advice(tmp_path):
    torch.save({"code": os.system}, tmp_path / "n")
    with pytest.raises(KTError, match=r"weights alone \(.*posix.system.*\)") as caught:
        kt.load(lambda: made("residual")[0], tmp_path / "n")
    assert "weights_only" not in str(caught.value) and "trusted" not in str(caught.value)

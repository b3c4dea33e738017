"""Networks as they come: each is made smaller rightly, or refused in one line."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.testing import assert_close

from kt.real import Schedule, compress, drawing, images
from kt.real.blocks import find
from kt.real.graph import Graph, call
from kt.run.errors import KTError
from tests.real_networks import made
from tests.test_real import few


def both(network, example, keep=0.7):
    """The network at full width, and made smaller."""
    torch.manual_seed(1)
    examples = few(example)
    schedule = Schedule(2)
    return (compress(network, example, share, examples, schedule=schedule) for share in (1.0, keep))


class Plain(nn.Module):
    """Two linear layers with something between, and a last layer."""

    def __init__(self, between: nn.Module, last: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.between = nn.Linear(6, 12), between
        self.second, self.last = nn.Linear(12, 6), last or nn.Linear(6, 3)

    def forward(self, x):
        return self.last(x + self.second(self.between(self.first(x))))


def test_modes_and_gradients_stay_and_batch_norm_is_not_touched():
    network, example = made("residual")
    network.train()
    network.blocks[0].eval()
    network.stem.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    _, smaller = both(network, example)
    for (name, ours), theirs in zip(smaller.named_modules(), network.modules(), strict=True):
        assert ours.training == theirs.training, name
    assert not smaller.stem.weight.requires_grad and smaller.head.weight.requires_grad
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in smaller.parameters())
    smaller.train()(example).sum().backward()  # it can be trained


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_stays(kind):
    network, example = made("residual")
    full, smaller = both(network.to(kind), example.to(kind))
    assert {t.dtype for t in smaller.state_dict().values()} == {kind, torch.int64}
    assert_close(full(example.to(kind)), network(example.to(kind)), atol=0, rtol=0)


def test_channels_last():
    network, example = made("residual")
    network = network.to(memory_format=torch.channels_last)
    example = example.contiguous(memory_format=torch.channels_last)
    full, smaller = both(network, example)
    assert_close(full(example), network(example), atol=0, rtol=0)
    assert smaller(example).shape == (4, 5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_another_device():
    network, example = made("residual")
    full, smaller = both(network.cuda(), example.cuda())
    assert_close(full(example.cuda()), network(example.cuda()))
    assert {p.device.type for p in smaller.parameters()} == {"cuda"}


@pytest.mark.parametrize("norm", [lambda: nn.GroupNorm(3, 12), lambda: nn.LayerNorm(12)])
def test_norms_over_hidden_channels_are_left_and_named(norm):
    network = Plain(norm()).eval()
    _, left = find(network, Graph(network, torch.randn(4, 6)))
    assert "not known to keep channels apart" in left["first"]
    with pytest.raises(KTError, match=r"^nothing to translate: first: .*between"):
        compress(network, torch.randn(4, 6))


def test_groupnorm_behind_the_block_is_no_obstacle():
    network = Plain(nn.ReLU(inplace=True), nn.GroupNorm(2, 6)).eval()
    full, smaller = both(network, torch.randn(4, 6))
    x = torch.randn(9, 6)
    assert_close(full(x), network(x), atol=0, rtol=0)
    assert smaller.first.out_features < 12


def test_shared_layers_and_tied_weights_are_left_and_named():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 12), nn.Linear(12, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.c(self.b(F.relu(self.a(self.b(F.relu(self.a(x)))))))

    network = Twice().eval()
    _, left = find(network, Graph(network, torch.randn(4, 6)))
    assert left["a"] == "a is called 2 times"

    tied = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 12))
    tied[4].weight = tied[0].weight
    _, left = find(tied, Graph(tied, torch.randn(4, 6)))
    assert left["0"] == "0 shares its weights"

    class Direct(Plain):
        def forward(self, x):
            return super().forward(x) + F.linear(x, self.first.weight).mean()

    direct = Direct(nn.ReLU()).eval()
    with pytest.raises(KTError, match="first shares its weights"):
        compress(direct, torch.randn(4, 6))


def test_what_mixes_channels_or_reads_them_elsewhere_is_left():
    def reasons(forward, **layers):
        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 3)
                for name, layer in layers.items():
                    setattr(self, name, layer)

            def forward(self, x):
                return forward(self, x)

        network = Network().eval()
        return find(network, Graph(network, torch.randn(4, 6)))[1]["a"]

    assert "softmax" in reasons(lambda s, x: s.b(s.a(x).softmax(1)))
    assert reasons(lambda s, x: (s.b(h := s.a(x)), h)) == "its output is the network's"
    assert "combined" in reasons(lambda s, x: s.b(s.a(x) * x.repeat(1, 2)))
    assert "getitem" in reasons(lambda s, x: s.b(torch.cat([s.a(x)[:, :6], x], 1)[:, :12]))
    two = reasons(lambda s, x: s.b(h := s.a(x)) + s.c(h), c=nn.Linear(12, 3))
    assert two == "read by several layers"
    assert "view" in reasons(lambda s, x: s.b(s.a(x).view(-1, 12)))
    scaled = reasons(lambda s, x: s.b(s.a(x) * s.gain), gain=nn.Parameter(torch.ones(12)))
    assert "combined" in scaled


def test_hooks_are_refused_and_parametrised_layers_left():
    network, example = made("residual")
    network.blocks[0].register_forward_hook(lambda *a: None)
    with pytest.raises(KTError, match=r"blocks\.0 carries forward hooks"):
        compress(network, example)
    network = Plain(nn.ReLU())
    parametrizations.weight_norm(network.first)
    with pytest.raises(KTError, match="nothing to translate"):
        compress(network.eval(), torch.randn(4, 6))


def test_mapping_inputs_optional_inputs_and_dictionaries():
    network, tokens = made("transformer")
    example = {"tokens": tokens, "mask": torch.ones(tokens.shape)}
    examples = {"tokens": few(tokens), "mask": torch.rand(60, tokens.shape[1])}
    smaller = compress(network, example, 0.7, examples, schedule=Schedule(2))
    assert smaller.mlp[0].out_features < 24
    assert call(smaller, example)["hidden"].shape == (4, 7, 8)
    assert 0 < smaller.kt_report.agreement[1] <= 100
    with pytest.raises(KTError, match="images: needed"):
        compress(network, tokens)


def test_all_sources_of_images():
    network, example = made("residual")
    examples = few(example, 40)
    batches = [(part, torch.zeros(len(part))) for part in examples.split(7)]
    by_tensor, by_loader = (
        compress(network, example, 0.7, given, schedule=Schedule(2))
        for given in (examples, batches)
    )
    assert_close(by_tensor.state_dict(), by_loader.state_dict(), atol=0, rtol=0)
    for wrong, message in (
        (examples[:, :2], r"each is \[\(2, 12, 12\)\]"),
        (examples[:1], "too few"),
        ([], "there are none"),
        ("nowhere", "no folder"),
    ):
        with pytest.raises(KTError, match=message):
            compress(network, example, 0.7, wrong)


def test_requests_that_cannot_be_met_are_refused():
    network, example = made("residual")
    for keep in (0, -1, 1.5):
        with pytest.raises(KTError, match="keep is"):
            compress(network, example, keep, few(example))
    with pytest.raises(KTError, match=r"too small: .* costs"):
        compress(network, example, 0.01, few(example), ratios="even")
    with pytest.raises(KTError, match=r"as they may be \(round_to is 999\) the rest still costs"):
        compress(network, example, 0.6, few(example), round_to=999)
    with pytest.raises(KTError, match="does not accept the example"):
        compress(network, (example, example))
    with pytest.raises(KTError, match=r"torch\.fx cannot trace"):
        compress(Branching(), torch.randn(2, 6))
    with pytest.raises(KTError, match="calls no convolution"):
        compress(nn.ReLU(), torch.randn(2, 6))


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_without_images_batch_norms_adapt_to_drawn_ones_and_come_back(monkeypatch):
    for name in ("COUNT", "FEWEST"):
        monkeypatch.setattr(drawing, name, 64)
    network, _ = made("residual")
    example = torch.randn(2, 3, 16, 16)
    drawn = drawing.make(example, torch.Generator().manual_seed(0), lambda done, total: None)
    assert drawn.shape == (64, 3, 16, 16)
    assert_close(drawn.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    assert_close(drawn.std((0, 2, 3)), torch.ones(3))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    drawing.adapt(network, [drawn])
    seen = {}
    for norm in drawing.norms_of(network):
        norm.register_forward_hook(
            lambda module, given, value: seen.update({module: value.clone()})
        )
    network(drawn)
    for norm, value in seen.items():  # whatever the images, what training saw
        assert_close(value.mean((0, 2, 3)), norm.bias, rtol=0, atol=1e-4)
        assert_close(value.std((0, 2, 3)), norm.weight.abs(), rtol=1e-2, atol=1e-3)
        norm._forward_hooks.clear()
    assert len(seen) == len(list(drawing.norms_of(network)))
    drawing.restore(network)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)

    smaller = compress(network, example, 0.7)
    assert smaller.kt_report.made and smaller.kt_report.images == 64
    assert _statistics(smaller) < _statistics(network)  # those of the channels that are kept


def _statistics(network):
    norms = drawing.norms_of(network)
    return {
        pair
        for n in norms
        for pair in zip(*(getattr(n, k).tolist() for k in drawing.SEEN[:2]), strict=True)
    }


def test_shapes_that_lie_on_one_another_have_edges():
    """Neighbouring pixels are mostly alike, and sometimes not at all: a heavy tail."""
    drawn = drawing.leaves((64, 3, 32, 32), torch.Generator().manual_seed(0))
    steps = drawn.diff(dim=3).flatten()
    kurtosis = (steps / steps.std()).pow(4).mean()
    assert steps.std() < 0.7 * drawn.std()
    assert kurtosis > 6  # of a normal distribution: 3
    again = drawing.leaves((64, 3, 32, 32), torch.Generator().manual_seed(0))
    assert again.equal(drawn)


def test_shifted_images_hold_no_other_pixels():
    _, example = made("residual")
    shifted = images.varied(example, torch.Generator().manual_seed(0))
    assert shifted.shape == example.shape
    assert set(shifted.unique().tolist()) <= set(example.unique().tolist())


def test_a_block_that_training_has_switched_off_stays_off():
    """Its last batch norm multiplies by 0, as torchvision's zero_init_residual begins."""
    network, example = made("residual")
    with torch.no_grad():
        network.blocks[0].bn2.weight.zero_()
    smaller = compress(network, example, 0.6, few(example), schedule=Schedule(2))
    assert all(tensor.isfinite().all() for tensor in smaller.state_dict().values())
    assert smaller.blocks[0].bn2.weight.equal(network.blocks[0].bn2.weight)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("factor", [1e19, 1e-30, 1e38])
def test_weights_of_any_size_end_in_a_finite_network_or_in_one_line(factor, alone):
    network, example = Plain(nn.ReLU()), torch.randn(2, 6)
    network.first.weight.data *= factor
    network.second.weight.data /= factor
    given = {"weights_alone": True} if alone else {"images": few(example), "schedule": Schedule(2)}
    try:
        smaller = compress(network, example, 0.7, **given)
        assert all(tensor.isfinite().all() for tensor in smaller.state_dict().values())
    except KTError as error:
        assert "\n" not in str(error) and "weights" in str(error)


def test_a_mask_of_infinities_is_no_fault_of_the_weights():
    network = Plain(nn.ReLU())
    network.register_buffer("mask", torch.tensor(-torch.inf))
    smaller = compress(network, torch.randn(2, 6), 0.7, torch.randn(20, 6), schedule=Schedule(2))
    assert smaller.mask == -torch.inf

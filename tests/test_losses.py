"""The parts of the translator's loss against closed forms, and what they do not depend on."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kt import ensemble
from kt.ensemble import Compute
from kt.images import pixels
from kt.networks import symmetry
from kt.networks.blocks import BLOCKS, TARGETS, initial_weights
from kt.networks.weights import part
from kt.translators import losses
from kt.translators.fit import Training, fit
from kt.translators.losses import LossWeights
from kt.translators.mixer import Mixer, MixerConfig
from kt.translators.objectives import BehaviourObjective, WeightObjective
from tests.conftest import trained_networks
from tests.rounding import BLOCK, NETWORK, POSITIONS, assert_near
from tests.test_ensemble import assembled

COUNT = 5


@pytest.fixture
def networks(images):
    return trained_networks(images, COUNT)


@pytest.fixture
def large(networks):
    return part(networks, "large")


# --- closed forms -------------------------------------------------------------------------------


def test_weight_mse_averages_tensors_not_numbers():
    predicted = {"a": torch.zeros(1, 1), "b": torch.zeros(1, 100)}
    target = {"a": torch.full((1, 1), 2.0), "b": torch.ones(1, 100)}
    assert losses.weight_mse(predicted, target).item() == (4 + 1) / 2


def test_standardised_errors_count_in_standard_deviations():
    target = {"a": torch.tensor([[1.0, 5.0], [3.0, 5.0]]), "b": torch.tensor([[0.0], [20.0]])}
    pieces = ({name: tensor[i : i + 1] for name, tensor in target.items()} for i in range(2))
    deviation = losses.deviation(pieces)
    assert deviation["a"].tolist() == [[1.0, 1.0]]  # the second entry never varies
    assert deviation["b"].tolist() == [[10.0]]
    mean = {name: tensor.mean(0, True).expand_as(tensor) for name, tensor in target.items()}
    assert losses.standardised_mse(mean, target, deviation).item() == (0.5 + 1) / 2


def test_what_never_varies_by_rounding_either_keeps_its_error():
    constant = {"a": torch.full((1000, 1), 0.1)}
    assert losses.deviation([constant])["a"].item() == 1


@pytest.mark.parametrize("kind", ["conv", "conv_bias"])
def test_deviations_of_aligned_targets_know_no_order_of_hidden_channels(kind):
    small = initial_weights(kind, range(20))
    moved = symmetry.permute_hidden(small, torch.tensor([2, 0, 1]))
    first, second = losses.deviation([small], True), losses.deviation([moved], True)
    balanced = symmetry.balance(small)["conv1.weight"]
    assert_near(
        first["conv1.weight"][0, 1], balanced.flatten(0, 1).std(0, correction=0), 2 * 20 * 54
    )
    for name in small:
        assert_near(first[name], second[name], 2 * 20 * 54)


@pytest.mark.parametrize("kind", ["conv", "conv_bias"])
@pytest.mark.parametrize("standardise", [False, True])
def test_the_aligned_loss_does_not_depend_on_the_targets_order_and_scale(kind, standardise):
    predicted, small = initial_weights(kind, range(9)), initial_weights(kind, range(50, 59))
    scale = torch.rand(9, 3, generator=torch.Generator().manual_seed(0)) + 0.5
    moved = symmetry.permute_hidden(symmetry.rescale_hidden(small, scale), torch.tensor([1, 2, 0]))
    large, errors = initial_weights("large", range(9)), []
    for target in (small, moved):
        deviation = losses.deviation([target], align=True) if standardise else None
        objective = WeightObjective(large, target, align=True, deviation=deviation)
        errors.append(objective._weight_error(predicted, target))
    assert_near(errors[0], errors[1], 9 * 162)
    orders = [torch.tensor(o) for o in ([0, 1, 2], [1, 0, 2], [2, 1, 0])]
    if not standardise:
        one = {name: tensor[:1] for name, tensor in symmetry.balance(small).items()}
        guess = {name: tensor[:1] for name, tensor in symmetry.balance(predicted).items()}
        least = losses.weight_mse(guess, losses.aligned(one, guess))
        assert all(
            _euclidean(guess, losses.aligned(one, guess))
            <= _euclidean(guess, symmetry.permute_hidden(one, order)) + 1e-6
            for order in orders
        )
        assert least.isfinite()


def _euclidean(a, b):
    return sum((a[name] - b[name]).square().sum() for name in a)


def test_cross_entropy_is_that_of_the_plain_networks(networks, images):
    block = {k: v.requires_grad_() for k, v in initial_weights("conv", range(COUNT)).items()}
    x, labels = pixels(images.images[:10]), images.labels[:10]
    loss = losses.cross_entropy("conv", block, ensemble.Probe("conv", networks, x), labels)
    plain = assembled("conv", networks, block, 2)
    expected = F.cross_entropy(plain(x), labels)
    assert_near(loss[2], expected, NETWORK)
    gradient = torch.autograd.grad(loss[2], block["conv1.weight"])[0][2]
    (wanted,) = torch.autograd.grad(expected, plain.block.conv1.weight)
    assert_near(gradient, wanted, 10 * POSITIONS, gates=10 * POSITIONS)


@pytest.mark.parametrize("kind", TARGETS)
def test_the_feature_error_is_that_of_the_plain_blocks(kind, large):
    small = {k: v.requires_grad_() for k, v in initial_weights(kind, range(COUNT)).items()}
    maps = torch.rand(COUNT, 3, 6, 14, 14, generator=torch.Generator().manual_seed(0))
    wanted = losses.behind("large", large, maps)
    error = losses.feature_error(kind, small, maps, wanted)
    blocks = {"large": large, kind: small}
    made = {}
    for name, stacked in blocks.items():
        made[name] = BLOCKS[name]().eval()
        row = {k: v[2].detach() for k, v in stacked.items()}
        made[name].load_state_dict(row, strict=False)
    expected = F.mse_loss(made[kind](maps[2]), made["large"](maps[2]))
    assert_near(error[2], expected, 2 * POSITIONS + BLOCK)
    name, parameter = next(iter(made[kind].named_parameters()))
    expected.backward()
    gradient = torch.autograd.grad(error[2], small[name])[0]
    assert_near(gradient[2], parameter.grad, 3 * POSITIONS, gates=3 * POSITIONS)
    assert not gradient[:2].any()


def test_parts_grow_linearly_from_nothing():
    shares = LossWeights(weights=1.0, behaviour=2.0, features=0.5, ramp_epochs=4)
    assert shares.at(0) == {"weights": 1.0}
    assert shares.at(1) == {"weights": 1.0, "behaviour": 0.5, "features": 0.125}
    assert shares.at(4) == shares.at(9) == {"weights": 1.0, "behaviour": 2.0, "features": 0.5}
    assert LossWeights().at(0) == {"weights": 1.0}


# --- the objective ------------------------------------------------------------------------------


class Equivariant(nn.Module):
    """A translator to which the order of channels is nothing: means over the hidden ones."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([0.5, -0.3, 0.2]))

    def forward(self, large):
        first, second = large["conv1.weight"].mean(1), large["conv2.weight"].mean(2)
        return {
            "conv1.weight": torch.einsum("k,ncij->nkcij", self.factor, first),
            "conv2.weight": torch.einsum("k,ncij->nckij", self.factor, second),
        }


def combined(networks, images, shares=None, **changes):
    small = initial_weights("conv", range(COUNT))
    function = BehaviourObjective(networks, images, "conv", Compute(), images_per_step=8)
    shares = shares or LossWeights(1.0, 0.5, 0.25, 0.125)
    large = part(networks, "large")
    return WeightObjective(large, small, shares=shares, function=function, **changes)


def loss_of(objective, model, epoch=0):
    torch.manual_seed(3)
    model.zero_grad()
    loss = objective.backward(model, torch.arange(COUNT), epoch)
    return loss, torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("only", ["weights", "behaviour", "cross_entropy", "features"])
def test_no_loss_of_an_equivariant_translator_depends_on_the_order_of_channels(
    only, networks, images, monkeypatch
):
    shares = LossWeights(**({"weights": 0.0} | {only: 1.0}))
    # Images are drawn after the orders, of which the plain objective draws none.
    monkeypatch.setattr(BehaviourObjective, "draw", lambda self: self.images)
    options = {"initial": initial_weights("conv", [5]), "align": only == "weights"}
    plain, shown = (
        loss_of(combined(networks, images, shares, reorder=reorder, **options), Equivariant())
        for reorder in (False, True)
    )
    assert_near(plain[0], shown[0], NETWORK)
    assert_near(plain[1], shown[1], 70 * POSITIONS, gates=70 * POSITIONS)


def test_a_batch_is_shown_in_another_order_but_with_the_same_function(networks, images):
    seen = []

    class Watching(Equivariant):
        def forward(self, large):
            seen.append(large)
            return super().forward(large)

    loss_of(combined(networks, images, reorder=True), Watching())
    torch.manual_seed(3)
    hidden, ends = torch.randperm(6), torch.randperm(6)
    undone = symmetry.permute_ends(
        symmetry.permute_hidden(seen[0], hidden.argsort()), ends.argsort()
    )
    large = part(networks, "large")
    assert not torch.equal(seen[0]["conv1.weight"], large["conv1.weight"])
    assert all(torch.equal(undone[name], large[name]) for name in large)
    around = symmetry.permute_residual(networks, ends)
    before = ensemble.outputs("large", images, networks, large)
    assert_near(ensemble.outputs("large", images, around, seen[0]), before, NETWORK)


def test_the_parts_add_up_with_their_weights_and_the_ramp(networks, images, monkeypatch):
    monkeypatch.setattr(BehaviourObjective, "draw", lambda self: self.images)
    weights = {"weights": 1.0, "behaviour": 0.5, "cross_entropy": 0.25, "features": 0.125}
    each = {
        name: loss_of(
            combined(networks, images, LossWeights(**({"weights": 0.0} | {name: 1.0}))),
            Equivariant(),
        )
        for name in weights
    }
    for epoch, ramp in ((0, 0.0), (1, 0.5), (7, 1.0)):
        shares = LossWeights(**weights, ramp_epochs=2)
        loss, gradient = loss_of(combined(networks, images, shares), Equivariant(), epoch)
        factors = {name: w if name == "weights" else w * ramp for name, w in weights.items()}
        assert_near(loss, sum(f * each[name][0] for name, f in factors.items()), NETWORK)
        expected = sum(f * each[name][1] for name, f in factors.items())
        assert_near(gradient, expected, 70 * POSITIONS, gates=70 * POSITIONS)


def test_the_right_block_costs_nothing(networks, images):
    """The small block that does what the large one does, and the very difference."""

    class Right(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = nn.ParameterDict({k.replace(".", "_"): v for k, v in block.items()})

        def forward(self, large):
            return {name.replace("_", "."): tensor for name, tensor in self.block.items()}

    zero = {name: torch.zeros_like(t) for name, t in networks.items() if name.startswith("large.")}
    silent = networks | zero | {"large.bn1.running_var": networks["large.bn1.running_var"]}
    silent["large.bn2.running_var"] = networks["large.bn2.running_var"]
    initial, target = initial_weights("conv", [1]), initial_weights("conv", range(COUNT))
    nothing = {name: torch.zeros_like(t) for name, t in target.items()}
    looks = LossWeights(weights=0.0, behaviour=1.0, features=1.0)
    assert loss_of(combined(silent, images, looks), Right(nothing))[0].item() < 1e-6
    difference = {name: tensor - initial[name] for name, tensor in target.items()}
    objective = combined(networks, images, LossWeights(), initial=initial)
    assert loss_of(objective, Right(difference))[0].item() < 1e-12


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_workers_and_interruptions_change_no_bit(dropout, networks, images, tmp_path, monkeypatch):
    monkeypatch.setattr("kt.translators.objectives.PIECE", 2)
    monkeypatch.setattr("kt.translators.fit.CHECKPOINT_SECONDS", 0)
    config = MixerConfig(
        layers=1, hidden_size=16, sequence_dim=16, channel_dim=16, dropout=dropout, fold=True
    )
    training = Training(epochs=4, batch_size=4, lr=0.01, evaluate_every=2)
    shares = LossWeights(1.0, 0.5, 0.25, 0.125, ramp_epochs=2)

    def run(name, workers, stop_after=math.inf):
        torch.manual_seed(0)
        model = Mixer(config)

        def on_epoch(record):
            if record["epoch"] == stop_after:
                raise InterruptedError

        objective = combined(
            networks, images, shares, workers=workers, reorder=True, align=True, noise=0.01
        )
        path = tmp_path / name
        fit(model, objective, training, lambda _: {"score": 0.0}, "score", path, on_epoch)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    whole = run("whole", 1)
    for stop_after in (1, 3):
        with pytest.raises(InterruptedError):
            run(f"cut{stop_after}", 2, stop_after)
        assert torch.equal(run(f"cut{stop_after}", 3), whole)

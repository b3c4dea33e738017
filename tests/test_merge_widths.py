"""One merging translator for networks of several widths."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from kt import ensemble
from kt.ensemble import Compute, Probe, Recipe
from kt.images import ImageSet, pixels
from kt.networks import channels as kept
from kt.networks import symmetry
from kt.networks.blocks import Network, Sizes
from kt.networks.weights import part
from kt.run.errors import KTError
from kt.translators import compress
from kt.translators.merge import Merge, MergeConfig
from kt.translators.mixer import Mixer, MixerConfig
from kt.translators.objectives import BehaviourObjective, SeveralWidths

COMPUTE = Compute(engine="torch")
SIZES = Sizes(image_size=12)
WIDTHS = {4: 2, 7: 3}
"""Hidden channels of the small block, by channels; 7 are eliminated down, not enumerated."""


@pytest.fixture(scope="module")
def images():
    draw = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 256, (40, 12, 12), generator=draw, dtype=torch.uint8)
    return ImageSet(drawn, torch.randint(0, 10, (40,), generator=draw))


@pytest.fixture(scope="module")
def networks(images):
    made = {}
    for channels in WIDTHS:
        sizes = Sizes(channels, WIDTHS[channels], image_size=12)
        trained = ensemble.train_networks(
            images, range(2), 1, Recipe(2, 16, 0.05), COMPUTE, sizes=sizes
        )
        made[channels] = {k.replace("block.", "large."): w for k, w in trained.items()}
    return made


@pytest.fixture
def merge(networks, images):
    torch.manual_seed(0)
    made = Merge(MergeConfig(layers=2, hidden_size=16, prototypes=12, sizes=SIZES))
    with torch.no_grad():
        made.descent.step.weight.normal_(std=0.05)
    made.prepare(networks[4], images, torch.Generator().manual_seed(0))
    return made.eval()


@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize("enumerated", [100, 0])
def test_orders_of_channels_do_not_matter_at_any_width(
    merge, networks, channels, enumerated, monkeypatch
):
    monkeypatch.setattr(kept, "ENUMERATED", enumerated)
    whole, hidden = networks[channels], WIDTHS[channels]
    plain = merge.translate(whole, COMPUTE, hidden)
    assert plain["conv1.weight"].shape == (2, hidden, channels, 3, 3)
    order = torch.randperm(channels, generator=torch.Generator().manual_seed(3))
    large = symmetry.permute_hidden(part(whole, "large"), order)
    moved = whole | {f"large.{name}": tensor for name, tensor in large.items()}
    for name, tensor in merge.translate(moved, COMPUTE, hidden).items():
        assert_close(tensor, plain[name], rtol=1e-3, atol=1e-3)
    small = {f"small.{name}": tensor for name, tensor in plain.items()}
    expected = part(symmetry.permute_residual(small, order), "small")
    turned = merge.translate(symmetry.permute_residual(whole, order), COMPUTE, hidden)
    for name, tensor in turned.items():
        assert_close(tensor, expected[name], rtol=1e-3, atol=1e-3)


def copied(whole, copies):
    """Every hidden channel so many times, each with its share of the outgoing weights."""
    made = dict(whole)
    for name, tensor in whole.items():
        if name.startswith(("large.conv1.", "large.bn1.")):
            made[name] = tensor.repeat_interleave(copies, 1)
    outgoing = whole["large.conv2.weight"].repeat_interleave(copies, 2)
    return made | {"large.conv2.weight": outgoing / copies}


@pytest.mark.parametrize("enumerated", [1000, 0])
@pytest.mark.parametrize(("channels", "copies"), [(4, 2), (7, 2), (4, 3)])
def test_copies_of_channels_change_nothing(
    merge, networks, channels, copies, enumerated, monkeypatch
):
    """Answers, the choice of channels and the fit, gradients, whitening: all but the encoder."""
    monkeypatch.setattr(kept, "ENUMERATED", enumerated)
    with torch.no_grad():
        for tensor in merge.propose[-1].parameters():
            tensor.zero_()
    whole, found = networks[channels], []
    for shown in (whole, copied(whole, copies)):
        begin = merge(shown, COMPUTE, hidden=WIDTHS[channels])[0]
        block = {name: tensor.detach() for name, tensor in begin.items()}
        probe = Probe("conv", shown, pixels(merge.prototypes), COMPUTE)
        answers = probe.watch_teacher(part(shown, "large"))
        loss, slopes = probe.behaviour("conv", block, answers.softmax(-1))
        white = probe.whitening("conv", block)
        found.append([answers, loss, *block.values(), *slopes.values(), *white.values()])
    for plain, with_copies in zip(*found, strict=True):
        assert (with_copies - plain).norm() <= 2e-3 * plain.norm() + 1e-6


def test_several_widths_are_learned_together(merge, networks, images):
    parts = [
        BehaviourObjective(networks[c], images, "conv", COMPUTE, 8, hidden=WIDTHS[c])
        for c in WIDTHS
    ]
    both = SeveralWidths(parts)
    assert len(both) == 4

    def gradient(objective, index):
        merge.zero_grad()
        torch.manual_seed(5)
        loss = objective.backward(merge, torch.tensor(index))
        return loss, merge.propose[0].weight.grad.clone()

    found, expected = gradient(both, [3, 2]), gradient(parts[1], [1, 0])
    assert_close(found, expected)
    mixed, first = gradient(both, [1, 3]), gradient(parts[0], [1])
    assert mixed[0] > 0.5 * first[0]
    torch.manual_seed(5)
    merge.zero_grad()
    losses = [part.backward(merge, torch.tensor([1]), 0, 0.5) for part in parts]
    assert_close(mixed, (sum(losses), merge.propose[0].weight.grad))


@pytest.mark.parametrize(
    ("sizes", "hidden", "message"),
    [
        (Sizes(kernel=5, image_size=12), None, "merge is for networks with kernel 3, not 5"),
        (Sizes(image_channels=3, image_size=12), None, "image channels 1, not 3"),
        (Sizes(image_size=20), None, "image size 12, not 20"),
        (Sizes(channels=4, image_size=12), 5, "hidden is 5; accepts 1 to 4"),
    ],
)
def test_networks_that_it_does_not_know_are_refused_in_one_line(merge, sizes, hidden, message):
    network = Network(sizes=sizes)
    with pytest.raises(KTError, match=message) as caught:
        compress(merge, network, hidden)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("channels", "hidden"), [(5, 2), (8, None), (3, 3)])
def test_one_network_of_another_width_is_translated(merge, channels, hidden):
    small = compress(merge, Network(sizes=Sizes(channels, image_size=12)), hidden)
    assert small.sizes.hidden == (hidden or 3) and small.sizes.channels == channels
    assert small(torch.rand(2, 1, 12, 12)).shape == (2, 10)


@pytest.mark.parametrize("channels", WIDTHS)
def test_a_descent_that_goes_astray_is_not_taken(merge, networks, images, channels):
    """By the divergence of plain outputs, the translation is never far worse than the beginning."""
    some, shown = networks[channels], ImageSet(merge.prototypes, torch.zeros(12, dtype=torch.int64))

    def distances(block):
        mine, wanted = (
            ensemble.outputs(kind, shown, some, own, COMPUTE).log_softmax(-1)
            for kind, own in (("conv", block), ("large", part(some, "large")))
        )
        return (wanted.exp() * (wanted - mine)).sum(-1).mean(-1)

    merge.config = replace(merge.config, images_per_layer=6)  # all prototypes
    with torch.no_grad():
        merge.descent.step.weight.zero_()
    seen = set()
    for longer in (-0.5, 0.3, 0.3, 0.3):  # logarithms of the steps' lengths, a tenth of them
        with torch.no_grad():
            merge.descent.free_rate += longer
            blocks = merge(some, COMPUTE, hidden=WIDTHS[channels])
            taken = merge.translate(some, COMPUTE, WIDTHS[channels])
        every = torch.stack([distances(block) for block in blocks])
        astray = every[-1] > 3 * every[0]
        expected = torch.where(astray, every.amin(0), every[-1])
        assert_close(distances(taken), expected)
        seen.update(astray.tolist())
        for i in (~astray).nonzero().flatten().tolist():
            assert all(torch.equal(taken[name][i], blocks[-1][name][i]) for name in taken)
    assert seen == {True, False}


def test_a_mixer_belongs_to_one_size():
    mixer = Mixer(MixerConfig(layers=1))
    with pytest.raises(KTError, match="mixer is for networks with channels 6, not 4"):
        compress(mixer, Network(sizes=Sizes(channels=4)))
    with pytest.raises(KTError, match="own number of hidden channels"):
        compress(mixer, Network(), 4)

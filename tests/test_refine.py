"""Refinement: what it promises about divergence, seeds, neighbours and batch norm's statistics."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kt.images import pixels
from kt.networks.blocks import CONVOLUTIONAL, weights
from kt.networks.weights import part
from kt.rivals import pruning
from kt.run.errors import KTError
from kt.translators import refine, strokes
from tests.conftest import trained_networks
from tests.rounding import POSITIONS, assert_trained_alike, bound
from tests.test_ensemble import assembled

COUNT, STEPS = 3, 30
pytestmark = pytest.mark.usefixtures("few_strokes")


@pytest.fixture
def networks(images):
    return trained_networks(images, COUNT)


def divergences(kind, networks, block, x):
    """Of every assembled network, by the plain modules."""
    found = []
    for i in range(COUNT):
        wanted = assembled("large", networks, part(networks, "large"), i)(x).softmax(-1)
        answers = assembled(kind, networks, block, i)(x).log_softmax(-1)
        found.append(F.kl_div(answers, wanted, reduction="batchmean"))
    return torch.stack(found)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_steps_on_images_lower_the_divergence_of_every_network(kind, networks, images):
    start = pruning.by_norm(kind, part(networks, "large"))
    refined = refine.refine(kind, networks, start, images, STEPS, seed=1)
    x = pixels(images.images)
    before, after = (divergences(kind, networks, block, x) for block in (start, refined))
    assert (after < before).all(), (before, after)


def test_steps_without_images_lower_the_divergence_on_strokes(networks):
    start = pruning.by_norm("conv", part(networks, "large"))
    refined = refine.refine("conv", networks, start, None, STEPS, seed=1)
    unseen = strokes.strokes(64, 4.0, 1.2, torch.Generator().manual_seed(9))
    x = pixels(unseen.images)
    before, after = (divergences("conv", networks, block, x) for block in (start, refined))
    assert after.mean() < before.mean(), (before, after)


def test_softened_networks_give_the_scores_by_the_temperature(networks, images):
    soft, x = refine.softened(networks), pixels(images.images)
    for i in range(COUNT):
        given, wanted = (
            assembled("large", w, part(networks, "large"), i)(x) for w in (soft, networks)
        )
        torch.testing.assert_close(given, wanted / refine.TEMPERATURE)


@pytest.mark.parametrize("shown", [True, False])
def test_a_network_is_refined_alike_whatever_is_beside_it(shown, networks, images):
    start = pruning.by_norm("conv", part(networks, "large"))
    given = images if shown else None
    together = refine.refine("conv", networks, start, given, 5, seed=1)
    one = [{name: tensor[1:2] for name, tensor in w.items()} for w in (networks, start)]
    for name, tensor in refine.refine("conv", *one, given, 5, seed=1).items():
        assert_trained_alike(tensor[0], together[name][1], start[name][1], len(images))
    again = refine.refine("conv", networks, start, given, 5, seed=1)
    other = refine.refine("conv", networks, start, given, 5, seed=2)
    assert all(torch.equal(again[name], together[name]) for name in start)
    assert not any(torch.equal(other[name], together[name]) for name in start)
    assert all(not tensor.requires_grad for tensor in together.values())


def test_labels_are_not_used(networks, images):
    start = pruning.by_norm("conv", part(networks, "large"))
    unlabelled = type(images)(images.images, torch.zeros_like(images.labels))
    a, b = (refine.refine("conv", networks, start, data, 3, 1) for data in (images, unlabelled))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_misfit_is_that_of_the_batch_norms_inputs(networks, images):
    found = strokes.misfit(networks, images)
    for i in range(COUNT):
        plain = assembled("large", networks, part(networks, "large"), i)
        norms = [plain.former.bn, plain.block.bn1, plain.block.bn2, plain.latter.bn]
        inputs = {}

        def keep(norm, received, inputs=inputs):
            inputs[norm] = received[0]

        for norm in norms:
            norm.register_forward_pre_hook(keep)
        plain(pixels(images.images))
        expected = 0.0
        for norm in norms:
            for channel in range(norm.num_features):
                x = inputs[norm][:, channel].double()
                stored = norm.running_mean[channel], (norm.running_var[channel] + norm.eps).sqrt()
                gap = ((x.mean() - stored[0]) / stored[1]) ** 2
                ratio = ((x.var() + norm.eps).sqrt() / stored[1]).log()
                expected += (gap + ratio**2).item() / norm.num_features
        assert found[i].item() == pytest.approx(expected, rel=bound(len(images) * POSITIONS, 1))


def test_the_strokes_whose_statistics_a_network_has_stored_are_chosen(networks):
    def store(norm, inputs):
        norm.running_mean = inputs[0].mean((0, 2, 3))
        norm.running_var = inputs[0].var((0, 2, 3))

    for number, kind in enumerate(strokes.STROKES):
        network = assembled("large", networks, part(networks, "large"), 0)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_pre_hook(store)
        with torch.no_grad():
            network(pixels(strokes.strokes(200, *kind, torch.Generator().manual_seed(5)).images))
        stored = {name.replace("block.", "large."): t[None] for name, t in weights(network).items()}
        assert strokes.fitting_strokes(stored, seed=1).tolist() == [number]


def test_strokes_are_lines_of_the_width_asked_for():
    thin, thick = (
        pixels(strokes.strokes(50, 4.0, w, torch.Generator().manual_seed(1)).images)
        for w in (0.5, 1.5)
    )
    assert thin.shape == (50, 1, 28, 28) and thin.max() == 1 and thin.min() == 0
    assert 0.02 < thin.mean() < thick.mean() < 0.6
    assert (thick - thin).min() >= -1e-6


def test_only_convolutional_blocks_are_refined(networks, images):
    with pytest.raises(KTError, match="not 'mlp'"):
        refine.refine("mlp", networks, {}, images, 1, 1)

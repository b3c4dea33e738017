"""Small blocks from the weights alone: nothing learned, stored or shown."""

import pytest
import torch
from torch import nn

import kt
from kt.images import pixels
from kt.networks.blocks import CONVOLUTIONAL, Sizes
from kt.networks.weights import part, take
from kt.rivals import pruning
from kt.run.errors import KTError
from kt.translators import alone, strokes
from tests.conftest import trained_networks
from tests.test_ensemble import assembled
from tests.test_refine import divergences

COUNT, STEPS = 3, 30


@pytest.fixture
def networks(images):
    return trained_networks(images, COUNT)


@pytest.fixture(autouse=True)
def few_at_once(few_strokes, monkeypatch):
    monkeypatch.setattr(strokes, "ADAPTED", 32)
    monkeypatch.setattr(strokes, "AT_ONCE", 2)
    monkeypatch.setattr(alone, "FITTED", 32)


def drawn(count=48):
    return strokes.strokes(count, 4.0, 1.2, torch.Generator().manual_seed(3))


def test_adapted_statistics_are_those_that_plain_modules_take(networks):
    """In training mode, with the mean over all batches, which are one."""
    found = strokes.adapted(networks, drawn())
    for i in range(COUNT):
        plain = assembled("large", networks, part(networks, "large"), i).train()
        for module in plain.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                module.reset_running_stats()
        with torch.no_grad():
            plain(pixels(drawn().images))
        for name, norm in plain.named_modules():
            if isinstance(norm, nn.BatchNorm2d):
                own = name.replace("block.", "large.")
                for key in ("running_mean", "running_var"):
                    expected = getattr(norm, key)
                    torch.testing.assert_close(
                        found[f"{own}.{key}"][i], expected, rtol=1e-3, atol=1e-4
                    )
    same = {name for name in networks if "running" not in name}
    assert all(torch.equal(found[name], networks[name]) for name in same)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_a_block_goes_with_the_statistics_and_back(kind, networks):
    shown = strokes.adapted(networks, drawn())
    kept = pruning.by_norm(kind, part(networks, "large"))
    wide = pruning.folded(kind, part(shown, "large"))
    each = torch.arange(COUNT)[:, None]
    before = pruning.folded(kind, part(networks, "large"))["conv1.weight"]
    same = (before[:, :, None] == kept["conv1.weight"][:, None]).flatten(3).all(3)
    chosen = same.float().argmax(1)  # (N, hidden): which channels were kept
    there = strokes.moved(kept, networks, shown)
    for name in ("conv1.weight", "conv1.bias"):
        if name in kept:  # a block that is a pruned one is pruned from the other network
            torch.testing.assert_close(there[name], wide[name][each, chosen], rtol=1e-3, atol=1e-4)
    mixed = {name: tensor + 0.3 * torch.randn_like(tensor) for name, tensor in kept.items()}
    back = strokes.moved(strokes.moved(mixed, networks, shown), shown, networks)
    for name, tensor in mixed.items():
        torch.testing.assert_close(back[name], tensor, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_blocks_answer_more_alike_than_pruned_ones(kind, networks, images):
    small = alone.from_weights(kind, networks, 1, steps=STEPS)
    pruned = pruning.by_norm(kind, part(networks, "large"))
    assert {n: t.shape for n, t in small.items()} == {n: t.shape for n, t in pruned.items()}
    x = pixels(images.images)
    ours, theirs = (divergences(kind, networks, block, x) for block in (small, pruned))
    assert ours.mean() < theirs.mean()


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
@pytest.mark.parametrize("steps", [0, 5])
def test_the_scale_of_a_hidden_channel_before_its_batch_norm_does_not_matter(kind, steps, networks):
    """Twice the weights and their outputs' statistics: the same network, so the same block."""
    large = part(networks, "large")
    scale = torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
    changed = dict(networks)
    changed["large.conv1.weight"] = large["conv1.weight"] * scale.view(1, 6, 1, 1, 1)
    changed["large.bn1.running_mean"] = large["bn1.running_mean"] * scale
    eps = nn.BatchNorm2d(1).eps  # counts with the variance
    variance = (large["bn1.running_var"] + eps) * scale**2 - eps
    changed["large.bn1.running_var"] = variance
    one, other = (alone.from_weights(kind, w, 1, steps=steps) for w in (networks, changed))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=2e-2, atol=2e-3)


def test_a_network_is_written_alike_whatever_is_beside_it_and_by_its_seed(networks):
    together = alone.from_weights("conv", networks, 1, steps=5)
    one = alone.from_weights("conv", take(networks, slice(1, 2)), 1, steps=5)
    other = alone.from_weights("conv", networks, 2, steps=5)
    for name, tensor in together.items():
        torch.testing.assert_close(one[name][0], tensor[1], rtol=1e-3, atol=1e-4)
        assert not torch.equal(other[name], tensor)


def test_networks_of_any_size_go_through_the_one_door():
    torch.manual_seed(0)
    sizes = Sizes(channels=4, hidden=2, image_channels=3, image_size=16)
    network = kt.Network("large", sizes).eval()
    small = kt.translate(network, weights_alone=True)
    assert small.block.conv1.weight.shape == (2, 4, 3, 3)
    assert small(torch.rand(2, 3, 16, 16)).isfinite().all()
    narrow = kt.translate(network, hidden=1, weights_alone=True)
    assert narrow.block.conv1.weight.shape == (1, 4, 3, 3)
    assert kt.translate(network, hidden=4, weights_alone=True).block.conv1.out_channels == 4
    for hidden in (-1, 0, 5):
        with pytest.raises(KTError, match=f"hidden is {hidden}; it accepts 1 to 4"):
            kt.translate(network, hidden=hidden, weights_alone=True)
    with pytest.raises(KTError, match="translator: weights_alone accepts none"):
        kt.translate(network, kt.load_translator(), weights_alone=True)


def test_gradients_may_be_switched_off_around_it(networks):
    with torch.no_grad():
        inside = alone.from_weights("conv", networks, 1, steps=2)
    outside = alone.from_weights("conv", networks, 1, steps=2)
    assert all(torch.equal(inside[name], tensor) for name, tensor in outside.items())


def test_other_kinds_are_refused(networks):
    with pytest.raises(KTError, match="not 'mlp'"):
        alone.from_weights("mlp", networks, 1)

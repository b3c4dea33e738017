"""The merging translator and its loss, against plain modules and the symmetries it promises."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from kt import ensemble
from kt.ensemble import Compute, Probe, Recipe
from kt.ensemble.probe import DECAY
from kt.images import ImageSet, pixels
from kt.networks import symmetry
from kt.networks.blocks import CONVOLUTIONAL, initial_weights
from kt.networks.weights import part
from kt.run.errors import KTError
from kt.translators import load_translator, losses, save_translator, translate
from kt.translators.merge import Merge, MergeConfig
from kt.translators.merge.prototypes import make_prototypes
from kt.translators.objectives import BehaviourObjective
from tests.rounding import NETWORK, POSITIONS, assert_near
from tests.test_ensemble import assembled

CONFIG = MergeConfig(layers=3, hidden_size=16, prototypes=20)
COUNT = 4
FITTED = round(27 / DECAY)
"""Terms behind a translation: 27 numbers are fitted, with a condition of at most 1 over decay."""


@pytest.fixture(scope="module")
def images():
    draw = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 256, (60, 28, 28), generator=draw, dtype=torch.uint8)
    drawn[:, ::3] = 0
    return ImageSet(drawn, torch.randint(0, 10, (60,), generator=draw))


@pytest.fixture(scope="module")
def networks(images):
    trained = ensemble.train_networks(images, range(COUNT), 1, Recipe(2, 16, 0.05))
    return {name.replace("block.", "large."): tensor for name, tensor in trained.items()}


def model(networks, images, **changes):
    torch.manual_seed(0)
    made = Merge(MergeConfig(**{**CONFIG.__dict__, **changes}))
    with torch.no_grad():  # larger steps than at the start of training
        made.descent.step.weight.normal_(std=0.05)
    made.prepare(networks, images, torch.Generator().manual_seed(0))
    return made.eval()


@pytest.mark.parametrize("engine", ["torch", "auto"])
@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_the_behaviour_loss_is_the_divergence_of_the_plain_networks(kind, engine, networks, images):
    block = {k: v.requires_grad_() for k, v in initial_weights(kind, range(COUNT)).items()}
    x = pixels(images.images[:10])
    wanted = torch.rand(COUNT, 10, 10, generator=torch.Generator().manual_seed(1)).softmax(-1)
    probe = Probe(kind, networks, x, Compute(engine=engine))
    loss = losses.divergence(kind, block, probe, wanted)
    (3 * loss[2]).backward()
    plain = assembled(kind, networks, block, 2)
    expected = F.kl_div(plain(x).log_softmax(-1), wanted[2], reduction="batchmean")
    assert_near(loss[2], expected, NETWORK, scale=1)
    (3 * expected).backward()
    for name, parameter in plain.block.named_parameters():
        assert_near(block[name].grad[2], parameter.grad, 10 * POSITIONS, gates=10 * POSITIONS)
        assert not block[name].grad[:2].any()


def test_a_network_behaves_as_itself(networks, images):
    block = initial_weights("conv", range(COUNT))
    wanted = ensemble.outputs("conv", images, networks, block).softmax(-1)
    probe = Probe("conv", networks, pixels(images.images))
    loss = losses.divergence("conv", block, probe, wanted)
    assert_near(loss, torch.zeros(COUNT), NETWORK, scale=1)


def test_the_order_of_hidden_channels_does_not_matter(networks, images):
    merge, order = model(networks, images), torch.tensor([3, 0, 5, 1, 4, 2])
    large = symmetry.permute_hidden(part(networks, "large"), order)
    moved = networks | {f"large.{name}": tensor for name, tensor in large.items()}
    first, second = (translate(merge, n) for n in (networks, moved))
    for name in first:
        assert_near(second[name], first[name], FITTED)


def test_residual_channels_in_another_order_give_the_same_small_block_in_that_order(
    networks, images
):
    merge, order = model(networks, images), torch.tensor([2, 4, 1, 0, 5, 3])
    moved = symmetry.permute_residual(networks, order)
    block = {f"small.{k}": v for k, v in translate(merge, networks).items()}
    expected = part(symmetry.permute_residual(block, order), "small")
    for name, tensor in translate(merge, moved).items():
        assert_near(tensor, expected[name], FITTED)


def test_the_scale_of_a_hidden_channel_does_not_matter(networks, images):
    """Before batch norm it has no meaning, and after it the second convolution can undo it."""
    merge = model(networks, images, layers=0)
    scaled = dict(networks)
    for name in ("conv1.weight", "bn1.running_mean"):
        scaled[f"large.{name}"] = 3 * networks[f"large.{name}"]
    variance = networks["large.bn1.running_var"]
    scaled["large.bn1.running_var"] = 9 * (variance + 1e-5) - 1e-5
    first, second = (translate(merge, n) for n in (networks, scaled))
    for name in first:
        assert_near(second[name], first[name], FITTED)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_the_output_is_in_the_span_of_the_folded_input(kind, networks, images):
    small = translate(model(networks, images, target=kind, free=False, fit=False), networks)
    folded = symmetry.fold(part(networks, "large"))
    rows = folded["conv1.weight"][1].flatten(1).T
    solution = torch.linalg.lstsq(rows, small["conv1.weight"][1].flatten(1).T).solution
    assert_close(rows @ solution, small["conv1.weight"][1].flatten(1).T, rtol=1e-3, atol=1e-4)
    if kind == "conv_bias":
        assert_close(
            solution.T @ folded["conv1.bias"][1], small["conv1.bias"][1], rtol=1e-3, atol=1e-3
        )
        assert_close(small["conv2.bias"], folded["conv2.bias"])


def test_training_on_behaviour_lowers_the_divergence(networks, images):
    merge = model(networks, images, fit=False).train()  # with it there is little to learn here
    objective = BehaviourObjective(networks, images, "conv", Compute())
    optimizer = torch.optim.Adam(merge.parameters(), 0.003)
    seen = []
    for _ in range(40):
        torch.manual_seed(0)  # the same images and the same layer, whose losses can be compared
        optimizer.zero_grad()
        seen.append(objective.backward(merge, torch.arange(COUNT)).item())
        optimizer.step()
    assert max(seen[-10:]) < 0.8 * seen[0]


def test_a_network_does_not_depend_on_its_company(networks, images):
    merge = model(networks, images)
    together = translate(merge, networks)
    alone = translate(merge, {name: t[1:2] for name, t in networks.items()})
    for name in together:
        assert_near(alone[name][0], together[name][1], FITTED)


def test_prototypes_are_centres_with_contrast():
    flat = torch.tensor([0, 255]).repeat(10)[:, None, None].expand(20, 28, 28)
    images = ImageSet(flat.to(torch.uint8), torch.zeros(20, dtype=torch.int64))
    found = make_prototypes(images, 2, torch.Generator().manual_seed(3))
    assert found.dtype == torch.uint8 and sorted(found[:, 0, 0].tolist()) == [0, 255]


def test_there_are_no_more_prototypes_than_images():
    images = ImageSet(torch.zeros(20, 28, 28, dtype=torch.uint8), torch.zeros(20).long())
    with pytest.raises(KTError, match="prototypes: got 21; accepts up to 20"):
        make_prototypes(images, 21, torch.Generator())


def test_prototypes_are_mirrored_as_the_networks_images_are():
    left = torch.zeros(20, 28, 28, dtype=torch.uint8)
    left[:, :, :14] = 255
    images = ImageSet(left, torch.zeros(20, dtype=torch.int64))
    draw = torch.Generator().manual_seed(3)
    assert torch.equal(make_prototypes(images, 2, draw, mirrored=False), left[:2])
    assert not torch.equal(make_prototypes(images, 2, draw), left[:2])


def test_the_encoder_is_shown_turned_kernels(networks, images):
    turns = []

    class Seen(Merge):
        def forward(self, networks, compute=None, turn=0, hidden=None):
            turns.append(turn)
            return super().forward(networks, Compute(), turn)

    merge = Seen(CONFIG)
    objective = BehaviourObjective(networks, images, "conv", Compute(), 4)
    for _ in range(8):
        objective.backward(merge, torch.arange(1))
    assert any(turns)


def test_no_weight_belongs_to_one_width():
    """The learned parts take blocks of other widths: ten hidden channels, of which four stay."""
    torch.manual_seed(0)
    merge, n, hidden, residual, kept = Merge(CONFIG), 2, 10, 7, 4
    width = merge.embed.out_features
    tokens = merge.encoder(torch.randn(n, hidden, residual, width)).mean(2)
    stay = torch.tensor([[1, 2, 5, 9], [0, 3, 4, 8]])
    x = merge._proposal(tokens, stay)
    assert x.shape == (n, 2, hidden, kept)
    assert torch.equal((x > 0.5).sum((1, 2, 3)), torch.tensor([2 * kept, 2 * kept]))
    made = merge.descent.token(tokens)
    step, gain = merge.descent(made, x, x.detach(), x.detach(), 0 * x, torch.ones(n), 1)
    assert step.shape == x.shape and gain.shape == (n, 2, 1, kept)


def test_whitening_changes_the_steps_outside_the_span_alone(networks, images):
    first, second = (
        model(networks, images, whiten=whiten)(networks)[-1] for whiten in (True, False)
    )
    assert all((first[name] - second[name]).abs().max() > 1e-3 for name in first)
    first, second = (
        model(networks, images, free=False, whiten=whiten)(networks)[-1] for whiten in (True, False)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_steps_along_whitened_gradients_lower_the_divergence(networks, images):
    """Even before anything is learned, on the prototypes that they look at."""
    torch.manual_seed(0)
    config = MergeConfig(layers=6, hidden_size=16, prototypes=20, images_per_layer=20, fit=False)
    merge = Merge(config)
    merge.prepare(networks, images, torch.Generator().manual_seed(0))
    probe = Probe("conv", networks, pixels(merge.prototypes))
    wanted = probe.watch_teacher(part(networks, "large")).softmax(-1)
    with torch.no_grad():
        blocks = merge(networks)
    first, last = (losses.divergence("conv", blocks[i], probe, wanted) for i in (0, -1))
    assert (last < first).all(), (first, last)


def test_it_refuses_what_it_cannot_translate_to():
    with pytest.raises(KTError, match="not to 'mlp'"):
        Merge(MergeConfig(target="mlp"))


def test_a_file_gives_back_the_same_translator(networks, images, tmp_path):
    merge = model(networks, images)
    save_translator(tmp_path / "t.safetensors", merge)
    again = load_translator(tmp_path / "t.safetensors")
    assert again.config == merge.config
    first, second = (translate(m, networks) for m in (merge, again))
    assert all(torch.equal(first[name], second[name]) for name in first)

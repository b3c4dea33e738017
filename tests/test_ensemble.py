"""The vectorised trainer against one plain network at a time, on the same batches."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kt import ensemble
from kt.ensemble import Compute, Recipe, cpu_engine, torch_engine
from kt.images import ImageSet, ordered_batches, pixels, training_batches
from kt.networks.blocks import BLOCKS, CONVOLUTIONAL, TARGETS, Network, initial_weights, weights
from kt.networks.weights import part
from kt.run.errors import KTError
from kt.translators import losses
from tests.rounding import BLOCK, NETWORK, POSITIONS, assert_near, assert_trained_alike

RECIPE = Recipe(epochs=2, batch_size=32, lr=0.05)
SEEDS = [11, 12, 13, 14, 15]


def plain_training(network: nn.Module, parameters, images, stream_seed: int) -> None:
    """The protocol, one network at a time, as anybody would write it."""
    optimizer = torch.optim.SGD(parameters, RECIPE.lr, RECIPE.momentum)
    for x, y in training_batches(images, RECIPE.batch_size, RECIPE.epochs, True, stream_seed):
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()


def seeded(kind: str, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network() if kind == "network" else BLOCKS[kind]()


def one(stacked, i):
    return {name: tensor[i] for name, tensor in stacked.items()}


def assembled(kind, networks, block, i):
    """The i-th former and latter blocks around the i-th of `block`, as a plain module."""
    around = {k: t for k, t in one(networks, i).items() if k.split(".")[0] in ("former", "latter")}
    network = Network(kind)
    parts = around | {f"block.{k}": t for k, t in one(block, i).items()}
    network.load_state_dict(parts, strict=False)
    return network.eval()


@pytest.fixture(params=["torch", "cpu"])
def compute(request) -> Compute:
    if request.param == "cpu" and (reason := cpu_engine.reason()) is not None:
        pytest.skip(reason)
    return Compute(engine=request.param)


@pytest.fixture
def networks(images, compute):
    return ensemble.train_networks(images, SEEDS, 3, RECIPE, compute)


def test_step_1_is_the_plain_loop(images, networks):
    for i in (0, 4):
        network = seeded("network", SEEDS[i])
        start = one(initial_weights(Network, SEEDS), i)
        plain_training(network, network.parameters(), images, 3)
        assert_trained_alike(one(networks, i), weights(network), start, 32)


@pytest.mark.parametrize("kind", TARGETS)
def test_step_2_is_the_plain_loop_and_leaves_frozen_parts(kind, images, networks, compute):
    before = {name: tensor.clone() for name, tensor in networks.items()}
    blocks = ensemble.train_blocks(kind, images, networks, SEEDS, 4, RECIPE, compute)
    for name, tensor in networks.items():
        assert torch.equal(tensor, before[name]), name
    network = Network(kind)
    frozen = {k: t for k, t in one(networks, 1).items() if not k.startswith("block.")}
    network.load_state_dict(frozen, strict=False)
    network.block = seeded(kind, SEEDS[1])
    network.eval()
    plain_training(network, network.block.parameters(), images, 4)
    start = one(initial_weights(kind, SEEDS), 1)
    assert_trained_alike(one(blocks, 1), weights(network.block), start, 32)


def test_frozen_large_blocks_stay_and_the_rest_learns_around_them(images, compute):
    large = initial_weights("large", [1, 2])
    networks = ensemble.train_networks(images, [5, 6], 3, RECIPE, compute, large)
    network = seeded("network", 6)
    network.block.load_state_dict(one(large, 1), strict=False)
    network.block.requires_grad_(False).eval()
    start = {name: tensor.clone() for name, tensor in weights(network).items()}
    plain_training(network, [p for p in network.parameters() if p.requires_grad], images, 3)
    assert_trained_alike(one(networks, 1), weights(network), start, 32)
    for name, tensor in part(networks, "block").items():
        assert torch.equal(tensor, large[name]), name


@pytest.mark.parametrize("kind", ["large", *TARGETS])
def test_evaluation_is_the_plain_loop(kind, images, networks, compute):
    block = initial_weights(kind, SEEDS)
    accuracy = ensemble.evaluate(kind, images, networks, block, compute)
    for i in range(len(SEEDS)):
        network = assembled(kind, networks, block, i)
        with torch.no_grad():
            right = sum((network(x).argmax(1) == y).sum() for x, y in ordered_batches(images, 7))
        assert accuracy[i].item() == pytest.approx(100 * right.item() / len(images))


@pytest.mark.parametrize("kind", TARGETS)
def test_behaviour_is_autograds(kind, images, networks, compute):
    block = initial_weights(kind, SEEDS)
    x = pixels(images.images[:20])
    targets = torch.rand(len(SEEDS), 20, 10, generator=torch.Generator().manual_seed(0)).softmax(-1)
    losses, gradient = ensemble.Probe(kind, networks, x, compute).behaviour(kind, block, targets)
    network = assembled(kind, networks, block, 2)
    loss = F.cross_entropy(network(x), targets[2])
    loss.backward()
    assert_near(losses[2], loss.detach(), NETWORK)
    expected = {name: p.grad for name, p in network.block.named_parameters()}
    assert_near(one(gradient, 2), expected, 20 * POSITIONS, gates=20 * POSITIONS)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_the_nearest_second_convolution_is_that_of_least_squares(kind, images, networks, compute):
    block, large = initial_weights(kind, SEEDS), part(networks, "block")
    few = images.subset(slice(0, 15))
    probe = ensemble.Probe(kind, networks, pixels(few.images), compute)
    probe.watch_teacher(large)
    found = probe.fit_second_convolution(kind, block)[1]
    maps = ensemble.features(few, networks)[1]
    with torch.no_grad():
        wanted = assembled("large", networks, large, 1).block.before_relu(maps) - maps
    hidden = F.relu(
        F.conv2d(maps, block["conv1.weight"][1], one(block, 1).get("conv1.bias"), padding=1)
    )
    patches = F.unfold(hidden, 3, padding=1, stride=2).transpose(1, 2).flatten(0, 1)
    wanted = wanted[..., ::2, ::2] - one(block, 1).get("conv2.bias", torch.zeros(6))[:, None, None]
    wanted = wanted.permute(0, 2, 3, 1).reshape(-1, 6)

    def error(weight):
        return (patches @ weight.flatten(1).T - wanted).square().sum()

    best = torch.linalg.lstsq(patches, wanted, driver="gelsd").solution.T
    assert error(best) <= error(found) <= 1.05 * error(best)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_whitened_inputs_have_no_correlations(kind, images, networks, compute, monkeypatch):
    monkeypatch.setattr("kt.ensemble.probe.DAMPING", 1e-4)
    block = initial_weights(kind, SEEDS)
    few = images.subset(slice(0, 30))
    whitening = ensemble.Probe(kind, networks, pixels(few.images), compute).whitening(kind, block)
    maps = ensemble.features(few, networks)[1]
    weights = one(block, 1)
    hidden = F.relu(F.conv2d(maps, weights["conv1.weight"], weights.get("conv1.bias"), padding=1))
    for name, read in {"conv1.weight": maps, "conv2.weight": hidden}.items():
        patches = F.unfold(read, 3, padding=1, stride=2).transpose(1, 2).flatten(0, 1).double()
        products = patches.T @ patches
        products = products / products.diagonal().mean()
        expected = torch.linalg.inv(products + 1e-4 * torch.eye(len(products)))
        found = whitening[name][1].double()
        assert (found - expected).norm() < 0.02 * expected.norm()
        # Along directions that the inputs have, the product is the identity.
        assert (products @ found @ products - products).norm() < 0.01 * products.norm()


@pytest.mark.parametrize("kind", [None, *BLOCKS])
def test_features_are_those_of_the_modules_and_contiguous(kind, images, networks):
    block = {} if kind is None else initial_weights(kind, SEEDS)
    maps = ensemble.features(images, networks, kind, block, Compute(chunk=2))
    network = assembled(kind or "large", networks, block, 3)
    with torch.no_grad():
        expected = network.former(pixels(images.images))
        expected = expected if kind is None else network.block(expected)
    assert_near(maps[3], expected, 2 * POSITIONS + BLOCK)
    assert maps.is_contiguous()
    former = ensemble.part(networks, "former")
    for batch in torch_engine.features(kind, former, block, [pixels(images.images)]):
        assert batch.is_contiguous()
    if kind is not None:
        assert losses.behind(kind, block, ensemble.features(images, networks)).is_contiguous()


@pytest.mark.parametrize("kind", ["large", "conv"])
def test_outputs_decide_the_accuracy(kind, images, networks, compute):
    block = initial_weights(kind, SEEDS)
    logits = ensemble.outputs(kind, images, networks, block, compute)
    assert logits.shape == (len(SEEDS), len(images), 10)
    right = (logits.argmax(-1) == images.labels).double().mean(-1) * 100
    assert_near(ensemble.evaluate(kind, images, networks, block, compute), right, 2)


@pytest.mark.parametrize(("workers", "chunk"), [(1, 1), (1, 2), (3, 2)])
def test_results_do_not_depend_on_chunk_size_workers_or_company(
    workers, chunk, images, networks, compute
):
    other = replace(compute, workers=workers, chunk=chunk)
    again = ensemble.train_networks(images, SEEDS, 3, RECIPE, other)
    alone = ensemble.train_networks(images, SEEDS[3:4], 3, RECIPE, other)
    for name, tensor in networks.items():
        assert torch.equal(again[name], tensor), name
        assert torch.equal(alone[name][0], tensor[3]), name
    one_go = ensemble.train_blocks("conv", images, networks, SEEDS, 4, RECIPE, compute)
    chunks = ensemble.train_blocks("conv", images, networks, SEEDS, 4, RECIPE, other)
    for name, tensor in one_go.items():
        assert torch.equal(chunks[name], tensor), name


def test_checkpoints_are_what_shorter_runs_end_with(images, networks, compute):
    compute = replace(compute, chunk=2)
    longer = replace(RECIPE, epochs=4)
    run = ensemble.train_networks(images, SEEDS, 3, longer, compute, checkpoints=[1, 2])
    once = ensemble.train_networks(images, SEEDS, 3, replace(RECIPE, epochs=1), compute)
    whole = ensemble.train_networks(images, SEEDS, 3, longer, compute)
    for name, tensor in run.items():
        expected = torch.cat([whole[name], networks[name], once[name]])
        assert torch.equal(tensor, expected), name


def test_progress_counts_every_image_of_every_network(images):
    seen = []
    ensemble.train_networks(images, SEEDS, 3, RECIPE, Compute(chunk=2), progress=seen.append)
    assert sum(seen) == len(SEEDS) * RECIPE.epochs * len(images)


def test_an_error_in_one_chunk_stops_the_others_and_is_raised(images):
    def fail(count):
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        ensemble.train_networks(
            images, SEEDS, 3, RECIPE, Compute(workers=2, chunk=1), progress=fail
        )


@pytest.mark.parametrize("rounded", [True, False])
def test_convolutions_are_never_rounded_to_tf32(rounded, images, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", rounded)
    seen = []

    def noted(function):
        def wrapped(*args, **kwargs):
            seen.append(torch.backends.cudnn.allow_tf32)
            return function(*args, **kwargs)

        return wrapped

    for name in ("train_networks", "train_blocks", "outputs"):
        monkeypatch.setattr(torch_engine, name, noted(getattr(torch_engine, name)))
    for name in ("__init__", "outputs", "behaviour"):
        monkeypatch.setattr(torch_engine.Probe, name, noted(getattr(torch_engine.Probe, name)))
    data, compute = images.subset(slice(0, 8)), Compute(engine="torch")
    recipe = Recipe(epochs=1, batch_size=8)
    networks = ensemble.train_networks(data, [0, 1], 0, recipe, compute)
    block = ensemble.train_blocks("conv", data, networks, [0, 1], 0, recipe, compute)
    ensemble.evaluate("conv", data, networks, block, compute)
    probe = ensemble.Probe("conv", networks, pixels(data.images), compute)
    probe.behaviour("conv", block, probe.outputs("conv", block).softmax(-1))
    assert len(seen) == 6 and not any(seen)
    assert torch.backends.cudnn.allow_tf32 == rounded


@pytest.mark.parametrize("shape", [(8, 3, 28, 28), (8, 16, 16)])
def test_images_that_networks_do_not_read_are_refused(shape):
    """The compiled engine would read beyond them."""
    other = ImageSet(torch.zeros(shape, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64))
    networks = initial_weights(Network, [0])
    block = initial_weights("conv", [0])
    for attempt in (
        lambda: ensemble.train_networks(other, [0], 0, Recipe(1, 4)),
        lambda: ensemble.train_blocks("conv", other, networks, [0], 0, Recipe(1, 4)),
        lambda: ensemble.evaluate("conv", other, networks, block),
        lambda: ensemble.Probe("conv", networks, pixels(other.images)),
    ):
        with pytest.raises(KTError, match="images are"):
            attempt()

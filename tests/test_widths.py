"""Networks of other sizes than the paper's: engines against plain modules, and what is derived."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from kt import ensemble
from kt.ensemble import Compute, cpu_engine, cpu_library, torch_engine
from kt.images import ImageSet
from kt.networks import channels
from kt.networks.blocks import (
    CONVOLUTIONAL,
    PAPER,
    TARGETS,
    Network,
    Sizes,
    block_shapes,
    initial_weights,
    sizes_of,
    weights,
)
from kt.networks.weights import part, prefixed
from kt.rivals import pruning
from kt.run.errors import KTError

ODD = [
    Sizes(channels=1, hidden=1, image_channels=3, image_size=9),
    Sizes(channels=4, hidden=4, image_size=27),
    Sizes(channels=7, hidden=2, image_channels=3, image_size=32),
    Sizes(channels=16, hidden=7, image_size=14),
]
"""Channels that no tile divides, maps of odd sides, and images in colour."""
LR, MOMENTUM, COUNT = 0.05, 0.9, 3

compiled = pytest.mark.skipif(not cpu_engine.available(), reason=str(cpu_engine.reason()))
of_odd_sizes = pytest.mark.parametrize("sizes", ODD, ids=lambda s: f"{s.channels}-{s.hidden}")


@pytest.fixture(scope="module", autouse=True)
def quickly_compiled():
    """The odd sizes, all at once, and hardly optimised: the results are the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_library, "FLAGS", [f.replace("-O3", "-O1") for f in cpu_library.FLAGS])
        cpu_library.forget()
        if cpu_engine.available():
            with ThreadPoolExecutor() as pool:
                built = [
                    pool.submit(cpu_library.built, cpu_library.SOURCE, cpu_library.isa(), sizes)
                    for sizes in ODD
                ]
            [future.result() for future in built]
        yield
    cpu_library.forget()


def draw_batches(sizes, *counts, seed=0):
    """Images with blank margins, as digits have."""
    draw = torch.Generator().manual_seed(seed)
    batches = []
    for count in counts:
        shape = (count, sizes.image_channels, sizes.image_size, sizes.image_size)
        images = torch.rand(shape, generator=draw) * (torch.rand(shape, generator=draw) < 0.5)
        images[:, :, :2] = 0
        batches.append((images, torch.randint(10, (count,), generator=draw)))
    return batches


def trained_a_little(sizes):
    initial = initial_weights(lambda: Network(sizes=sizes), range(COUNT))
    return torch_engine.train_networks(initial, draw_batches(sizes, 24, 24), LR, MOMENTUM)


def assert_near(found, expected, start, tolerance):
    assert found.keys() == expected.keys()
    for name in expected:
        change, wanted = found[name] - start[name], expected[name] - start[name]
        floor = 1e-6 * expected[name].norm() + 1e-9
        assert (change - wanted).norm() <= tolerance * wanted.norm() + floor, name


@compiled
@of_odd_sizes
def test_step_1_is_plain_sgd(sizes):
    networks, ((images, labels),) = trained_a_little(sizes), draw_batches(sizes, 21, seed=1)
    found = cpu_engine.train_networks(networks, [(images, labels)], LR, MOMENTUM)
    for i in range(COUNT):
        network = Network(sizes=sizes)
        start = {name: tensor[i] for name, tensor in networks.items()}
        network.load_state_dict(start, strict=False)
        optimizer = torch.optim.SGD(network.parameters(), LR, MOMENTUM)
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        own = {name: tensor[i] for name, tensor in found.items()}
        assert_near(own, weights(network), start, 1e-3)


@compiled
@of_odd_sizes
@pytest.mark.parametrize("kind", TARGETS)
def test_step_2_is_plain_sgd_on_the_small_block(sizes, kind):
    networks, ((images, labels),) = trained_a_little(sizes), draw_batches(sizes, 21, seed=2)
    small = initial_weights(kind, range(COUNT), sizes)
    ends = part(networks, "former"), part(networks, "latter")
    found = cpu_engine.train_blocks(kind, small, *ends, [(images, labels)], LR, MOMENTUM)
    for i in range(COUNT):
        network = Network(kind, sizes)
        start = {name: tensor[i] for name, tensor in small.items()}
        whole = {name: tensor[i] for name, tensor in (networks | prefixed("block", small)).items()}
        network.load_state_dict({k: whole[k] for k in weights(network)}, strict=False)
        network.eval()
        optimizer = torch.optim.SGD(network.block.parameters(), LR, MOMENTUM)
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        own = {name: tensor[i] for name, tensor in found.items()}
        assert_near(own, weights(network.block), start, 1e-3)


@compiled
@of_odd_sizes
@pytest.mark.parametrize("kind", ["large", *TARGETS])
def test_outputs_and_behaviour_are_the_references(sizes, kind):
    networks, ((images, _),) = trained_a_little(sizes), draw_batches(sizes, 7, seed=3)
    block = part(networks, "block") if kind == "large" else initial_weights(kind, range(3), sizes)
    former, latter = part(networks, "former"), part(networks, "latter")
    wanted = torch.randn(COUNT, 7, 10, generator=torch.Generator().manual_seed(1)).softmax(-1)
    found = []
    for engine in (cpu_engine, torch_engine):
        probe = engine.Probe(former, latter, images)
        outputs = torch.cat(list(engine.outputs(kind, former, block, latter, [images])), 1)
        assert_close(probe.outputs(kind, block), outputs)
        behaviour = probe.behaviour(kind, block, wanted) if kind != "large" else (None, {})
        found.append((outputs, *behaviour))
    assert_close(found[0][0], found[1][0])
    assert_close(found[0][1], found[1][1])
    zero = {name: torch.zeros_like(tensor) for name, tensor in found[1][2].items()}
    assert_near(found[0][2], found[1][2], zero, 1e-3)


@compiled
@of_odd_sizes
@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_equations_are_the_references(sizes, kind):
    networks, ((images, _),) = trained_a_little(sizes), draw_batches(sizes, 9, seed=4)
    large = part(networks, "block")
    wide = pruning.folded(kind, large)
    block = pruning.by_norm(kind, large, sizes.hidden)
    metric = channels.reading(part(networks, "latter"))
    ways = channels.subsets(sizes.channels, sizes.hidden)[:5]
    found = []
    for engine in (cpu_engine, torch_engine):
        probe = engine.Probe(part(networks, "former"), part(networks, "latter"), images)
        probe.watch_teacher(large)
        white = probe.whitening(kind, block, slice(0, 5), 0.1)
        scores = probe.score_subsets(wide, ways, metric, slice(None), 1e-2)
        equations = probe.equations(wide, slice(None))
        nearest = probe.fit_second_convolution(kind, block, slice(None), 1e-2)
        found.append([nearest, scores, *equations, *white.values()])
    for ours, plain in zip(*found, strict=True):
        assert (ours - plain).norm() <= 2e-3 * plain.norm() + 1e-6


@compiled
def test_the_number_of_hidden_channels_changes_no_bit_of_networks_without_them():
    narrow, wide = (Sizes(channels=4, hidden=h, image_size=27) for h in (4, 2))
    networks, batches = trained_a_little(narrow), draw_batches(narrow, 8)
    assert sizes_of(networks, 27).hidden == wide.hidden  # what is taken if nothing is loaded
    found = []
    for loaded in (narrow, PAPER):
        cpu_library.forget()
        cpu_library.library(loaded)
        found.append(cpu_engine.train_networks(networks, batches, LR, MOMENTUM))
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]), name
    cpu_library.forget()


@compiled
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (Sizes(kernel=5), "the compiled engine has kernels of 3 x 3 only"),
        (Sizes(channels=33), "the compiled engine has 1 to 32 channels"),
        (Sizes(image_size=64), "the compiled engine has images of 8 x 8 to 32 x 32"),
    ],
)
def test_what_the_compiled_engine_cannot_do_is_refused_in_one_line(sizes, message):
    assert cpu_engine.reason(sizes) == f"the cpu engine is not available: {message}"
    assert Compute().engine_for("large", sizes) is torch_engine
    with pytest.raises(KTError, match=message):
        Compute(engine="cpu").engine_for("conv", sizes)


def test_other_kernels_are_trained_by_plain_pytorch():
    sizes = Sizes(channels=3, hidden=2, kernel=5, image_size=12)
    data = ImageSet(torch.randint(0, 256, (12, 12, 12)).to(torch.uint8), torch.arange(12) % 10)
    recipe = ensemble.Recipe(1, 6, 0.05)
    networks = ensemble.train_networks(data, range(2), 1, recipe, sizes=sizes)
    small = ensemble.train_blocks("conv", data, networks, range(2), 2, recipe, sizes=sizes)
    assert {k: tuple(w.shape[1:]) for k, w in small.items()} == block_shapes("conv", sizes)
    networks |= prefixed("large", part(networks, "block"))
    refitted = pruning.best_subset("conv", networks, data, refitted=True, hidden=2)
    assert ensemble.evaluate("conv", data, networks, refitted).shape == (2,)


# --- the choice of channels -----------------------------------------------------------------------


def equations_of(count, inputs, outputs, seed=0):
    draw = torch.Generator().manual_seed(seed)
    read = torch.randn(count, 200, inputs, generator=draw) @ torch.randn(
        count, inputs, inputs, generator=draw
    )
    wanted = torch.randn(count, 200, outputs, generator=draw) + read[:, :, :outputs]
    metric = torch.randn(count, outputs, outputs, generator=draw)
    return read.mT @ read, read.mT @ wanted, metric @ metric.mT


def explained(products, wanted, metric, kept, taps, decay):
    """By definition, one network: the metric's trace of B' (G + decay)^-1 B over the kept rows."""
    rows = (taps * kept[:, None] + torch.arange(taps)).flatten()
    some = products[rows][:, rows].double()
    some += (decay * some.diagonal().mean() + 1e-6) * torch.eye(len(rows))
    right = wanted[rows].double()
    return float((metric * (right.mT @ torch.linalg.solve(some, right))).sum())


def test_one_round_of_elimination_finds_the_best_of_all_subsets():
    products, wanted, metric = equations_of(6, 5 * 4, 3)
    found = channels.eliminated(products, wanted, metric, 5, 4, 0.0)
    for i in range(6):
        equations = products[i], wanted[i], metric[i].double()
        scores = [explained(*equations, kept, 4, 0.0) for kept in channels.subsets(5, 4)]
        best = channels.subsets(5, 4)[torch.tensor(scores).argmax()]
        assert torch.equal(found[i], best)


def test_elimination_explains_nearly_as_much_as_the_best_of_all_subsets():
    products, wanted, metric = equations_of(8, 8 * 4, 5, seed=1)
    found = channels.eliminated(products, wanted, metric, 8, 3, 1e-3)
    shares = []
    for i in range(8):
        equations = products[i], wanted[i], metric[i].double()
        best = max(explained(*equations, kept, 4, 1e-3) for kept in channels.subsets(8, 3))
        shares.append(explained(*equations, found[i], 4, 1e-3) / best)
        assert len(set(found[i].tolist())) == 3
    assert min(shares) > 0.85 and sum(shares) / 8 > 0.95, shares

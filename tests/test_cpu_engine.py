"""The compiled engine against the reference modules, and against itself in other company."""

import hashlib

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from kt.ensemble import cpu_engine, cpu_library, torch_engine
from kt.networks.blocks import BLOCKS, CONVOLUTIONAL, TARGETS, Network, initial_weights, weights
from kt.networks.channels import subsets
from kt.networks.weights import part
from kt.rivals import pruning
from kt.run.errors import KTError

SUBSETS = subsets(6, 3)
LR, MOMENTUM = 0.05, 0.9
NETWORKS = 3
PINNED = {
    "step 1": "c29798143e5078de",
    "step 1, frozen block": "c26190651c545015",
    "conv": "39be2415ab09a125",
    "conv_bias": "70065fa16d21f1e0",
    "mlp": "17805e40a01d1881",
    "attention": "587d1e372cab92ee",
}
"""Checksums of a tiny generation with fused multiply-adds."""

compiled = pytest.mark.skipif(not cpu_engine.available(), reason=str(cpu_engine.reason()))


ISAS = cpu_library.executable() if cpu_engine.available() else []


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    """The tests that take this run every variant that the processor can execute."""
    monkeypatch.setenv("KT_ISA", request.param)
    return request.param


def draw_batches(*sizes, seed=0):
    """Images with blank margins and gaps, as digits have."""
    draw = torch.Generator().manual_seed(seed)
    batches = []
    for size in sizes:
        images = torch.rand(size, 1, 28, 28, generator=draw)
        images *= torch.rand(size, 1, 28, 28, generator=draw) < 0.4
        images[:, :, :5] = images[:, :, :, 23:] = images[:, :, 14:17, :12] = 0
        batches.append((images, torch.randint(10, (size,), generator=draw)))
    return batches


def rows(stacked, index):
    return {name: tensor[index] for name, tensor in stacked.items()}


def assert_same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def assert_near(trained, expected, initial, tolerance):
    """The change since the start, tensor by tensor, within a relative error (2-norm)."""
    assert trained.keys() == expected.keys()
    for name in expected:
        change, wanted = trained[name] - initial[name], expected[name] - initial[name]
        # Where next to nothing changed, rounding of the weights themselves is what is left.
        floor = 1e-7 * expected[name].norm()
        assert (change - wanted).norm() <= tolerance * wanted.norm() + floor, name


def plain_training(network, parameters, batches):
    optimizer = torch.optim.SGD(parameters, LR, MOMENTUM)
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()


def filled(stacked, i, kind="large"):
    network = Network(kind)
    network.load_state_dict(rows(stacked, i), strict=False)
    return network


def assert_plain_step_1(trained, networks, batches, freeze_block, tolerance):
    for i in range(NETWORKS):
        network = filled(networks, i)
        parameters = list(network.parameters())
        if freeze_block:
            network.block.eval().requires_grad_(False)
            parameters = [p for p in parameters if p.requires_grad]
        plain_training(network, parameters, batches)
        assert_near(rows(trained, i), weights(network), rows(networks, i), tolerance)
    if freeze_block:
        assert_same_bits(part(trained, "block"), part(networks, "block"))


def assert_plain_step_2(kind, trained, networks, small, batches, tolerance):
    for i in range(NETWORKS):
        network = filled(networks, i).eval().requires_grad_(False)
        network.block = BLOCKS[kind]()
        network.block.load_state_dict(rows(small, i))
        plain_training(network, list(network.block.parameters()), batches)
        assert_near(rows(trained, i), weights(network.block), rows(small, i), tolerance)


@pytest.fixture(scope="module")
def initial():
    return initial_weights(Network, range(NETWORKS))


@pytest.fixture(scope="module")
def networks(initial):
    """Trained a little, so that no statistic is at its initial value."""
    return torch_engine.train_networks(initial, draw_batches(32, 32, 32), LR, MOMENTUM)


# --- against the reference ----------------------------------------------------------------------


@compiled
@pytest.mark.parametrize("freeze_block", [False, True])
@pytest.mark.parametrize(
    ("sizes", "tolerance"), [((48,), 1e-4), ((7,), 1e-4), ((32, 32, 32, 9), 2e-3)]
)
def test_step_1_is_plain_sgd(isa, networks, sizes, tolerance, freeze_block):
    batches = draw_batches(*sizes, seed=1)
    trained = cpu_engine.train_networks(networks, batches, LR, MOMENTUM, freeze_block)
    assert_plain_step_1(trained, networks, batches, freeze_block, tolerance)


@compiled
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize(("sizes", "tolerance"), [((48,), 1e-4), ((32, 32, 32, 9), 2e-3)])
def test_step_2_is_plain_sgd_on_the_small_block(isa, networks, kind, sizes, tolerance):
    small = initial_weights(kind, range(NETWORKS))
    batches = draw_batches(*sizes, seed=2)
    former, latter = part(networks, "former"), part(networks, "latter")
    trained = cpu_engine.train_blocks(kind, small, former, latter, batches, LR, MOMENTUM)
    assert_plain_step_2(kind, trained, networks, small, batches, tolerance)


def assembled(networks, kind):
    """The networks' parts around the large block or around fresh ones."""
    block = part(networks, "block") if kind == "large" else initial_weights(kind, range(NETWORKS))
    return kind, part(networks, "former"), block, part(networks, "latter")


@compiled
@pytest.mark.parametrize("kind", BLOCKS)
def test_outputs_are_the_references(isa, networks, kind):
    images = [batch for batch, _ in draw_batches(50, 13, seed=3)]
    whole = assembled(networks, kind)
    logits = torch.cat(list(cpu_engine.outputs(*whole, images, threads=2)), 1)
    assert_close(logits, torch.cat(list(torch_engine.outputs(*whole, images)), 1))
    _, former, block, latter = whole
    for engine in (cpu_engine, torch_engine):
        probe = engine.Probe(former, latter, images[0])
        assert_close(probe.outputs(kind, block), logits[:, : len(images[0])])


@compiled
@pytest.mark.parametrize("kind", TARGETS)
def test_behaviour_is_the_references(isa, networks, kind):
    ((images, _),) = draw_batches(31, seed=4)
    targets = torch.randn(NETWORKS, 31, 10, generator=torch.Generator().manual_seed(1)).softmax(-1)
    _, former, block, latter = assembled(networks, kind)
    ours, plain = (
        cpu_engine.Probe(former, latter, images, 2),
        torch_engine.Probe(former, latter, images),
    )
    losses, gradient = ours.behaviour(kind, block, targets)
    expected_losses, expected = plain.behaviour(kind, block, targets)
    assert_close(losses, expected_losses)
    assert_near(gradient, expected, {k: torch.zeros_like(v) for k, v in expected.items()}, 1e-4)


@compiled
def test_sharp_attention_is_the_references(isa, networks):
    """Scores in the hundreds: softmaxes that are nearly 0 and 1."""
    ((images, _),) = draw_batches(12, seed=4)
    targets = torch.rand(NETWORKS, 12, 10, generator=torch.Generator().manual_seed(1)).softmax(-1)
    _, former, block, latter = assembled(networks, "attention")
    block = {k: 30 * w if k in ("query.weight", "key.weight") else w for k, w in block.items()}
    (losses, gradient), (expected_losses, expected) = (
        engine.Probe(former, latter, images).behaviour("attention", block, targets)
        for engine in (cpu_engine, torch_engine)
    )
    assert_close(losses, expected_losses)
    assert_near(gradient, expected, {k: torch.zeros_like(v) for k, v in expected.items()}, 1e-4)


@compiled
@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_equations_are_the_references(isa, networks, kind):
    ((images, _),) = draw_batches(9, seed=4)
    _, former, block, latter = assembled(networks, kind)
    large = part(networks, "block")
    found = []
    for engine in (cpu_engine, torch_engine):
        probe = engine.Probe(former, latter, images)
        logits = probe.watch_teacher(large)
        assert_close(logits, probe.outputs("large", large))
        metric = pruning.reading(latter)
        wide, some = pruning.folded(kind, large), slice(2, 7)
        found.append(
            [
                probe.fit_second_convolution(kind, block, slice(None), 1e-2),
                probe.fit_second_convolution(kind, block, some, 1e-2),
                *probe.whitening(kind, block, some, 0.1).values(),
                probe.score_subsets(wide, SUBSETS, metric, slice(None), 1e-2),
                probe.score_subsets(wide, SUBSETS[3:9], metric, some, 1e-2),
            ]
        )
    assert_close(*found, rtol=1e-4, atol=1e-4)


@compiled
def test_some_of_the_images_shown_are_as_if_they_alone_were_shown(networks):
    ((images, _),) = draw_batches(20, seed=4)
    targets = torch.randn(NETWORKS, 5, 10, generator=torch.Generator().manual_seed(1)).softmax(-1)
    _, former, block, latter = assembled(networks, "conv")
    all_shown = cpu_engine.Probe(former, latter, images)
    some_shown = cpu_engine.Probe(former, latter, images[7:12])
    losses, gradient = all_shown.behaviour("conv", block, targets, slice(7, 12))
    expected_losses, expected = some_shown.behaviour("conv", block, targets)
    assert torch.equal(losses, expected_losses)
    assert all(torch.equal(gradient[name], expected[name]) for name in expected)
    assert_close(
        all_shown.outputs("conv", block, slice(7, 12)), all_shown.outputs("conv", block)[:, 7:12]
    )


@compiled
def test_agrees_with_the_torch_engine(initial):
    batches = draw_batches(16, 16, seed=4)
    ours = cpu_engine.train_networks(initial, batches, LR, MOMENTUM)
    theirs = torch_engine.train_networks(initial, batches, LR, MOMENTUM)
    assert list(ours) == list(theirs)
    assert_near(ours, theirs, initial, 1e-3)


@compiled
def test_blank_and_full_images(isa, initial):
    """No pixel to learn from, and none that is zero."""
    images = torch.cat([torch.zeros(2, 1, 28, 28), torch.rand(3, 1, 28, 28) * 0.9 + 0.1])
    batches = [(images, torch.tensor([0, 9, 3, 3, 7]))]
    ours = cpu_engine.train_networks(initial, batches, LR, MOMENTUM)
    assert_near(ours, torch_engine.train_networks(initial, batches, LR, MOMENTUM), initial, 1e-4)


# --- against itself -----------------------------------------------------------------------------


@compiled
def test_a_network_does_not_depend_on_its_company(isa):
    batches = draw_batches(20, 7, seed=5)
    many = initial_weights(Network, range(19))  # a full pack and one of three
    small = {kind: initial_weights(kind, range(19)) for kind in TARGETS}

    def run(index):
        chosen = rows(many, index)
        former, latter = part(chosen, "former"), part(chosen, "latter")
        trained = cpu_engine.train_networks(chosen, batches, LR, MOMENTUM)
        for kind in TARGETS:
            blocks = cpu_engine.train_blocks(
                kind, rows(small[kind], index), former, latter, batches, LR, MOMENTUM
            )
            trained |= {f"{kind}.{k}": v for k, v in blocks.items()}
        return trained

    together = run(torch.arange(19))
    assert_same_bits(run(torch.tensor([4])), rows(together, slice(4, 5)))
    shuffled = torch.randperm(19, generator=torch.Generator().manual_seed(0))
    assert_same_bits(run(shuffled), rows(together, shuffled))


@compiled
def test_a_network_does_not_depend_on_the_threads():
    batches = draw_batches(12, 5, seed=6)
    many = initial_weights(Network, range(40))
    small = {kind: initial_weights(kind, range(40)) for kind in TARGETS}
    around = part(many, "former"), part(many, "latter")

    def run(threads):
        trained = cpu_engine.train_networks(many, batches, LR, MOMENTUM, threads=threads)
        for kind in TARGETS:
            blocks = cpu_engine.train_blocks(
                kind, small[kind], *around, batches, LR, MOMENTUM, threads=threads
            )
            trained |= {f"{kind}.{k}": v for k, v in blocks.items()}
        return trained

    alone = run(1)
    assert_same_bits(run(2), alone)
    assert_same_bits(run(5), alone)


@compiled
def test_inputs_are_left_alone(initial):
    before = {name: tensor.clone() for name, tensor in initial.items()}
    cpu_engine.train_networks(initial, draw_batches(8), LR, MOMENTUM)
    assert_same_bits(initial, before)


# --- against other processors -------------------------------------------------------------------


def exact(*shape, seed, scale):
    """Multiples of a power of two, so that all processors start from the same bytes."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, shape, generator=draw) * scale


def exact_weights(part, seed):
    """Three networks or small blocks; batch norm's weights and statistics as they start."""
    drawn = {}
    for k, (name, tensor) in enumerate(initial_weights(part, range(NETWORKS)).items()):
        learned = "running_" not in name and "bn" not in name
        shape, scale = tensor.shape, 2.0**-9
        drawn[name] = exact(*shape, seed=seed + k, scale=scale) if learned else tensor
    return drawn


def checksum(stacked):
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(stacked):
        digest.update(name.encode() + stacked[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


@compiled
def test_generation_is_the_same_to_the_byte_on_all_processors(isa):
    if isa == "generic":
        pytest.skip("without fused multiply-adds the last bits are others")
    batches = []
    for seed, size in enumerate((33, 33, 9)):
        draw = torch.Generator().manual_seed(seed)
        images = torch.randint(256, (size, 1, 28, 28), generator=draw) / 255
        images[:, :, :5] = images[:, :, 14:17, :12] = 0
        batches.append((images, torch.arange(size) % 10))
    initial = exact_weights(Network, 10)
    trained = cpu_engine.train_networks(initial, batches, LR, MOMENTUM)
    frozen = cpu_engine.train_networks(trained, batches, LR, MOMENTUM, freeze_block=True)
    found = {"step 1": checksum(trained), "step 1, frozen block": checksum(frozen)}
    around = part(trained, "former"), part(trained, "latter")
    for kind in TARGETS:
        small = exact_weights(kind, 50)
        blocks = cpu_engine.train_blocks(kind, small, *around, batches, LR, MOMENTUM)
        found[kind] = checksum(blocks)
    assert found == PINNED


# --- what is not there --------------------------------------------------------------------------


def test_every_kind_is_supported():
    assert all(map(cpu_engine.supports, BLOCKS))
    assert not cpu_engine.supports("other")


@compiled
@pytest.mark.parametrize(
    ("name", "kind"), [("train", "large"), ("behaviour", "large"), ("nearest", "mlp")]
)
def test_what_is_not_there_is_refused_in_one_line(name, kind):
    with pytest.raises(KTError, match="torch"):
        cpu_engine._function(cpu_library.library(), name, kind)

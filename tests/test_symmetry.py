"""Every transform leaves the reference modules' function as it was."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kt.ensemble import torch_engine
from kt.networks import symmetry
from kt.networks.blocks import BLOCKS, Network, initial_weights, weights
from tests.rounding import BLOCK, NETWORK, assert_near

COUNT = 3
orders = st.permutations(range(6)).map(torch.tensor)


def row(stacked, i):
    return {name: tensor[i] for name, tensor in stacked.items()}


def run(module, stacked, x, i=1):
    module.load_state_dict(row(stacked, i), strict=False)
    with torch.no_grad():
        return module.eval()(x)


def blocks(kind):
    """Blocks with biases and statistics that are not at their initial values."""
    drawn = initial_weights(kind, range(COUNT))
    noise = torch.Generator().manual_seed(0)
    return {
        name: tensor + 0.3 * torch.rand(tensor.shape, generator=noise)
        for name, tensor in drawn.items()
    }


@pytest.fixture(scope="module")
def networks():
    draw = torch.Generator().manual_seed(0)
    batches = [
        (torch.rand(16, 1, 28, 28, generator=draw), torch.randint(10, (16,), generator=draw))
        for _ in range(3)
    ]
    return torch_engine.train_networks(initial_weights(Network, range(COUNT)), batches, 0.1, 0.9)


maps = torch.rand(4, 6, 14, 14, generator=torch.Generator().manual_seed(1))
images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(2))


def test_folding_keeps_the_large_block():
    large = blocks("large")
    folded = symmetry.fold(large)

    def plain(x):
        w = row(folded, 1)
        h = torch.relu(torch.nn.functional.conv2d(x, w["conv1.weight"], w["conv1.bias"], padding=1))
        y = torch.nn.functional.conv2d(h, w["conv2.weight"], w["conv2.bias"], padding=1)
        return torch.relu(y + x)

    assert_near(plain(maps), run(BLOCKS["large"](), large, maps), BLOCK)


@settings(deadline=None, max_examples=10)
@given(order=orders)
def test_hidden_channels_of_large_blocks_in_any_order(order):
    large = blocks("large")
    moved = symmetry.permute_hidden(large, order)
    assert_near(run(BLOCKS["large"](), moved, maps), run(BLOCKS["large"](), large, maps), BLOCK)
    back = symmetry.permute_hidden(moved, order.argsort())
    assert all(torch.equal(back[name], large[name]) for name in large)


@pytest.mark.parametrize("kind", ["conv", "conv_bias"])
@pytest.mark.parametrize("order", [[2, 0, 1], [0, 2, 1]])
def test_hidden_channels_of_small_blocks_in_any_order(kind, order):
    small = blocks(kind)
    moved = symmetry.permute_hidden(small, torch.tensor(order))
    assert_near(run(BLOCKS[kind](), moved, maps), run(BLOCKS[kind](), small, maps), BLOCK)


@settings(deadline=None, max_examples=10)
@given(order=orders)
def test_residual_channels_in_any_order(order, networks):
    moved = symmetry.permute_residual(networks, order)
    assert_near(run(Network(), moved, images), run(Network(), networks, images), NETWORK)
    assert not torch.equal(moved["former.conv.weight"], networks["former.conv.weight"]) or (
        order.tolist() == list(range(6))
    )


@pytest.mark.parametrize("kind", ["conv", "conv_bias"])
def test_residual_channels_of_networks_with_small_blocks(kind, networks):
    around = {k: v for k, v in networks.items() if not k.startswith("block.")}
    whole = around | {f"block.{k}": v for k, v in blocks(kind).items()}
    moved = symmetry.permute_residual(whole, torch.tensor([5, 3, 0, 1, 4, 2]))
    assert_near(run(Network(kind), moved, images), run(Network(kind), whole, images), NETWORK)


@pytest.mark.parametrize("kind", ["large", "conv", "conv_bias"])
def test_the_ends_of_a_block_are_the_residual_channels_of_its_network(kind, networks):
    around = {k: v for k, v in networks.items() if not k.startswith("block.")}
    block, order = blocks(kind), torch.tensor([5, 3, 0, 1, 4, 2])
    plain = around | {f"block.{k}": v for k, v in block.items()}
    moved = symmetry.permute_residual(around, order)
    moved |= {f"block.{k}": v for k, v in symmetry.permute_ends(block, order).items()}
    assert_near(run(Network(kind), moved, images), run(Network(kind), plain, images), NETWORK)


@pytest.mark.parametrize("number", range(symmetry.TURNS))
@pytest.mark.parametrize("kind", ["large", "conv", "conv_bias"])
def test_turned_kernels_do_to_turned_maps_what_kernels_do_to_maps(kind, number):
    block = blocks(kind)
    turned = run(BLOCKS[kind](), symmetry.turn_block(block, number), symmetry.turn(maps, number))
    assert_near(turned, symmetry.turn(run(BLOCKS[kind](), block, maps), number), BLOCK)


def test_the_eight_turns_differ():
    x = torch.arange(9.0).view(3, 3)
    assert len({tuple(symmetry.turn(x, n).flatten().tolist()) for n in range(8)}) == 8


@settings(deadline=None, max_examples=10)
@given(scale=st.lists(st.floats(0.1, 10), min_size=3, max_size=3))
@pytest.mark.parametrize("kind", ["conv", "conv_bias"])
def test_rescaling_and_balancing_keep_the_function(kind, scale):
    small = blocks(kind)
    scaled = symmetry.rescale_hidden(small, torch.tensor(scale).expand(COUNT, 3))
    expected = run(BLOCKS[kind](), small, maps)
    assert_near(run(BLOCKS[kind](), scaled, maps), expected, BLOCK)
    balanced = symmetry.balance(scaled)
    assert_near(run(BLOCKS[kind](), balanced, maps), expected, BLOCK)
    assert_near(
        balanced["conv1.weight"].flatten(2).norm(dim=2),
        balanced["conv2.weight"].transpose(1, 2).flatten(2).norm(dim=2),
        2 * 54,
    )


def test_alignment_undoes_order_and_scale():
    small = blocks("conv")
    changed = symmetry.permute_hidden(
        symmetry.rescale_hidden(small, torch.tensor([0.2, 1.0, 7.0]).expand(COUNT, 3)),
        torch.tensor([1, 2, 0]),
    )
    aligned, reference = symmetry.align(changed, small), symmetry.balance(small)
    for name in small:
        assert_near(aligned[name], reference[name], 4 * 54)


def test_a_channel_without_weights_is_left_alone():
    block = {k: v[None].clone() for k, v in weights(BLOCKS["conv_bias"]()).items()}
    block["conv1.weight"][0, 1] = 0
    assert all(tensor.isfinite().all() for tensor in symmetry.balance(block).values())

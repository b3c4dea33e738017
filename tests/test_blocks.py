import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from kt.networks.blocks import (
    BLOCKS,
    TARGETS,
    Former,
    Latter,
    Network,
    block_shapes,
    initial_weights,
    parameter_count,
    weights,
)
from kt.networks.targets.attention import AttentionBlock
from kt.networks.targets.mlp import MLPBlock


@pytest.mark.parametrize(
    ("module", "count"),
    [
        (Former(), 54 + 12),
        (BLOCKS["large"](), 324 + 12 + 324 + 12),
        (BLOCKS["conv"](), 162 + 162),
        (BLOCKS["conv_bias"](), 162 + 3 + 162 + 6),
        (BLOCKS["mlp"](), 84 + 78),
        (BLOCKS["attention"](), 4 * 36),
        (Latter(), 72 + 24 + 5890),
    ],
)
def test_parameter_counts_are_the_papers(module, count):
    assert parameter_count(module) == count


@pytest.mark.parametrize("kind", BLOCKS)
def test_shapes(kind):
    network = Network(kind)
    features = network.former(torch.rand(5, 1, 28, 28))
    assert features.shape == (5, 6, 14, 14)
    assert network.block(features).shape == (5, 6, 14, 14)
    assert network.latter(features).shape == (5, 10)


@pytest.mark.parametrize("kind", TARGETS)
def test_zero_weights_are_the_identity_on_features(kind):
    block = BLOCKS[kind]()
    for parameter in block.parameters():
        parameter.data.zero_()
    features = torch.rand(2, 6, 14, 14)
    assert torch.equal(block(features), features)


def test_attention_is_scaled_dot_product_attention():
    block, x = AttentionBlock(), torch.randn(3, 6, 14, 14)
    q, k, v = (part(x).flatten(2).transpose(1, 2) for part in (block.query, block.key, block.value))
    attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(2, (14, 14))
    assert_close(block(x), block.proj(attended) + x)


def test_mlp_target_is_two_pointwise_convolutions():
    block, x = MLPBlock(), torch.randn(3, 6, 14, 14)
    hidden = F.relu(F.conv2d(x, block.fc1.weight[:, :, None, None], block.fc1.bias))
    y = F.conv2d(hidden, block.fc2.weight[:, :, None, None], block.fc2.bias)
    assert_close(block(x), F.relu(y + x))


def test_initial_weights_are_pytorchs_own_and_leave_the_global_state():
    torch.manual_seed(7)
    expected = weights(Network())
    state = torch.get_rng_state()
    stacked = initial_weights(Network, [3, 7])
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in expected.items():
        assert torch.equal(stacked[name][1], tensor), name


def test_block_shapes_are_in_flattening_order():
    assert block_shapes("conv") == {"conv1.weight": (3, 6, 3, 3), "conv2.weight": (6, 3, 3, 3)}

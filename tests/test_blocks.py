import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from kt.images import ImageSet, training_batches
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
from tests.rounding import POSITIONS, assert_near


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
    assert_near(block(x), block.proj(attended) + x, 3 * 6 + 2 * POSITIONS)


def test_mlp_target_is_two_linear_layers_at_each_position():
    block, x = MLPBlock(), torch.randn(3, 6, 14, 14)
    y = block.fc2(F.relu(block.fc1(x.movedim(1, 3)))).movedim(3, 1)
    assert_near(block(x), F.relu(y + x), 6 + 12 + 2)


@pytest.mark.parametrize("kind", BLOCKS)
def test_all_that_is_handed_on_is_contiguous(kind):
    """PyTorch's convolutions have corrupted memory where channels came last in it."""
    network = Network(kind)
    data = ImageSet(torch.randint(256, (9, 28, 28), dtype=torch.uint8), torch.arange(9))
    for x, _ in training_batches(data, 4, epochs=1, flip=True, seed=0):
        maps = network.former(x)
        maps.retain_grad()
        behind = network.block(maps)
        logits = network.latter(behind)
        logits.sum().backward()
        for tensor in (x, maps, maps.grad, behind, logits, network.latter.conv(behind)):
            assert tensor.is_contiguous()


TRAINING = """
import torch
from torch.nn import functional as F
from kt.networks.blocks import BLOCKS, Network
from kt.networks.residual import NETWORKS
from tests.rounding import POSITIONS, assert_near

def train(network, steps, *images):
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    for _ in range(steps):
        x, y = torch.rand(images), torch.randint(10, images[:1])
        found = network(x)
        F.cross_entropy(found[-1] if isinstance(found, tuple) else found, y).backward()
        optimizer.step()
        optimizer.zero_grad()

for kind in BLOCKS:
    train(Network(kind), 100, 16, 1, 28, 28)
train(NETWORKS["resnet8"](), 4, 8, 3, 32, 32)
print("trained")
"""


def test_training_of_every_kind_ends_well():
    """In a process of its own: a corrupted heap would end it at any time."""
    found = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "trained\n"), found.stderr


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

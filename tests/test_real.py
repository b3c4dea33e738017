"""Networks of many kinds made smaller: their blocks, the least squares, the smaller network."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from kt.real import Schedule, choose, compress, surgery
from kt.real.blocks import find
from kt.real.cost import multiply_adds
from kt.real.graph import Graph, Walk, call, tensors
from kt.real.moments import gather
from kt.real.steps import divergence
from kt.real.widths import by_harm, evenly
from kt.run.errors import KTError
from tests.real_networks import NETWORKS, made

BLOCKS = {  # first map: (what lies between, second map, numbers of a channel in a row)
    "residual": {
        "blocks.0.conv1": (("blocks.0.bn1",), "blocks.0.conv2", 1),
        "blocks.1.conv1": (("blocks.1.bn1",), "blocks.1.conv2", 1),
    },
    "inverted": {
        "block.0": (("block.1", "block.3", "block.4", "block.5"), "block.6", 1),
        "block.6": (("block.7",), "head", 1),
    },
    "vgg": {"0": ((), "2", 1), "2": ((), "6", 25), "6": (("7",), "9", 1)},
    "sound": {"0": (("1",), "3", 1), "3": ((), "6", 1)},
    "transformer": {"mlp.0": ((), "mlp.3", 1)},
    "two inputs": {"first": ((), "second", 1)},
}


def few(example, count=60):
    """Random examples like one."""
    if isinstance(example, torch.Tensor):
        if not example.is_floating_point():
            return torch.randint(11, (count, *example.shape[1:]))
        return torch.randn(count, *example.shape[1:])
    return tuple(few(part, count) for part in example)


def looked_into(name):
    network, example = made(name)
    graph = Graph(network, example)
    return network, example, graph, *find(network, graph)


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_are_found(name):
    _, _, _, blocks, left = looked_into(name)
    found = {block.into: (block.between, block.out, block.repeat) for block in blocks}
    assert found == BLOCKS[name]
    assert not set(found) & set(left) and all(left.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_dropping_channels_is_the_same_as_reading_nothing_of_them(name):
    """The truth that all else rests on: no other layer sees a hidden channel."""
    network, example, _, blocks, _ = looked_into(name)
    for block in blocks:
        kept = list(range(0, block.channels, 2))
        masked, smaller = copy.deepcopy(network), copy.deepcopy(network)
        weight = masked.get_submodule(block.out).weight
        with torch.no_grad():
            weight.unflatten(1, (block.channels, -1))[:, 1::2] = 0
        surgery.shrink(smaller, block, kept)
        assert_close(call(smaller, example), call(masked, example), atol=1e-5, rtol=1e-5)
        before, after = multiply_adds(network, example), multiply_adds(smaller, example)
        assert after < before
        own = [m for m in smaller.modules() if type(m) in (nn.Conv1d, nn.Conv2d, nn.Linear)]
        for layer in own:  # the layers describe themselves as they are
            outputs, inputs = layer.weight.shape[:2]
            if isinstance(layer, nn.Linear):
                assert (layer.out_features, layer.in_features) == (outputs, inputs)
            else:
                assert (layer.out_channels, layer.in_channels) == (outputs, inputs * layer.groups)


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_and_targets_are_what_the_second_map_computes(name):
    """The map's own weights solve the least-squares problem, so rows and targets are right."""
    network, example, graph, blocks, _ = looked_into(name)
    torch.manual_seed(1)
    examples = few(example, 400)
    for block in blocks:
        walks = [Walk(graph, network, examples)]
        found = gather(block, graph, network, walks, walks, 1000, torch.Generator().manual_seed(0))
        out = network.get_submodule(block.out)
        bias = torch.zeros(len(out.weight)) if out.bias is None else out.bias
        exact = torch.cat([out.weight.flatten(1), bias[:, None]], 1).T.double()
        scale = found.inputs.abs().max()
        assert_close((found.inputs @ exact) / scale, found.crossed / scale, atol=1e-5, rtol=0)


def test_elimination_finds_the_channels_that_matter():
    """Of 12 channels 4 are copies of others and 3 are hardly read: 5 tell all."""
    torch.manual_seed(0)
    signals = torch.randn(2000, 5).double()
    hidden = torch.cat([signals, signals[:, :4] * 2, 1e-3 * torch.randn(2000, 3).double()], 1)
    rows = F.pad(hidden, (0, 1), value=1.0)
    target = signals @ torch.randn(5, 6).double() + 1
    moments = choose.Moments(rows.T @ rows, rows.T @ target, 1, torch.ones(6).double())
    kept = choose.eliminate(moments, [5, 8])
    assert len({channel % 5 if channel < 9 else channel for channel in kept[5]}) == 5
    assert max(kept[5]) < 9 and set(kept[5]) < set(kept[8])
    weight, bias = choose.fit(moments, kept[5])
    assert_close(hidden[:, kept[5]] @ weight.T + bias, target, atol=0.02, rtol=0)


@pytest.mark.parametrize("size", [0.0, 1e-30])
def test_a_block_that_gives_nothing_becomes_one_that_gives_nothing(size):
    network, example = made("residual")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(size)
    smaller = compress(network, example, 0.6, few(example))
    assert all(tensor.isfinite().all() for tensor in smaller.state_dict().values())
    assert_close(smaller(example), network(example))


@pytest.mark.parametrize("name", NETWORKS)
def test_all_kept_is_the_network_itself(name):
    network, example = made(name)
    smaller = compress(network, example, 1.0, few(example))
    assert_close(call(smaller, example), call(network, example), atol=0, rtol=0)
    assert smaller.kt_report.multiply_adds[0] == smaller.kt_report.multiply_adds[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_half_is_half_ordinary_and_deterministic(name):
    network, example = made(name)
    before = copy.deepcopy(network.state_dict())
    torch.manual_seed(1)
    examples = few(example)
    smaller, again = (
        compress(network, example, 0.6, examples, schedule=Schedule(5), seed=3) for _ in range(2)
    )
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[key]), key
    report = smaller.kt_report
    assert multiply_adds(smaller, example) == report.multiply_adds[1]
    assert report.multiply_adds[1] <= 0.6 * report.multiply_adds[0]
    assert sum(p.numel() for p in smaller.parameters()) == report.parameters[1]
    assert type(smaller) is type(network)
    copied = pickle.loads(pickle.dumps(smaller))
    assert_close(call(copied, example), call(smaller, example), atol=0, rtol=0)
    assert_close(call(again, example), call(smaller, example), atol=0, rtol=0)
    assert copied.kt_report.blocks == report.blocks
    answers, others = tensors(call(smaller, example)), tensors(call(network, example))
    assert [a.shape for a in answers] == [a.shape for a in others]


def test_each_part_brings_the_answers_closer():
    """Least squares after elimination beats dropping the same channels; the steps beat both."""
    network, example, _, blocks, _ = looked_into("residual")
    torch.manual_seed(1)
    examples, unseen = few(example, 400), few(example, 200)
    with torch.no_grad():  # scores that differ
        network.head.weight *= 3 / network(examples).std(0)[:, None]
        network.head.bias -= network(examples).mean(0)
    keep = {block.into: 3 for block in blocks}

    def error(smaller):
        return divergence(smaller(unseen), network(unseen)).item()

    fitted, moved = (
        compress(network, example, keep, examples, schedule=Schedule(n, stride=0.003), vary=False)
        for n in (0, 60)
    )
    plain = copy.deepcopy(network)
    for block in blocks:
        surgery.shrink(plain, block, list(range(3)))
    assert moved.kt_report.steps == 60
    assert error(moved) < error(fitted) < 0.5 * error(plain)
    assert moved.kt_report.steps == 60 and fitted.kt_report.steps == 0


def test_widths_spare_the_block_that_does_the_most_harm():
    _, _, _, blocks, _ = looked_into("residual")
    costs = {name: 100 for block in blocks for name in (block.into, block.out)}
    harm = {
        "blocks.0.conv1": {12: 0.1, 8: 1.0, 4: 5.0},
        "blocks.1.conv1": {12: 0.001, 8: 0.01, 4: 0.05},
    }
    chosen = by_harm(blocks, harm, costs, 200, round_to=2)
    assert chosen["blocks.0.conv1"] > 8 > chosen["blocks.1.conv1"]
    assert sum(chosen.values()) == 16 and all(width % 2 == 0 for width in chosen.values())
    assert set(evenly(blocks, costs, 200, 1).values()) == {8}
    with pytest.raises(KTError, match="keep is too small"):
        by_harm(blocks, harm, costs, 10, round_to=1)


def test_widths_are_rounded_and_can_be_given():
    network, example = made("residual")
    smaller = compress(network, example, 0.7, few(example), round_to=8, schedule=Schedule(0))
    assert {width for _, width in smaller.kt_report.blocks.values()} <= {8, 16}
    half = compress(
        network, example, 0.7, few(example), of="parameters", ratios="even", schedule=Schedule(0)
    )
    assert half.kt_report.parameters[1] <= 0.72 * half.kt_report.parameters[0]
    with pytest.raises(KTError, match="stem opens no block"):
        compress(network, example, {"stem": 4}, few(example))
    with pytest.raises(KTError, match="has 16 channels, not 17"):
        compress(network, example, {"blocks.0.conv1": 17}, few(example))

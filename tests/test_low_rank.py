"""Low-rank factorisation against plain modules, the best possible error, and exact cases."""

import pytest
import torch

from kt import ensemble
from kt.images import pixels
from kt.networks import symmetry
from kt.networks.blocks import SmallBlock, parameter_count
from kt.networks.weights import part
from kt.rivals import low_rank
from kt.rivals.low_rank import SPATIAL_RANKS, TUCKER_RANKS, LowRankBlock, bottleneck, separable
from tests.conftest import trained_networks
from tests.rounding import NETWORK, assert_near, bound
from tests.test_ensemble import assembled

COUNT = 3
DECOMPOSED = 18 * 18
"""Terms behind a singular value decomposition, each of 18 rotated vectors of 18 numbers."""
METHODS = {
    "spatial_svd": (low_rank.spatial_svd, separable, SPATIAL_RANKS, (18, 18)),
    "tucker2": (low_rank.tucker2, bottleneck, TUCKER_RANKS, ((6, 6), (6, 6))),
}


@pytest.fixture
def networks(images):
    return trained_networks(images, COUNT)


@pytest.fixture(params=METHODS)
def method(request):
    return METHODS[request.param]


def test_full_rank_reproduces_the_network(method, networks, images):
    factorise, _, _, full = method
    large = part(networks, "large")
    dense = low_rank.dense(factorise(large, full))
    folded = symmetry.fold(large)
    for name, tensor in symmetry.fold(dense).items():
        assert_near(tensor, folded[name], DECOMPOSED)
    wanted, found = (ensemble.outputs("large", images, networks, b) for b in (large, dense))
    assert_near(found, wanted, NETWORK)


def test_the_dense_block_does_what_the_chains_do(method, networks, images):
    factorise, chain, ranks, _ = method
    block = factorise(part(networks, "large"))
    found = ensemble.outputs("large", images, networks, low_rank.dense(block))
    for i in range(COUNT):
        network = assembled("large", networks, part(networks, "large"), i)
        weights = {name: tensor[i] for name, tensor in block.items()}
        plain = LowRankBlock(chain, ranks).eval()
        plain.load_state_dict(weights)  # every name and shape is the module's
        maps = plain(network.former(pixels(images.images)))
        assert_near(found[i], network.latter(maps), NETWORK)


def test_the_dense_blocks_batch_norm_only_adds_the_biases(networks):
    block = low_rank.spatial_svd(part(networks, "large"))
    dense = low_rank.dense(block)
    folded = symmetry.fold(dense)
    for i in (1, 2):
        assert torch.equal(folded[f"conv{i}.weight"], dense[f"conv{i}.weight"])
        assert torch.equal(folded[f"conv{i}.bias"], block[f"conv{i}.1.bias"])


def test_a_block_has_as_many_weights_as_the_small_block(method):
    _, chain, ranks, _ = method
    block = LowRankBlock(chain, ranks)
    assert parameter_count(SmallBlock()) == 324
    assert sum(p.numel() for p in block.parameters() if p.dim() > 1) == 324
    assert parameter_count(block) == 324 + 12


def test_the_error_of_the_spatial_svd_is_that_of_the_discarded_singular_values(networks):
    large = part(networks, "large")
    dense, folded = low_rank.dense(low_rank.spatial_svd(large)), symmetry.fold(large)
    for i, rank in enumerate(SPATIAL_RANKS, 1):
        kernel = folded[f"conv{i}.weight"]
        for one, near in zip(kernel, dense[f"conv{i}.weight"], strict=True):
            by_rows = torch.stack([one[o, :, :, w].flatten() for o in range(6) for w in range(3)])
            least = torch.linalg.svdvals(by_rows)[rank:].square().sum()  # Eckart and Young
            assert_near((one - near).square().sum(), least, DECOMPOSED, one.square().sum())


def test_tuckers_error_is_at_most_that_of_the_truncated_modes(networks):
    large = part(networks, "large")
    dense, folded = low_rank.dense(low_rank.tucker2(large)), symmetry.fold(large)
    for i, (into, out) in enumerate(TUCKER_RANKS, 1):
        for one, near in zip(folded[f"conv{i}.weight"], dense[f"conv{i}.weight"], strict=True):
            error, apart = (one - near).square().sum(), bound(DECOMPOSED, one.square().sum())
            lost = [
                torch.linalg.svdvals(mode)[rank:].square().sum()
                for mode, rank in ((one.flatten(1), out), (one.transpose(0, 1).flatten(1), into))
            ]
            assert max(lost) <= error + apart and error <= sum(lost) + apart


def test_kernels_of_the_ranks_are_found_exactly(method, networks):
    factorise, *_ = method
    exact = low_rank.dense(factorise(part(networks, "large")))
    again = low_rank.dense(factorise(exact))
    for i in (1, 2):
        assert_near(again[f"conv{i}.weight"], exact[f"conv{i}.weight"], 2 * DECOMPOSED)


def test_a_network_is_factorised_alike_whatever_is_beside_it(method, networks):
    factorise, *_ = method
    large = part(networks, "large")
    together = factorise(large)
    alone = factorise({name: tensor[1:2] for name, tensor in large.items()})
    for name, tensor in alone.items():
        assert_near(tensor[0], together[name][1], DECOMPOSED)

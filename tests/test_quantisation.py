"""Quantisation: error bounds, PyTorch's own arithmetic, and a network that is stored in 8 bits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kt import ensemble
from kt.images import pixels
from kt.networks import symmetry
from kt.networks.blocks import Network, weights
from kt.networks.weights import part
from kt.rivals import quantisation
from kt.rivals.quantisation import BITS, dequantise, quantise, quantised
from kt.run.files import load_tensors, save_tensors
from tests.conftest import trained_networks
from tests.rounding import assert_near
from tests.test_ensemble import assembled

COUNT = 3


@pytest.fixture
def networks(images):
    return trained_networks(images, COUNT)


def drawn(seed, spread):
    """Weights of channels of very different sizes, one of them zero."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(2, 6, 3, 3, 3, generator=draw)
    weight *= 10 ** (spread * torch.randn(2, 6, 1, 1, 1, generator=draw))
    weight[1, 4] = 0
    return weight


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(0, 3), st.integers(2, 8))
def test_no_weight_is_off_by_more_than_half_a_scale(seed, spread, bits):
    weight = drawn(seed, spread)
    codes, scale = quantise(weight, bits)
    top = 2 ** (bits - 1) - 1
    assert codes.dtype == torch.int8 and codes.abs().max() <= top
    each = scale[:, :, None, None, None]
    assert ((weight - dequantise(codes, scale)).abs() <= each / 2 * (1 + 1e-4)).all()
    alive = weight.flatten(2).abs().amax(2) > 0
    assert (
        codes.flatten(2).abs().amax(2)[alive] == top
    ).all()  # the scale is no larger than needed
    assert (codes[~alive] == 0).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(2, 8))
def test_clipping_never_adds_to_the_squared_error(seed, bits):
    plain, least = _errors(drawn(seed, 0.5), bits)
    assert (least <= plain).all()


@pytest.mark.parametrize("bits", [bits for bits in BITS if bits <= 3])
def test_clipping_helps_most_rows_of_few_bits(bits):
    """Not each: where one weight outweighs all others, nothing is to be clipped."""
    errors = [_errors(drawn(seed, 0.5), bits) for seed in range(30)]
    plain, least = map(torch.cat, zip(*errors, strict=True))
    some = plain > 0
    assert (least[some] / plain[some]).median() < 0.95


def _errors(weight, bits):
    """Squared errors of each row, without clipping and with it."""
    found = []
    for least_squares in (False, True):
        difference = weight - dequantise(*quantise(weight, bits, least_squares))
        found.append(difference.flatten(2).square().sum(2))
    return found


@pytest.mark.parametrize("bits", BITS)
def test_codes_are_those_of_pytorchs_own_quantisation(bits):
    weight, top = drawn(1, 0.3), 2 ** (bits - 1) - 1
    for one, near, scale in zip(weight, *_dequantised(weight, bits), strict=True):
        zero = torch.zeros(6, dtype=torch.int32)
        expected = torch.fake_quantize_per_channel_affine(one, scale, zero, 0, -top, top)
        assert_near(near, expected, 4)


def _dequantised(weight, bits):
    codes, scale = quantise(weight, bits)
    return dequantise(codes, scale), scale


def test_quantising_before_or_after_folding_batch_norm_is_the_same(networks):
    large = part(networks, "large")
    folded = symmetry.fold(large)
    for name, tensor in symmetry.fold(quantised(large, 4)).items():
        if name.endswith("weight"):
            assert_near(tensor, dequantise(*quantise(folded[name], 4)), 8)


def test_more_bits_are_nearer_to_the_networks_answers(networks, images):
    large = part(networks, "large")
    wanted = ensemble.outputs("large", images, networks, large)
    errors = [
        (ensemble.outputs("large", images, networks, quantised(large, bits)) - wanted).abs().mean()
        for bits in BITS
    ]
    assert errors == sorted(errors)
    assert errors[0] < 0.02 * wanted.std()


def test_bytes_of_a_block_are_its_codes_and_a_scale_and_a_bias_a_channel():
    assert quantisation.block_bytes(8) == 648 + 12 * 8
    assert quantisation.block_bytes(3) == 243 + 12 * 8
    assert quantisation.block_bytes(2) == 162 + 12 * 8


def test_a_network_in_8_bits_takes_less_on_disk_and_answers_alike(networks, images, tmp_path):
    network = assembled("large", networks, part(networks, "large"), 0)
    save_tensors(tmp_path / "float", weights(network))
    quantisation.save_int8(tmp_path / "int8", weights(network))
    sizes = [(tmp_path / name).stat().st_size for name in ("float", "int8")]
    assert sizes[1] < 0.5 * sizes[0]
    stored = load_tensors(tmp_path / "int8")
    named = ("former.conv", "block.conv1", "block.conv2", "latter.conv", "latter.fc")
    assert {k for k, t in stored.items() if t.dtype == torch.int8} == {f"{n}.weight" for n in named}

    again = Network().eval()
    loaded = quantisation.load_int8(tmp_path / "int8")
    again.load_state_dict(loaded, strict=False)
    assert loaded.keys() == weights(network).keys()
    for name, tensor in weights(network).items():
        if tensor.dim() == 1:
            assert torch.equal(loaded[name], tensor)
    x = pixels(images.images)
    with torch.no_grad():
        found, wanted = again(x), network(x)
    assert 0 < (found - wanted).abs().max() < 0.1 * wanted.std()

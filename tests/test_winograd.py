"""The compiled engine's convolutions by minimal filtering, against PyTorch's."""

import ctypes
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from kt.ensemble import cpu_engine, cpu_library
from kt.networks.blocks import Sizes

IMAGES = 3
compiled = pytest.mark.skipif(not cpu_engine.available(), reason=str(cpu_engine.reason()))
ISAS = cpu_library.executable() if cpu_engine.available() else []
SIZES = [(16, 8, 28), (9, 5, 31), (8, 8, 14), (10, 10, 22)]
"""Channels, hidden ones, image side: sides of maps are 4 + 4 + 3 + 3, 4 * 4, 4 + 3, 4 + 4 + 3."""


LANES = 16


def drawn(*shape):
    """Random values for networks side by side."""
    return torch.randn(*shape, LANES, generator=torch.Generator().manual_seed(len(shape)))


def convolved(isa, channels, hidden, image):
    """Inputs and results: x, w, bias, dy, y, dx, dw, networks innermost."""
    sizes = Sizes(channels=channels, hidden=hidden, image_size=image)
    library = cpu_library.built(Path(__file__).with_name("winograd.cpp"), isa, sizes)
    run, side = ctypes.CDLL(str(library)), sizes.map_size
    run.convolution.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 7
    given = (
        drawn(IMAGES, channels, side, side),
        drawn(hidden, channels, 3, 3),
        drawn(hidden),
        drawn(IMAGES, hidden, side, side).flip(-1),
    )
    x, w, bias, dy = (tensor[..., : run.lanes()].contiguous() for tensor in given)
    everything = (x, w, bias, dy, torch.empty_like(dy), torch.empty_like(x), torch.zeros_like(w))
    run.convolution(IMAGES, *(tensor.data_ptr() for tensor in everything))
    return everything


@compiled
@pytest.mark.parametrize(
    ("isa", "sizes"),
    [(isa, s) for isa in ISAS[:1] for s in SIZES] + [(isa, SIZES[0]) for isa in ISAS[1:]],
)
def test_convolution_and_gradients_are_pytorchs(isa, sizes):
    x, w, bias, dy, y, dx, dw = convolved(isa, *sizes)
    for lane in range(x.shape[-1]):
        x1, w1 = (t[..., lane].double().requires_grad_() for t in (x, w))
        y1 = F.conv2d(x1, w1, bias[..., lane].double(), padding=1)
        y1.backward(dy[..., lane].double())
        for found, wanted in ((y, y1), (dx, x1.grad), (dw, w1.grad)):
            assert (found[..., lane] - wanted).norm() < 3e-6 * wanted.norm()


@compiled
def test_instruction_sets_agree_to_the_byte():
    """Those with fused multiply-adds; as many networks as the smallest registers hold."""
    found = [[t[..., :4] for t in convolved(i, *SIZES[0])] for i in ISAS if i != "generic"]
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))

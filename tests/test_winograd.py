"""The compiled engine's convolutions by minimal filtering, against PyTorch's."""

import ctypes
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from kt.ensemble import cpu_engine, cpu_library
from kt.networks.blocks import Sizes

IMAGES = 3
ISAS = cpu_library.executable() if cpu_engine.available() else []
SIZES = [(16, 8, 28), (9, 5, 31), (8, 8, 14), (10, 10, 22)]
"""Channels, hidden ones, image side: sides of maps are 4 + 4 + 3 + 3, 4 * 4, 4 + 3, 4 + 4 + 3."""


@pytest.mark.skipif(not cpu_engine.available(), reason=str(cpu_engine.reason()))
@pytest.mark.parametrize(
    ("isa", "sizes"), [(isa, s) for isa in ISAS[:1] for s in SIZES] + [(i, SIZES[0]) for i in ISAS[1:]]
)
def test_convolution_and_gradients_are_pytorchs(isa, sizes):
    channels, hidden, image = sizes
    source = Path(__file__).with_name("winograd.cpp")
    sizes = Sizes(channels=channels, hidden=hidden, image_size=image)
    compiled = ctypes.CDLL(str(cpu_library.built(source, isa, sizes)))
    compiled.convolution.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 7
    lanes, side = compiled.lanes(), sizes.map_size
    draw = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, lanes, generator=draw)  # networks innermost

    x, dy = drawn(IMAGES, channels, side, side), drawn(IMAGES, hidden, side, side)
    w, bias = drawn(hidden, channels, 3, 3), drawn(hidden)
    y, dx, dw = torch.empty_like(dy), torch.empty_like(x), torch.zeros_like(w)
    everything = (x, w, bias, dy, y, dx, dw)
    compiled.convolution(IMAGES, *(tensor.data_ptr() for tensor in everything))
    for lane in range(lanes):
        x1, w1 = (t[..., lane].double().requires_grad_() for t in (x, w))
        y1 = F.conv2d(x1, w1, bias[..., lane].double(), padding=1)
        y1.backward(dy[..., lane].double())
        for found, wanted in ((y, y1), (dx, x1.grad), (dw, w1.grad)):
            assert (found[..., lane] - wanted).norm() < 3e-6 * wanted.norm()

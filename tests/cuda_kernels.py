"""The CUDA engine's arithmetic against the reference modules: run by `tests/test_cuda_engine.py`.

On a GPU the kernels are compiled; elsewhere they run in Triton's interpreter (TRITON_INTERPRET=1),
where few images have to do.
"""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from kt.blocks import Network, initial_weights
from kt.ensemble import cuda_engine, part, torch_engine
from tests.test_cpu_engine import (
    LR,
    MOMENTUM,
    assert_plain_step_1,
    assert_plain_step_2,
    assert_same_bits,
    draw_batches,
    rows,
)

GPU = cuda_engine.available()
DEVICE = "cuda" if GPU else "cpu"
NETWORKS = 35 if GPU else 3
LAST = NETWORKS - 1

# On a GPU its own tiles. In the interpreter lanes for two networks, so that in both the networks
# are two packs, the last one not full. Tiles as wide as on a GPU take other ways through the
# kernels, and much longer in the interpreter.
NARROW = cuda_engine.GPU if GPU else replace(cuda_engine.INTERPRETED, lanes=2)
WIDE = cuda_engine.GPU if GPU else replace(cuda_engine.INTERPRETED, whole=14, read=7)


def on_device(stacked):
    return {name: tensor.to(DEVICE) for name, tensor in stacked.items()}


def batches(*sizes, seed):
    return [(x.to(DEVICE), y.to(DEVICE)) for x, y in draw_batches(*sizes, seed=seed)]


def on_cpu(stacked):
    return {name: tensor.cpu() for name, tensor in stacked.items()}


@pytest.fixture(scope="module")
def networks():
    """Trained a little, so that no statistic is at its initial value."""
    initial = initial_weights(Network, range(NETWORKS))
    return torch_engine.train_networks(initial, draw_batches(32, 32, 32), LR, MOMENTUM)


@pytest.fixture(scope="module")
def small():
    return initial_weights("conv", range(NETWORKS))


def train_networks(networks, sizes, freeze_block, tiles, which=slice(None), snapshots=()):
    chosen = on_device(rows(networks, which))
    fed = batches(*sizes, seed=1)
    options = (LR, MOMENTUM, freeze_block, snapshots, tiles)
    return on_cpu(cuda_engine.train_networks(chosen, fed, *options))


def train_blocks(networks, small, sizes, tiles, which=slice(None)):
    former, latter = (on_device(part(rows(networks, which), name)) for name in ("former", "latter"))
    block, fed = on_device(rows(small, which)), batches(*sizes, seed=2)
    trained = cuda_engine.train_blocks("conv", block, former, latter, fed, LR, MOMENTUM, tiles)
    return on_cpu(trained)


@pytest.mark.parametrize(
    ("sizes", "tolerance"), [((48,), 1e-4), ((32, 32, 32, 9), 2e-3)] if GPU else [((3,), 1e-4)]
)
def test_step_1_is_plain_sgd(networks, sizes, tolerance):
    trained = train_networks(networks, sizes, False, WIDE)
    assert_plain_step_1(trained, networks, draw_batches(*sizes, seed=1), False, tolerance)


@pytest.mark.parametrize("freeze_block", [False, True] if GPU else [True])
def test_step_1_whatever_the_company_and_what_follows(networks, freeze_block):
    sizes = (4,)
    longer = train_networks(networks, (*sizes, 1), freeze_block, NARROW, snapshots=[1])
    trained = rows(longer, slice(NETWORKS, None))
    assert_plain_step_1(trained, networks, draw_batches(*sizes, seed=1), freeze_block, 1e-4)
    alone = train_networks(networks, sizes, freeze_block, NARROW, [LAST])
    assert_same_bits(alone, rows(trained, [LAST]))


def test_step_2_is_plain_sgd_whatever_the_company(networks, small):
    sizes = (4,)
    trained = train_blocks(networks, small, sizes, NARROW)
    assert_plain_step_2("conv", trained, networks, small, draw_batches(*sizes, seed=2), 1e-4)
    alone = train_blocks(networks, small, sizes, NARROW, [1])
    assert_same_bits(alone, rows(trained, [1]))


@pytest.mark.parametrize(
    ("sizes", "tolerance"), [((48,), 1e-4), ((32, 32, 32, 9), 2e-3)] if GPU else [((3, 2), 1e-4)]
)
def test_step_2_with_wide_tiles(networks, small, sizes, tolerance):
    trained = train_blocks(networks, small, sizes, WIDE)
    assert_plain_step_2("conv", trained, networks, small, draw_batches(*sizes, seed=2), tolerance)


@pytest.mark.parametrize(("kind", "tiles"), [("large", NARROW), ("conv", WIDE)])
def test_outputs_are_the_references(networks, small, kind, tiles):
    block = part(networks, "block") if kind == "large" else small
    parts = part(networks, "former"), block, part(networks, "latter")
    images = [batch for batch, _ in draw_batches(*((50, 50, 13) if GPU else (9,)), seed=3)]
    moved = [on_device({"images": batch})["images"] for batch in images]
    logits = cuda_engine.outputs(kind, *(on_device(p) for p in parts), moved, tiles)
    expected = torch.cat(list(torch_engine.outputs(kind, *parts, images)), 1)
    # A logit is a sum of 588 terms, whose roundings add up as a random walk does.
    rounding = 4 * 588**0.5 * torch.finfo(torch.float32).eps * expected.abs().max().item()
    assert_close(torch.cat(list(logits), 1).cpu(), expected, rtol=0, atol=rounding)

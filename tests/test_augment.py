from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kt.networks.blocks import initial_weights
from kt.networks.weights import part
from kt.pairs.augment import add_noise, augment, mask
from kt.pairs.store import Pairs, write_store
from kt.run import seeds
from stages.augment import materialise
from stages.common.base.inputs import AUGMENTED, PAIRS
from stages.common.base.params import Params
from tests.tiny_params import shrink, usual

ROOT = Path(__file__).resolve().parent.parent


@settings(deadline=None, max_examples=25)
@given(m=st.floats(0, 0.99), seed=st.integers(0, 1000))
def test_masking_zeroes_a_share_m_and_rescales_nothing(m, seed):
    draw = torch.Generator().manual_seed(seed)
    ones = torch.full((100, 1000), 3.0)
    masked = mask(ones, m, draw)
    assert set(masked.unique().tolist()) <= {0.0, 3.0}
    share = (masked == 0).double().mean().item()
    assert abs(share - m) <= 6 * (m * (1 - m) / ones.numel()) ** 0.5 + 3 / ones.numel()


@settings(deadline=None, max_examples=25)
@given(n=st.floats(0.001, 10), seed=st.integers(0, 1000))
def test_noise_is_normal_with_standard_deviation_n(n, seed):
    draw = torch.Generator().manual_seed(seed)
    added = (add_noise(torch.zeros(100, 1000), n, draw) / n).double()
    count = added.numel()
    assert abs(added.mean().item()) < 6 / count**0.5
    assert abs(added.var().item() - 1) < 6 * (2 / count) ** 0.5
    assert abs((added.abs() < 1).double().mean().item() - 0.6827) < 0.01


@pytest.mark.parametrize(
    ("side", "changed"),
    [("large", (True, False)), ("small", (False, True)), ("both", (True, True))],
)
def test_only_the_chosen_side_changes_and_every_tensor_has_its_own_draw(side, changed):
    large = {"a": torch.ones(4, 50), "b": torch.ones(4, 50)}
    small = {"a": torch.ones(4, 50)}
    new_large, new_small = augment(large, small, 0.5, 0.1, side, torch.Generator().manual_seed(1))
    assert torch.equal(new_large["a"], large["a"]) is not changed[0]
    assert torch.equal(new_small["a"], small["a"]) is not changed[1]
    assert torch.equal(large["a"], torch.ones(4, 50))  # the originals stay
    if changed[0]:
        assert not torch.equal(new_large["a"], new_large["b"])


def test_masking_comes_before_noise():
    large, _ = augment({"a": torch.ones(100, 100)}, {}, 0.5, 0.01, "large")
    assert (large["a"] == 0).sum() == 0  # masked entries carry noise
    assert ((large["a"].abs() < 0.1).double().mean() - 0.5).abs() < 0.05


def test_nothing_asked_is_nothing_done():
    large, small = {"a": torch.rand(3)}, {"a": torch.rand(3)}
    new_large, new_small = augment(large, small, 0.0, 0.0, "both")
    assert new_large["a"] is large["a"] and new_small["a"] is small["a"]


@pytest.mark.parametrize("block", [4096, 3])
def test_the_stage_writes_the_pairs_themselves_then_augmented_copies(block, tmp_path, monkeypatch):
    raw = shrink(usual(ROOT))
    raw["augment"] |= {"copies": 2, "masking": 0.3, "noise": 0.1, "side": "both"}
    params = Params.model_validate(raw)
    count = params.active.pairs
    large, small = initial_weights("large", range(count + 1)), initial_weights("conv", range(9))
    network = {f"large.{name}": t for name, t in large.items()}
    network |= {f"small.{name}": t for name, t in small.items()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stages.augment.BLOCK", block)
    write_store(PAIRS / "train", [network], count + 1, {})
    materialise(params, Pairs(PAIRS / "train"))

    store = Pairs(AUGMENTED)
    written = store.read()
    assert len(store) == 3 * count and store.about["pairs"] == count
    assert written.keys() == network.keys()
    kernels = {name: t[:count] for name, t in network.items() if "conv" in name}
    for name in written.keys() - kernels.keys():  # batch norm
        assert torch.equal(written[name], network[name][:count].repeat(3, 1))
    for name, tensor in kernels.items():
        assert torch.equal(written[name][:count], tensor)
        for copy in written[name][count:].split(count):
            share = (copy == tensor).float().mean()
            assert share < 0.01 and (copy - tensor).abs().mean() < 0.2
        assert not torch.equal(written[name][count : 2 * count], written[name][2 * count :])
    if block >= count:  # as if all were drawn at once
        draw = seeds.generator(params.seed, "augment", 1)
        both = part(kernels, "large"), part(kernels, "small")
        expected, _ = augment(*both, 0.3, 0.1, "both", draw)
        for name, tensor in expected.items():
            assert torch.equal(written[f"large.{name}"][count : 2 * count], tensor)

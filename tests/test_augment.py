import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kt.augment import add_noise, augment, mask


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

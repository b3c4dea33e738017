"""Generation in parts: the order of the store, resumption, and where small blocks start."""

from dataclasses import replace

import pytest
import torch

from kt.ensemble import Compute, Recipe
from kt.networks.blocks import initial_weights
from kt.pairs import generate
from kt.pairs.generate import Plan
from kt.run.files import load_tensors, save_tensors

RECIPE = Recipe(epochs=3, batch_size=32, lr=0.05)
PLAN = Plan("train", 5, 2, "conv", RECIPE, 7)


def stored(plan, images, folder):
    """The store's tensors, and the files of the parts they came from."""
    parts = list(generate.run(plan, images, folder, Compute()))
    tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return tensors, sorted(folder.iterdir())


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_checkpoints_stand_behind_the_trained_networks_latest_first(images, tmp_path):
    store, _ = stored(replace(PLAN, checkpoints=(1, 2)), images, tmp_path / "all")
    assert all(len(tensor) == 15 for tensor in store.values())
    trained, _ = stored(PLAN, images, tmp_path / "trained")
    assert_same({name: tensor[:5] for name, tensor in store.items()}, trained)
    for at, epochs in ((5, 2), (10, 1)):
        shorter = replace(PLAN, target=None, recipe=replace(RECIPE, epochs=epochs))
        expected, _ = stored(shorter, images, tmp_path / f"{epochs}")
        assert_same({name: store[name][at : at + 5] for name in expected}, expected)
    blocks = store["small.conv1.weight"].flatten(1)
    assert len(blocks.unique(dim=0)) == 15


def test_parts_with_checkpoints_that_are_missing_or_damaged_are_computed_again(images, tmp_path):
    plan = replace(PLAN, checkpoints=(1,))
    whole, (first, second, third) = stored(plan, images, tmp_path)
    kept = second.stat().st_mtime_ns
    first.write_bytes(first.read_bytes()[:100])
    third.unlink()
    again, _ = stored(plan, images, tmp_path)
    assert_same(again, whole)
    assert second.stat().st_mtime_ns == kept
    save_tensors(second, {name: tensor[:2] for name, tensor in load_tensors(second).items()})
    assert_same(stored(plan, images, tmp_path)[0], whole)  # no part of a plan without checkpoints


@pytest.mark.parametrize("shared", [True, False])
def test_progress_and_where_small_blocks_start(images, tmp_path, shared):
    """Without a learning rate step 2 ends where it starts, in every split."""
    plan = replace(PLAN, recipe=replace(RECIPE, lr=0.0), shared_init=shared, checkpoints=(1,))
    starts, seen = [], []
    for split in ("train", "test"):
        this = replace(plan, split=split)
        run = generate.run(
            this, images, tmp_path, Compute(), progress=lambda count, done: seen.append(count)
        )
        starts += [part["small.conv1.weight"] for part in run]
    assert sum(seen) == 2 * plan.images(images) == 2 * 3 * 5 * 3 * len(images)
    starts = torch.cat(starts)
    if shared:
        seed = generate.shared_initial_seed(plan.seed)
        expected = initial_weights("conv", [seed])["conv1.weight"]
        assert torch.equal(starts, expected.expand_as(starts))
    else:
        assert len(starts.flatten(1).unique(dim=0)) == len(starts)

"""Stores of other networks than the parameters ask for are refused by whoever reads them."""

import shutil

import pytest

from kt.ensemble import Compute
from kt.pairs.store import Pairs, write_store
from kt.run.errors import KTError
from stages import augment, evaluate_baselines, generate_transfer, train_translator
from stages.common import kinds
from stages.common.base import params, runtime
from stages.common.base.generation import plan_of
from stages.common.base.inputs import AUGMENTED, PAIRS
from stages.common.base.stores import pairs
from stages.tables import store
from stages.tables.cells import __main__ as cells
from tests.test_doors import refused


@pytest.fixture
def here(prepared, monkeypatch):
    """A project with images, pairs and augmented pairs: the working directory."""
    monkeypatch.chdir(prepared.folder)
    return prepared


READERS = (augment, train_translator, evaluate_baselines)


def tiny(**change):
    return {"scales": {"tiny": change}}


@pytest.mark.parametrize(
    ("change", "stages", "message"),
    [
        ({"seed": 2}, (*READERS, generate_transfer), "seed 1, but the parameters say 2"),
        (tiny(recipe={"epochs": 2}), READERS, "recipe.epochs 1, but the parameters say 2"),
        (tiny(recipe={"lr": 0.2}), READERS, "recipe.lr 0.1, but the parameters say 0.2"),
        (tiny(networks={"test": 2}), READERS[1:], "pairs.test was made with count 3, but .* 2"),
        (tiny(networks={"train": 9}), READERS, "pairs.train was made with count 8, but .* 9"),
        (tiny(networks={"per_stream": 4}), READERS, "networks_per_stream 2, but .* say 4"),
        ({"target": "conv_bias"}, READERS, "target 'conv', but the parameters say 'conv_bias'"),
        ({"generate": {"small_init": "shared"}}, READERS, "shared_init False, but .* True"),
        ({"generate": {"momentum": 0.5}}, READERS, "recipe.momentum 0.9, but .* say 0.5"),
        ({"generate": {"small_blocks": False}}, READERS, "target 'conv', but .* say None"),
        ({"network": {"channels": 8}}, READERS, "sizes.channels 6, but the parameters say 8"),
    ],
)
def test_networks_made_under_other_parameters_stop_every_stage_that_reads_them(
    here, change, stages, message
):
    here.params = params.merged(here.params, change)
    here.write_params()
    for stage in stages:
        refused(stage, f"{message}.*: run `dvc repro`")


def test_a_store_that_does_not_say_how_it_was_made_is_refused(here):
    write_store(PAIRS / "test", [Pairs(PAIRS / "test").read()], 3, {})
    refused(evaluate_baselines, "test is damaged .it does not say how its networks were made")


def test_a_tables_networks_are_compared_with_the_tables_own_parameters(here):
    """And not with those of the row that learns from them, or of the main job."""
    chosen = params.load()
    store.main(chosen, Compute(), "curve/networks")
    folder = PAIRS / "curve/networks"
    other = chosen.changed({"scales": {"tiny": {"recipe": {"epochs": 2}}}}, "a row")
    assert len(pairs(other, folder)) == 8
    here.change_table(
        "curve",
        stores={
            "networks": {
                "generate": {"small_blocks": False, "checkpoints": []},
                "scales": {"tiny": {"networks": {"train": 9}}},
            }
        },
    )
    with pytest.raises(KTError, match=r"curve/networks was made with count 8, but .* say 9"):
        cells.main(chosen, Compute(), "curve/4")


@pytest.mark.parametrize(
    ("split", "made_as"), [("train", "train"), ("partial/0.5", "partial/0.5"), ("epochs/2", None)]
)
def test_the_plan_of_a_store_is_named_by_its_folder(here, split, made_as):
    plan = plan_of(params.load(), split)
    assert (plan and plan.split) == made_as


@pytest.mark.parametrize("change", [{"noise": 0.5}, {"side": "both"}, {"copies": 2}])
def test_augmented_copies_made_in_another_way_are_refused(here, change):
    here.params["augment"] |= {"copies": 1, "noise": 0.0, "side": "large"}
    here.write_params()
    augment.main(params.load(), Compute())
    assert len(kinds.Stored(params.load(), Compute()).checksums) == 3
    here.params["augment"] |= change
    here.write_params()
    name = next(iter(change))
    refused(train_translator, f"data/augmented was made with augment.{name} .*, but the param")


def test_augmented_copies_of_other_networks_are_refused(here):
    here.params["augment"] |= {"copies": 1}
    here.write_params()
    augment.main(params.load(), Compute())
    made = Pairs(AUGMENTED)
    moved = {name: tensor.flip(0) for name, tensor in made.read().items()}
    write_store(AUGMENTED, [moved], len(made), made.about)
    refused(train_translator, "augmented is damaged .its pairs are not those of data/pairs/train")


def test_a_difference_from_nothing_in_common_is_refused_before_any_stage_works(here):
    here.params["model"]["kind"] = "mixer"
    here.params["translators"]["mixer"]["train"]["loss"] |= {"difference": True}
    here.write_params()
    with pytest.raises(KTError, match=r"mixer.train.loss.difference is true, but .*small_init is"):
        runtime.checked()
    here.params["generate"]["small_init"] = "shared"
    here.write_params()
    assert kinds.learning(runtime.checked()).loss.difference


def test_a_store_in_the_place_of_another_is_refused(here):
    shutil.rmtree(PAIRS / "selection")
    (PAIRS / "test").rename(PAIRS / "selection")
    refused(augment, "selection is damaged .its networks were made as 'test'")

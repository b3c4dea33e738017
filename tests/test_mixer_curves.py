"""The mixer's curves, and the cells that scale `study` has of the paper's tables."""

import json

import pytest
from pydantic import ValidationError

from kt.run.errors import KTError
from stages.common.base.params import Params, merged, settings_of
from stages.tables import mixer_curves
from stages.tables.cells import mixer_curves as cells
from stages.tables.cells import mixers, trained
from stages.tables.cells.settings import Ablation, Augmentation, Grid, Kept, MixerCurves
from tests.conftest import ROOT
from tests.tiny_params import usual

STUDY = Params.model_validate(usual(ROOT) | {"scale": "study"})


def changed(learning):
    change, _ = learning
    return STUDY.changed(change, "a cell")


@pytest.mark.parametrize("table", ["table3", "table4"])
def test_study_has_some_cells_of_a_grid_and_the_others_are_empty(table):
    settings = settings_of(table, Grid)
    own = settings.grids["study"].names()
    for name in settings.names():
        learning = trained.grid(STUDY, table, *name.split("/"))
        assert (learning is None) == (name not in own)
        if learning:
            assert changed(learning).updates >= 10_240
    assert 2 <= len(own) <= 4 and "third/0.0" in own


def test_augmentation_at_study_makes_as_many_updates_on_a_sixth_of_the_pairs():
    settings = settings_of("table5", Augmentation)
    for name in settings.names():
        learning = trained.augmentation(STUDY, *name.split("/"))
        assert (learning is None) == (name not in settings.grids["study"].names())
        if learning:
            params = changed(learning)
            assert params.active.pairs == STUDY.active.pairs // 6
            assert abs(params.updates / 10_240 - 1) < 0.02


def test_a_grid_has_no_cell_that_the_table_lacks():
    given = settings_of("table3", Grid).model_dump()
    given["grids"]["study"]["dropout"] = [0.0, 0.25]
    with pytest.raises(ValidationError, match=r"grids\.study has the cell small/0\.25"):
        Grid.model_validate(given, strict=True)


def test_what_study_does_not_have_is_refused_in_one_line():
    for make in (
        lambda: trained.target(STUDY, "mlp"),
        lambda: mixers.changed(STUDY, "base"),
        lambda: changed(trained.ablation(STUDY, "merge_checkpoints")),
    ):
        with pytest.raises(KTError, match="none for scale 'study'; there are some for") as caught:
            make()
        assert "\n" not in str(caught.value)


def test_another_mixer_takes_the_large_one_s_place_where_that_costs_too_much():
    params = mixers.changed(STUDY, "large")
    assert (params.updates, params.model.hidden_size) == (10_240, 64)
    assert mixers.named(STUDY, "large") == (
        "the paper's mixer (third, dropout 0, 20 epochs on 32,768 pairs)"
    )
    both = {"dropout": 0.0, "epochs": {"study": 3}}
    both["instead"] = {"study": {"size": "third", "dropout": 0.0, "epochs": 20}}
    with pytest.raises(ValidationError, match="study is among epochs and instead: leave one"):
        Kept.model_validate(both, strict=True)


def test_every_point_of_a_curve_makes_as_many_updates_and_evaluations():
    settings, ablation = settings_of("mixer_curves", MixerCurves), settings_of("ablation", Ablation)
    assert set(settings.rows) <= set(ablation.mixers)
    for row in settings.rows:
        for share in settings.shares:
            change = merged(ablation.change(row), cells.schedule(STUDY, settings.size, share))
            params = STUDY.changed(change, row)
            assert params.model.hidden_size == 64  # the size's, not the ablation's
            assert (params.updates, params.active.pairs) == (10_240, 32_768 // share)
            assert params.schedule.epochs // params.schedule.evaluate_every == 10


def test_the_pairs_for_a_level_lie_between_points():
    counts, values = [100, 400, 1600], [10.0, 20.0, 20.0]
    assert mixer_curves.pairs_for(10, counts, values) == "with 100 or fewer"
    assert mixer_curves.pairs_for(15, counts, values) == "with about 200"
    assert mixer_curves.pairs_for(20.1, counts, values) == "not even with all"


def test_the_caption_follows_the_numbers():
    levels = {"random_initialisation": of(20, 1), "ceiling": of(90, 1)}
    labels = {"mixer": "plain", "mended": "mended"}

    def said(*means):
        curves = {
            row: {"by_pairs": {f"{n}_pairs": {"unseen": of(m, 1)} for n, m in points.items()}}
            for row, points in zip(labels, means, strict=True)
        }
        return " ".join(mixer_curves.said(curves, labels, levels))

    words = said({100: 21, 1600: 30}, {100: 30, 1600: 60})
    assert "*plain* is ahead of random initialisation from 1,600 pairs on, closes 14 %" in words
    assert "It reaches the best of *plain* with 100 or fewer." in words
    assert "closes 57 % of the gap with all, and 50 % with about" in words
    words = said({100: 21, 1600: 21}, {100: 30, 1600: 60})
    assert "*plain* is ahead of random initialisation nowhere" in words
    assert words.endswith("*plain* has learned nothing to be saved.")


def of(mean, ci95):
    return {"mean": mean, "ci95": ci95}


def test_curves_hold_accuracy_and_error_by_pairs_and_by_updates(prepared):
    prepared.params["scales"]["tiny"]["pairs"] = 6  # of 8: two are measured, not learned from
    prepared.write_params()
    rows = settings_of("mixer_curves", MixerCurves).rows
    prepared.succeed(
        "evaluate_baselines",
        "tables.store ablation/shared",
        *(f"tables.cells mixer_curves/{row}/{share}" for row in rows for share in (2, 1)),
        "tables.mixer_curves",
        "tables.cells table3/wide/0.1",
    )
    results = prepared.folder / "tables" / "results" / "tiny"
    metrics = json.loads((results / "mixer_curves.json").read_text())
    for row in rows:
        assert list(metrics[row]["by_pairs"]) == ["3_pairs", "6_pairs"]
        assert list(metrics[row]["by_updates"]) == ["4_updates", "8_updates"]
        for point in (*metrics[row]["by_pairs"].values(), *metrics[row]["by_updates"].values()):
            assert min(point["unseen_error"], point["seen_error"]) > 0
    page = (results / "mixer_curves.md").read_text()
    assert "is ahead of random initialisation" in page and "*Smoke runs*: all" in page
    assert (results / "mixer_curves.png").exists()

    empty = prepared.folder / "tables" / "cells" / "tiny" / "table3" / "wide" / "0.1.json"
    assert json.loads(empty.read_text()) == {}
    prepared.change_table("table3", grids={"tiny": {"sizes": ["wide"], "dropout": [0.1]}})
    status, errors = prepared.run("tables.grid", "table3")
    assert status == 1 and errors.count("\n") == 1
    assert "wide/0.1.json is empty: it was no cell of this scale" in errors

    for wrong in ("", "table7"):
        status, errors = prepared.run("tables.grid", wrong)
        assert status == 1 and f"{wrong!r} is no table by size and dropout" in errors

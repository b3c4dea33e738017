"""The tables: cells that change parameters, fits, and what is written."""

import json

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from kt.pairs.store import Pairs
from kt.run.errors import KTError
from kt.run.statistics import gap_closed
from stages.common.base import params
from stages.networks.settings import Tuning
from stages.tables import curve, output, times
from stages.tables.cells import figure4, methods, trained
from stages.tables.cells.settings import (
    Ablation,
    AttentionSizes,
    Augmentation,
    Compared,
    Curve,
    Epochs,
    Grid,
    MixerCurves,
    OfOneCost,
    Targets,
)
from tests.conftest import ROOT, usual_params

KINDS = ("mlp", "attention")
MIXERS = tuple(params.settings_of("ablation", Ablation).mixers)
NOISES = ("noise/0.01", "noise/0.1")
TRANSLATORS = ("mixer", "attention", "convolution")


def test_a_change_replaces_leaves_and_is_checked():
    loaded = usual_params()
    changed = loaded.changed(
        {"model": {"layers": 3}, "scales": {"quick": {"pairs": 7}}}, "tables.somewhere"
    )
    assert changed.model == loaded.model.model_copy(update={"layers": 3})
    assert changed.active.pairs == 7
    assert changed.active.recipe == loaded.active.recipe
    assert loaded.changed({}, "nothing").model_dump() == loaded.model_dump()
    with pytest.raises(KTError, match=r"tables\.somewhere: model\.layer: unknown key"):
        loaded.changed({"model": {"layer": 3}}, "tables.somewhere")


def test_a_change_names_every_scale_that_it_is_used_at():
    loaded = usual_params()
    with pytest.raises(KTError, match=r"x.scales: none for scale 'quick'; there.*mnist"):
        loaded.changed({"scales": {"mnist": {"pairs": 7}}}, "x")
    with pytest.raises(KTError, match=r"x.scales: none for scale 'quick'$"):
        loaded.changed({"scales": {}}, "x")


def test_every_cell_and_store_is_valid():
    loaded = usual_params()
    ablation = params.settings_of("ablation", Ablation)
    for name, row in ablation.rows.items():
        change, store = trained.ablation(loaded, name)
        loaded.changed(change, name)
        assert store == row.store and store.removeprefix("ablation/") in ("train", *ablation.stores)
    grids = {t: params.settings_of(t, Grid).grids[loaded.scale] for t in ("table3", "table4")}
    cells = [
        *(trained.curve(loaded, str(n)) for n in params.settings_of("curve", Curve).networks),
        *(trained.grid(loaded, t, s, "0.1") for t, g in grids.items() for s in g.sizes),
        *(trained.augmentation(loaded, *name) for name in (("none",), ("noise", "0.1"))),
        *(trained.target(loaded, kind) for kind in KINDS),
        trained.merge(loaded),
    ]
    for change, _ in cells:
        loaded.changed(change, "a cell")
    for table in ("ablation", "curve", "figure4", "table6"):
        for name, change in params.stores(table).items():
            loaded.changed(change, name)


def test_the_point_of_as_many_networks_is_trained_as_the_main_translator():
    loaded = usual_params()
    change, _ = trained.curve(loaded, str(loaded.active.pairs))
    assert loaded.changed(change, "a point").schedule == loaded.schedule


def test_a_row_extends_what_another_changes():
    ablation = params.settings_of("ablation", Ablation)
    change = ablation.change("mixer_aligned")
    assert change["model"] == ablation.mixers["mixer"].change["model"]
    assert change["translators"]["mixer"]["train"]["loss"] == {"difference": True, "align": True}
    rows = {"a": {"x": {"y": 1, "z": 1}}, "b": {"extends": "a", "x": {"y": 2}}}
    assert params.extended(rows, "b") == {"x": {"y": 2, "z": 1}}


@pytest.mark.parametrize(
    ("bases", "message"),
    [
        ({"mixer": "nope"}, "mixer extends nope: there is no such row"),
        ({"mixer": "mixer"}, "mixer extends mixer: in a circle"),
        ({"mixer": "mixer_folded"}, "in a circle"),
    ],
)
def test_rows_that_extend_nothing_or_each_other_are_refused(bases, message):
    given = yaml.safe_load((ROOT / "tables/ablation/params.yaml").read_text())
    for row, base in bases.items():
        given["mixers"][row]["extends"] = base
    with pytest.raises(ValueError, match=message):
        Ablation.model_validate(given)


@pytest.mark.parametrize(
    ("schema", "table", "key", "value"),
    [
        (Curve, "curve", "networks", [8, 8]),
        (Epochs, "epochs", "epochs", [1, 1]),
        (MixerCurves, "mixer_curves", "rows", ["mixer", "mixer"]),
        (MixerCurves, "mixer_curves", "shares", [1, 2, 1]),
        (Grid, "table3", "sizes", ["small", "small"]),
        (Grid, "table4", "dropout", [0, 0.0]),
        (Augmentation, "table5", "masking", [0.1, 0.1]),
        (Augmentation, "table5", "noise", [0.1, 0.2, 0.1]),
        (Targets, "table6", "targets", ["mlp", "mlp"]),
        (Compared, ".", "sizes", ["small", "small"]),
        (Tuning, "networks", "epochs", [4, 2, 4]),
        (Tuning, "networks", "rates", [0.1, 0.1]),
    ],
)
def test_what_names_rows_is_there_once(schema, table, key, value):
    given = yaml.safe_load((ROOT / "tables" / table / "params.yaml").read_text())
    if schema is Compared:
        given = given["figure6"]
    elif schema is Tuning:
        given = next(iter(given["scales"].values()))["tuning"]
    schema.model_validate(given, strict=True)
    with pytest.raises(ValueError, match=f"{key}.*each must be another|{key}\n.*each must be"):
        schema.model_validate(given | {key: value}, strict=True)


def test_a_row_is_of_mixers_or_of_merges():
    given = yaml.safe_load((ROOT / "tables/ablation/params.yaml").read_text())
    given["merges"]["mixer"] = next(iter(given["merges"].values()))
    with pytest.raises(ValueError, match="mixer is a row of mixers and of merges"):
        Ablation.model_validate(given)


def test_settings_of_a_table_are_checked_by_its_stages(prepared):
    for name, change, message in (
        ("ablation", {"refine_step": 1}, "refine_step: unknown key; did you mean refine_steps?"),
        ("ablation", {"refine_steps": 0}, "refine_steps: got 0; input should be greater"),
        ("curve", {"networks": [0]}, "networks.0: got 0; input should be greater"),
    ):
        path = prepared.folder / "tables" / name / "params.yaml"
        before = path.read_text()
        prepared.change_table(name, **change)
        status, errors = prepared.run("tables.cells", f"{name}/{'mixer' if name[0] == 'a' else 4}")
        assert status == 1 and errors.count("\n") == 1
        assert errors.startswith(f"error: tables/{name}/params.yaml: ")
        assert message in errors
        path.write_text(before)


def test_the_translators_of_figure_4_cost_the_same_or_are_refused(monkeypatch):
    loaded = usual_params()
    costs = [products for _, products in figure4.matched(loaded).values()]
    assert len(costs) == 3 and max(costs) <= 1.05 * min(costs)
    settings = params.settings_of("figure4", OfOneCost)

    def matched(**sizes):
        compared = settings.compared
        new = compared.model_copy(
            update={"convolution": compared.convolution.model_copy(update=sizes)}
        )
        changed = settings.model_copy(update={"compared": new})
        monkeypatch.setattr(figure4, "settings_of", lambda *_: changed)
        return figure4.matched(loaded)

    matched(channel_dim=272)  # 4 % less
    with pytest.raises(KTError, match=r"figure4/params.yaml: compared: .*convolution 14,.*at most"):
        matched(channel_dim=264)
    with pytest.raises(ValidationError, match="heads is 3, which does not divide 64"):
        AttentionSizes(layers=1, hidden_size=64, sequence_dim=1, channel_dim=1, heads=3)


def test_the_fit_finds_a_known_power_law_and_inverts_it():
    networks = np.array([64.0, 128, 256, 512, 1024, 4096])
    fitted = curve.power_law(networks, curve.fall(networks, 92.0, 150.0, 0.5))
    assert np.allclose(fitted, (92.0, 150.0, 0.5), rtol=1e-3)
    needed = curve.networks_for(85, fitted)
    assert curve.fall(np.array(needed), *fitted) >= 85 > curve.fall(np.array(needed - 2), *fitted)
    assert curve.networks_for(95, fitted) is None
    assert curve.power_law(networks[:3], networks[:3]) is None


def test_gap_closed_is_0_at_the_bottom_and_100_at_the_top():
    assert gap_closed(20.0, 20.0, 90.0) == 0
    assert gap_closed(90.0, 20.0, 90.0) == 100
    assert gap_closed(55.0, 20.0, 90.0) == 50
    assert gap_closed(55.0, 90.0, 90.0) == 0


def test_the_tables_hold_every_cell_and_a_cell_comes_out_the_same_again(prepared):
    prepared.succeed(
        "train_translator",
        "evaluate_baselines",
        *(f"tables.store {name}" for name in ("ablation/shared", "ablation/checkpoints")),
        "tables.store curve/networks",
        *(f"tables.cells ablation/{row}" for row in (*MIXERS, "merge_checkpoints")),
        "tables.cells fixed",
        "tables.ablation",
        *(f"tables.cells curve/{networks}" for networks in (4, 8)),
        "tables.curve",
        "tables.cells epochs/2",
        "tables.epochs",
    )
    results = prepared.folder / "tables" / "results" / "tiny"
    ablation = json.loads((results / "ablation.json").read_text())
    rows = {"random_initialisation", "mixer_behaviour", "merge_checkpoints", "prune_best"}
    rows |= {"weights_alone", "prune_prototypes", "prune_prototypes_refined"}
    assert rows | {"translation", "refined_images"} <= set(ablation)
    assert all(row["n"] == 3 for row in ablation.values())
    again = json.loads((prepared.folder / "results" / "train" / "metrics.json").read_text())
    assert ablation["translation"]["mean"] == again["translation"]["mean"]
    assert set(json.loads((results / "curve.json").read_text())) >= {"4_networks", "8_networks"}
    assert (results / "curve.png").exists()
    assert json.loads((results / "epochs.json").read_text())["2_epochs"]["gain"]["n"] == 2
    page = (results / "ablation.md").read_text()
    assert "+ loss on behaviour" in page and len(page.splitlines()) == 4 + len(ablation)

    cell = prepared.folder / "tables" / "cells" / "tiny" / "curve" / "8.json"
    first = json.loads(cell.read_text())
    prepared.succeed("tables.cells curve/8")
    second = json.loads(cell.read_text())
    assert first["translation"] == second["translation"] and first["loss"] == second["loss"]


def test_the_papers_tables_and_figures_hold_its_numbers_and_ours(prepared):
    prepared.succeed(
        "train_translator",
        "evaluate_baselines",
        "generate_transfer",
        "generate_partial",
        "eval_transfer_usps",
        "eval_partial_data",
        "tables.table2",
        "tables.cells merge",
        *(f"tables.cells {t}/small/{d}" for t in ("table3", "table4") for d in (0, 0.1)),
        *(f"tables.grid {table}" for table in ("table3", "table4")),
        *(f"tables.cells table5/{c}" for c in ("none", "masking/0.1", *NOISES)),
        "tables.table5",
        *(f"tables.{name} table6/{target}" for name in ("store", "cells") for target in KINDS),
        "tables.table6",
        *(f"tables.cells mixers/{size}" for size in ("base", "large")),
        "tables.store figure4/pairs",
        *(f"tables.cells figure4/{translator}" for translator in TRANSLATORS),
        *(f"tables.figure{number}" for number in range(4, 9)),
        "tables.usps",
        "tables.page",
    )
    results = prepared.folder / "tables" / "results" / "tiny"
    table2 = json.loads((results / "table2.json").read_text())
    assert {size: row["parameters"] for size, row in table2.items()} == {
        "small": 1_385_965, "base": 2_741_293, "large": 4_096_621, "wide": 4_316_605
    }  # fmt: skip
    # Tokens of 9 to 128 numbers; 8 layers mix 72 tokens by 256 and 128 channels by 512; the heads.
    layer = 2 * (72 * 256 * 128) + 2 * (128 * 512 * 72)
    heads = (72 * 256 + 256 * 36) * 128 + 36 * 128 * 9
    assert table2["small"]["multiply_adds"] == 72 * 9 * 128 + 8 * layer + heads
    table3 = json.loads((results / "table3.json").read_text())
    assert table3["small_dropout_0"]["n"] == table3["merge"]["n"] == 3
    assert "| small, dropout 0.1 |" in (results / "table3.md").read_text()
    assert "31.08" in (results / "table3.md").read_text()  # the paper's
    table5 = json.loads((results / "table5.json").read_text())
    assert table5["all_pairs"] == table3["small_dropout_0"]
    cells = {
        n: json.loads((prepared.folder / "tables/cells/tiny/table5" / f"{n}.json").read_text())
        for n in NOISES
    }
    best = max(NOISES, key=lambda name: cells[name]["selection"]["mean"])
    assert table5["noise_chosen"]["mean"] == cells[best]["translation"]["mean"]
    assert all(c["networks"] == 4 for c in cells.values())  # of 8, for twice as many epochs
    assert all(c["evaluations"][-1]["epoch"] == 8 for c in cells.values())
    assert set(json.loads((results / "table6.json").read_text())) == set(KINDS)
    assert "| 27.38 |" in (results / "table3.md").read_text()
    assert all((results / f"figure{number}.png").exists() for number in range(4, 9))
    pairs = prepared.files("data/pairs/figure4/pairs", "data/pairs/train")
    shard = "00000.safetensors"  # generate_train's networks, as many as asked for
    assert pairs[f"data/pairs/figure4/pairs/{shard}"] == pairs[f"data/pairs/train/{shard}"]
    figure4 = json.loads((results / "figure4.json").read_text())
    assert set(figure4) == {*TRANSLATORS, "mean_small_block"}
    assert len({curve["multiply_adds"] for curve in map(figure4.get, TRANSLATORS)}) == 1
    figure4 = (results / "figure4.md").read_text()
    assert "| epoch | MLP (the mixer), training |" in figure4 and figure4.count("\n| ") == 6
    figure7 = json.loads((results / "figure7.json").read_text())
    again = json.loads((prepared.folder / "results" / "train" / "metrics.json").read_text())
    assert figure7["merge"]["mean"] == again["translation"]["mean"]
    assert json.loads((results / "figure8.json").read_text())["50_percent"]["gain"]["n"] == 2
    assert "| 11.11 | 3 |" in (results / "usps.md").read_text()
    page = (results.parent / "README.md").read_text()
    shown = [results / f"{name}.md" for name in ("table2", "table3", "table5", "table6", "usps")]
    assert all(
        table.read_text().rstrip().replace(output.TERMS, "#terms") in page for table in shown
    )
    assert "(tiny/figure5.png)" in page and "curve.png" not in page


def test_a_cell_learns_from_its_own_pairs_and_not_from_copies_of_others(prepared):
    prepared.succeed("tables.cells table5/none")
    prepared.params["augment"]["copies"] = 1
    prepared.write_params()
    prepared.succeed("augment")
    status, errors = prepared.run("tables.cells", "table5/none")
    assert status == 1 and errors.strip().count("\n") == 0
    assert "holds copies of 8 pairs, but 4 are to be learned from" in errors
    status, errors = prepared.run("tables.cells", "table5/blur/1")
    assert (
        status == 1 and "'blur/1' is no cell: tables/table5/params.yaml has none, masking" in errors
    )


def test_a_table_that_shows_a_cell_of_another_says_so_where_there_is_none(prepared):
    prepared.change_table("", figure6={"sizes": ["wide"], "dropout": 0.0})
    status, errors = prepared.run("tables.figure6")
    assert status == 1 and "tables/table3/params.yaml: wide with dropout 0 is not there" in errors


def test_figure_4_takes_more_pairs_than_there_are_from_where_they_come_from(prepared):
    more = {"tiny": {"networks": {"train": 10}, "pairs": 10}}
    prepared.change_table("figure4", stores={"pairs": {"scales": more}})
    prepared.succeed("tables.store figure4/pairs")
    train = Pairs(prepared.folder / "data" / "pairs" / "train").read()
    more = Pairs(prepared.folder / "data" / "pairs" / "figure4" / "pairs").read()
    assert more.keys() == train.keys()
    assert all(len(more[name]) == 10 and more[name][:8].equal(train[name]) for name in train)


def test_table_1_counts_what_methods_leave(prepared):
    prepared.succeed(
        "train_translator",
        "evaluate_baselines",
        *(f"tables.cells table1/{family}" for family in methods.FAMILIES),
        "tables.table1",
        "tables.times",
    )
    results = prepared.folder / "tables" / "results" / "tiny"
    found = json.loads((results / "table1.json").read_text())
    times = prepared.folder / "tables" / "times" / "tiny"
    baselines = json.loads((prepared.folder / "results" / "baselines" / "metrics.json").read_text())
    break_even = json.loads((times / "times.json").read_text())["break_even"]
    assert set(break_even) == {
        f"{kt}_{baselines['ceiling']['by']}" for kt in ("kt_merge", "kt_mixer")
    }
    assert len(found) == 20 and all(row["n"] == 3 for row in found.values())
    for name in ("large", "retrained", "adam"):  # the ceiling's blocks, trained once more
        assert found[name]["mean"] == baselines[name]["mean"]
    best = found[baselines["ceiling"]["by"]]["beside_ceiling"]
    assert abs(best["mean"]) < 0.001 and best["ci95"] < 0.001 and best["n"] == 3
    assert found["large"]["mean"] == baselines["large"]["mean"]
    assert found["quantised_8"]["mean"] == pytest.approx(found["large"]["mean"], abs=2)
    small = [name for name, row in found.items() if row["parameters"] == 324]
    assert len(small) == 3 + 6 + 2
    assert found["large"]["parameters"] == found["int8"]["parameters"] == 672
    assert found["spatial_svd"]["parameters"] == found["tucker2"]["parameters"] == 336
    assert found["large"]["network_parameters"] == 66 + 672 + 72 + 24 + 5890
    assert found["large"]["multiply_adds"] == 648 * 14 * 14
    assert all(
        found[name]["multiply_adds"] == 324 * 14 * 14 for name in [*small, "spatial_svd", "tucker2"]
    )
    assert found["large"]["bytes"] == 4 * (648 + 2 * 4 * 6) and found["logits"]["bytes"] == 4 * 324
    assert found["quantised_4"]["bytes"] == 648 // 2 + 12 * 8
    assert found["int8"]["network_bytes"] < 0.4 * found["large"]["network_bytes"]
    rows = (results / "table1.md").read_text().splitlines()[2:]
    assert len(rows) == 2 + 20 and (results / "table1.png").exists()
    assert (times / "times.png").exists()


@pytest.mark.parametrize("saved", [0.5, 3.0, 7.0])
def test_translation_breaks_even_where_it_has_saved_what_it_took(saved):
    kt = {"once_seconds": 100.0, "seconds": 0.25}
    other = {"once_seconds": 0.0, "seconds": 0.25 + saved}
    count = times.break_even(kt, other)

    def total(row, networks):
        return row["once_seconds"] + networks * row["seconds"]

    assert total(kt, count) < total(other, count)
    assert total(kt, count - 1) >= total(other, count - 1)
    assert times.break_even(kt, kt) is None


def test_a_table_that_has_no_epochs_for_a_scale_says_so(prepared):
    mixers = {size: {"dropout": 0.0, "epochs": {"other": 2}} for size in ("base", "large")}
    prepared.change_table("", mixers=mixers)
    status, errors = prepared.run("tables.cells", "mixers/base")
    assert status != 0 and len(errors.strip().splitlines()) == 1
    assert (
        "tables/params.yaml: mixers.base: epochs: none for scale 'tiny'; there are some for other"
        in (errors)
    )

"""The tables: cells that change parameters, fits, and what is written."""

import json

import numpy as np
import pytest

from kt.errors import KTError
from kt.statistics import gap_closed
from stages import params
from stages.tables import curve
from stages.tables.ablation_row import Ablation
from stages.tables.curve_store import Curve


def test_a_change_replaces_leaves_and_is_checked():
    loaded = params.load()
    changed = loaded.changed(
        {"model": {"layers": 3}, "active": {"train": {"pairs": 7}}}, "tables.somewhere"
    )
    assert changed.model == loaded.model.model_copy(update={"layers": 3})
    assert changed.active.train.pairs == 7
    assert changed.active.recipe == loaded.active.recipe
    assert loaded.changed({}, "nothing") == loaded
    with pytest.raises(KTError, match=r"tables\.somewhere: model\.layer: unknown key"):
        loaded.changed({"model": {"layer": 3}}, "tables.somewhere")


def test_every_row_of_the_ablation_is_valid():
    loaded = params.load()
    ablation = loaded.table("ablation", Ablation)
    stores = loaded.table("stores", dict[str, params.Change])
    assert {row.store for row in ablation.settings.values()} <= {"train", *stores}
    for name, row in ablation.settings.items():
        loaded.changed(row.change, name)
    for name, change in stores.items():
        loaded.changed(change, name)


def test_settings_of_a_table_are_checked_by_its_stages():
    loaded = params.load()

    def ablation(change):
        tables = {"ablation": loaded.tables["ablation"] | change}
        return loaded.model_copy(update={"tables": tables}).table("ablation", Ablation)

    with pytest.raises(KTError, match=r"params.yaml: tables.ablation.row: unknown key; did.*rows"):
        ablation({"row": []})
    with pytest.raises(KTError, match=r"tables.ablation.refine_steps: got 0; input should be gre"):
        ablation({"refine_steps": 0})
    with pytest.raises(KTError, match=r"tables.ablation: rows: 'x' is none of the settings: mix"):
        ablation({"rows": ["x"]})
    row = {"mixer": {"label": "", "store": "", "change": {}, "changed": {}}}
    with pytest.raises(KTError, match=r"settings.mixer.changed: unknown key; did you mean change"):
        ablation({"rows": ["mixer"], "settings": row})
    with pytest.raises(KTError, match=r"tables.curve: missing"):
        loaded.model_copy(update={"tables": {}}).table("curve", Curve)
    with pytest.raises(KTError, match=r"tables.epochs.1: got 0; input should be greater"):
        loaded.model_copy(update={"tables": {"epochs": [1, 0]}}).table("epochs", list[params.Count])


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
        *(f"tables.store {name}" for name in ("shared", "checkpoints")),
        "tables.curve_store",
        *(f"tables.ablation_row {row}" for row in ("mixer_behaviour", "merge_checkpoints")),
        "tables.ablation_fixed",
        "tables.ablation",
        *(f"tables.curve_point {networks}" for networks in (4, 8)),
        "tables.curve",
        "tables.other_epochs 2",
        "tables.epochs",
    )
    results = prepared.folder / "tables" / "results" / "tiny"
    ablation = json.loads((results / "ablation.json").read_text())
    rows = {"random_initialisation", "mixer_behaviour", "merge_checkpoints", "prune_best"}
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
    prepared.succeed("tables.curve_point 8")
    second = json.loads(cell.read_text())
    assert first["translation"] == second["translation"] and first["loss"] == second["loss"]

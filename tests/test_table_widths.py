"""The table of widths: its cells at a tiny scale, its arithmetic, and what it is said to show."""

import json

import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from kt import ensemble
from kt.images.files import read_set
from kt.networks.weights import part, take
from kt.pairs.store import Pairs
from kt.run.errors import KTError
from stages.common.base import params
from stages.tables import findings, widths
from stages.tables.cells.settings import Widths
from stages.tables.cells.widths import Setting
from tests.conftest import usual_params

STORES = ("channels_4", "channels_6")
CELLS = ("learned/several", "own/6_to_2", "blocks/6_to_2")
SEVERAL = {"widths": ["4_to_2", "6_to_3"]}


def test_the_table_holds_every_cell_and_the_networks_are_those_of_the_stores(prepared):
    prepared.succeed(
        *(f"tables.store widths/{name}" for name in STORES),
        *(f"tables.cells widths/{name}" for name in CELLS),
        "tables.widths",
        KT_ENGINE="torch",
    )
    tables = prepared.folder / "tables"
    cells = {
        name: json.loads((tables / "cells" / "tiny" / "widths" / f"{name}.json").read_text())
        for name in CELLS
    }
    several, own, blocks = cells.values()
    assert several["widths"] == ["4_to_2", "6_to_3"] and own["widths"] == ["6_to_2"]
    assert several["updates"] == own["updates"] == 4 and several["networks"] == own["networks"] == 4
    assert several["measured"]["6_to_2"] != own["measured"]["6_to_2"]

    store = Pairs(prepared.folder / "data" / "pairs" / "widths" / "channels_6").read()
    images = read_set(prepared.folder / "data" / "images" / "main.safetensors", "test")
    measured = take(store, slice(0, 3))
    accuracies = ensemble.evaluate("large", images, measured, part(measured, "large"))
    assert blocks["large"]["accuracies"] == pytest.approx(accuracies.tolist(), abs=1e-3)
    assert {row.get("updates") for row in (blocks["retrained"], blocks["adam"])} == {3}
    by_rate = {name: mean for name, mean in blocks["ceiling"]["selection"].items() if "_" in name}
    best = max(by_rate, key=lambda name: by_rate[name])
    assert best == f"adam_{blocks['ceiling']['rate']:g}".replace(".", "_")

    page = (tables / "results" / "tiny" / "widths.md").read_text()
    assert "| 6 -> 2 | merge, learned at 4 -> 2, 6 -> 3 |" in page and "*Smoke runs*: all" in page
    assert len(page.splitlines()) == 4 + 7
    assert (tables / "results" / "tiny" / "widths.png").exists()
    for name, message in (
        ("own/6_to_3", "'6_to_3' is no cell: tables/widths/params.yaml: measured has 6_to_2"),
        ("all/6_to_2", "'all' is no cell: widths has learned, own, blocks"),
        ("own", "'widths/own' is no cell: its name has too many or too few words"),
    ):
        status, errors = prepared.run("tables.cells", f"widths/{name}")
        assert status == 1 and errors.count("\n") == 1 and message in errors


def test_no_network_has_two_roles(monkeypatch):
    settings = Widths(measured=["6_to_2"], learned={}, test=3, selection=2, networks=4, stores={})

    class Store:
        def mapped(self, *parts):
            return {f"{name}.x": torch.arange(9) for name in parts}

    asked = []
    monkeypatch.setattr(
        "stages.tables.cells.widths.pairs", lambda *a, **k: asked.append((a, k)) or Store()
    )
    setting = Setting(usual_params(), settings, ensemble.Compute())
    roles = [setting.networks("6_to_2", r)["large.x"] for r in ("test", "selection", "networks")]
    assert torch.cat(roles).tolist() == list(range(9)) and list(map(len, roles)) == [3, 2, 4]
    assert setting.networks("6_to_2", "networks", 3)["large.x"].tolist() == [5, 6, 7]
    (params, folder, *_), about = asked[0]
    assert folder.name == "channels_6"
    assert (params.sizes.channels, params.sizes.hidden) == (6, 2)
    assert about == {"count": 9}


def test_a_share_is_of_the_gap_and_a_difference_is_paired():
    found = {
        "random_initialisation": {"accuracies": [10.0, 30.0]},
        "untrained": {"accuracies": [30.0, 50.0]},
        "several": {"accuracies": [45.0, 65.0]},
        "own": {"accuracies": [50.0, 70.0]},
        "retrained": {"accuracies": [85.0, 75.0]},
        "large": {"accuracies": [90.0, 90.0]},
    }
    results = widths.compared("8_to_2", found, {"several": SEVERAL})
    gaps = {name: results[name]["gap"] for name in found}
    random, whole = 20.0, 80.0
    expected = {"several": 55.0, "own": 60.0, "untrained": 40.0, "large": 90.0}
    for name, mean in expected.items():
        assert gaps[name] == pytest.approx(100 * (mean - random) / (whole - random), abs=1e-3)
    share = results["of_own"]["several"]
    assert share["percent"] == pytest.approx(100 * 35 / 40)
    assert (share["mean"], share["ci95"], share["n"]) == (-5.0, 0.0, 2)
    assert share["learned"] is False
    assert widths.compared("6_to_3", found, {"several": SEVERAL})["of_own"]["several"]["learned"]
    assert results["own"]["median"] == 60.0 and results["own"]["below_80"] == 100.0
    assert results["large"]["below_80"] == 0.0 and results["retrained"]["below_80"] == 50.0
    apart = results["own"]["beside_ceiling"]  # of -35 and -5
    assert (apart["mean"], apart["min"], apart["n"]) == (-20.0, -35.0, 2)


@pytest.mark.parametrize(("by", "name"), [("adam", "Adam"), ("retrained", "SGD")])
def test_the_re_training_that_was_chosen_is_shown(by, name):
    blocks = {
        name: {"accuracies": [1.0, 2.0]}
        for name in ("random_initialisation", "pruned", "untrained", "large")
    }
    blocks |= {
        "retrained": {"accuracies": [99.0, 99.0]},
        "adam": {"accuracies": [80.0, 80.0]},
        "ceiling": {"by": by},
    }
    one = {"measured": {"6_to_2": [3.0, 4.0]}}
    found, labels = widths.methods("6_to_2", blocks, {"several": one | SEVERAL}, one)
    assert labels["retrained"] == f"re-trained by {name} (the ceiling)"
    assert found["retrained"] is blocks[by]
    assert labels["several"] == "merge, learned at 4 -> 2, 6 -> 3" and list(found) == list(labels)


def test_findings_say_by_how_much_a_share_falls_short():
    def at(percent, learned=False):
        block = {"mean": 1.0, "ci95": 0.0}
        return {"several": block, "of_own": {"several": {"percent": percent, "learned": learned}}}

    table = pd.DataFrame({"block": ["merge, learned at 4 -> 2"]})
    metrics = {"6_to_2": at(101.0), "8_to_4": at(20.0, learned=True), "16_to_8": at(90.0)}
    (said,) = findings.findings("widths", metrics, table)
    assert said.startswith("Merge, learned at 4 -> 2: at widths that it has not learned")
    assert "101.0 % at 6 -> 2; 90.0 % at 16 -> 8: 90 % or more." in said
    metrics["16_to_8"] = at(85.75)
    (said,) = findings.findings("widths", metrics, table)
    assert said.endswith("85.8 % at 16 -> 8: short of 90 % by 4.2 % at 16 -> 8.")


def test_settings_that_are_not_divided_evenly_are_refused():
    whole = params.settings_of("widths", Widths)
    assert set(whole.stores) >= {whole.store(width) for width in whole.measured}
    for name, change in whole.stores.items():
        changed = usual_params().changed(change, name)
        assert changed.active.networks.train == whole.test + whole.selection + whole.networks
        assert f"channels_{changed.network.channels}" == name
    for change, message in (
        (
            {"networks": 128},
            "128 networks.*not divided evenly among the 3 widths of learned.several",
        ),
        ({"measured": ["6_2"]}, "measured"),
        ({"measured": ["6_to_2", "6_to_2"]}, "each must be another"),
    ):
        with pytest.raises(ValidationError, match=message):
            Widths.model_validate(whole.model_dump() | change)
    with pytest.raises(KTError, match=r"widths/params.yaml: 3_to_4: .*hidden is 4, more than"):
        Setting(usual_params(), whole, ensemble.Compute()).at("3_to_4")

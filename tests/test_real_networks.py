"""The table of networks made smaller, as its pipeline runs it: tiny, on handwritten digits."""

import json

import pandas as pd
import pytest
import yaml

from kt.images import IMAGE_SETS
from kt.run.errors import KTError
from stages.networks import settings
from tests.conftest import ROOT

TABLE = ROOT / "tables" / "networks"


@pytest.fixture
def table(project):
    """A project with the pipeline's parameters at its smallest scale."""
    params = yaml.safe_load((TABLE / "params.yaml").read_text())
    params |= {"scale": "digits", "networks": ["resnet8"], "keep": [0.5], "seeds": [0, 1]}
    params["tuned"] = ["resnet8"]
    params["methods"] = [
        "norm",
        "norm_statistics",
        "folding",
        "pointwise",
        "least_squares",
        "ours_drawn",
        "ours_adapted",
        "ours_alone",
        "ours_adam",
        "ours",
        "labelled",
    ]
    folder = project.folder / "tables" / "networks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    project.table = params
    return project


def test_the_pipeline_runs_on_digits_and_translation_leads(table):
    cells = [
        f"networks.cell resnet8-{method}-{seed}"
        for method in table.table["methods"]
        for seed in table.table["seeds"]
    ]
    table.succeed("networks.networks", *cells, "networks.tune resnet8", "networks.summary")
    results = table.folder / "tables" / "networks" / "results" / "digits"
    rows = pd.read_csv(results / "networks.csv")
    assert len(rows) == len(table.table["methods"]) * (1 + 2) and set(rows["seed"]) == {0, 1}
    whole = rows[rows["keep"] == 1].iloc[0]
    small = rows[rows["keep"] < 1]
    assert whole["accuracy"] > 80
    assert (small["multiply_adds"] <= 0.5 * whole["multiply_adds"]).all()
    assert (small[small["method"].isin(["ours", "folding"])]["images"] == 100).all()
    assert (small["seconds"] > 0).all()
    assert set(small[small["labels"] > 0]["method"]) == {"labelled"}
    mean = small[small["labels"] == 0].groupby("method")["accuracy"].mean()
    assert mean.idxmax() == "ours"
    assert mean["ours_adapted"] > mean[["norm", "ours_drawn"]].max() + 20  # without any image
    metrics = json.loads((results / "metrics.json").read_text())
    assert metrics["resnet8"]["ours"]["keep_50"] == pytest.approx(mean["ours"])
    assert "| resnet8 | translated | 50% |" in (results / "networks.md").read_text()
    tuned = pd.read_csv(results / "tuned.csv").query("rate == 0.1").set_index(["start", "epoch"])
    first = tuned["accuracy"].xs(0, level="epoch")
    assert first["translated"] > first["selected"] and first["translated"] > first["random"]
    assert tuned["accuracy"]["random", 2] > first["random"]
    assert (results / "accuracy.png").stat().st_size > 1000


def test_parameters_are_checked(tmp_path):
    params = yaml.safe_load((TABLE / "params.yaml").read_text())
    path = tmp_path / "params.yaml"
    for change, message in (
        ({"scale": "imagenet"}, "none of cifar10, digits"),
        ({"methods": ["magic"]}, "methods is 'magic', which is none of random"),
        ({"tuned": ["resnet110"]}, "tuned is 'resnet110', which is none of resnet20"),
        ({"networks": ["resnet8"]}, "networks is 'resnet8', which is none of resnet20"),
        ({"keep": [1.5]}, r"keep\.0"),
        ({"seeds": [1, 1]}, "each must be another"),
    ):
        path.write_text(yaml.safe_dump(params | change))
        with pytest.raises(KTError, match=message):
            settings.load(path)


def test_digits_are_at_hand():
    assert set(settings.Scale.model_fields["images"].annotation.__args__) - {"cifar10"} <= set(
        IMAGE_SETS
    )


def test_more_images_than_there_are_is_an_error(table):
    table.table["scales"]["digits"]["unlabelled"] = 10**6
    path = table.folder / "tables" / "networks" / "params.yaml"
    path.write_text(yaml.safe_dump(table.table))
    status, errors = table.run("networks.networks")
    assert status == 1 and "digits has 1,437 training images" in errors

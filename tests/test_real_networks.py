"""The table of networks made smaller, as its pipeline runs it: tiny, on handwritten digits."""

import json

import pandas as pd
import pytest
import yaml

from kt.images import IMAGE_SETS
from kt.real import files, load
from kt.run.errors import KTError
from stages.networks import settings, summary, training
from stages.networks.methods import METHODS
from stages.networks.resnet import ResNet
from tests.colours import with_colours
from tests.conftest import ROOT

TABLE = ROOT / "tables" / "networks"


@pytest.fixture
def table(project):
    """A project with the pipeline's parameters at its smallest scale."""
    params = yaml.safe_load((TABLE / "params.yaml").read_text())
    params |= {"scale": "digits", "networks": ["resnet8"], "keep": [0.5], "seeds": [0, 1]}
    params |= {"tuned": ["resnet8"], "ceilings": ["resnet8"]}
    params["methods"] = [
        "norm",
        "norm_statistics",
        "folding",
        "pointwise",
        "least_squares",
        "ours_weights",
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
    table.succeed(
        "networks.networks",
        *cells,
        "networks.tune resnet8",
        "networks.ceiling resnet8",
        "networks.summary",
    )
    results = table.folder / "tables" / "networks" / "results" / "digits"
    rows = pd.read_csv(results / "networks.csv")
    ceiling = rows[rows["method"] == "ceiling"].iloc[0]
    rows = rows[rows["method"] != "ceiling"]
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
    assert mean["ours_adapted"] > mean["norm"] + 20  # without any image
    assert mean["ours_weights"] > mean["norm"]
    assert ceiling["accuracy"] > mean["least_squares"] and ceiling["labels"] == 600
    assert "until nothing is gained | 50%" in (results / "networks.md").read_text()
    metrics = json.loads((results / "metrics.json").read_text())
    assert metrics["resnet8"]["ours"]["keep_50"] == pytest.approx(mean["ours"])
    assert metrics["resnet8"]["whole"] == pytest.approx(whole["accuracy"])
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
        ({"ceilings": ["resnet8"]}, "ceilings is 'resnet8', which is none of resnet20"),
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


def test_a_published_network_is_trained_further(table):
    root = with_colours(table, train=15, test=2)
    published, result = root / "models/cifar10_resnet8.safetensors", "data/networks/cifar10"
    published.parent.mkdir()
    files.save(ResNet(8), published)
    network = {"depth": 8, "steps": {"steps": 1, "batch": 4}}
    further = network | {"training": {"epochs": 1, "lr": 0.01}}
    table.table |= {"scale": "cifar10", "networks": ["as_is", "further"]}
    table.table |= {"tuned": [], "ceilings": []}
    scale = table.table["scales"]["cifar10"]
    scale |= {"unlabelled": 64, "networks": {"as_is": network, "further": further}}
    scale["tuning"] |= {"labelled": 64, "held_out": 10}
    (table.folder / "tables/networks/params.yaml").write_text(yaml.safe_dump(table.table))
    table.succeed("networks.networks", KT_DATA_ROOT=str(root))
    as_is, trained = (
        load(lambda: ResNet(8), table.folder / result / f"{name}.safetensors")
        for name in ("as_is", "further")
    )
    weight = load(lambda: ResNet(8), published).linear.weight
    assert as_is.linear.weight.equal(weight)
    assert 0 < (trained.linear.weight - weight).abs().max() < 0.1
    assert trained.bn1.num_batches_tracked == 130 // 64


def test_more_images_than_there_are_is_an_error(table):
    table.table["scales"]["digits"]["unlabelled"] = 10**6
    path = table.folder / "tables" / "networks" / "params.yaml"
    path.write_text(yaml.safe_dump(table.table))
    status, errors = table.run("networks.networks")
    assert status == 1 and "digits has 1,437 training images" in errors


def test_training_goes_on_in_longer_cycles_until_one_brings_little():
    cycles: list[int] = []
    scores = iter([50.0, 60.0, 60.6, 60.9])  # the last brings less than GAIN
    done = training.until_converged(cycles.append, 3, lambda: next(scores))
    assert cycles == [3, 6, 12] and done == 21


def test_the_caption_says_where_translation_is_behind(table):
    chosen = settings.load(table.folder / "tables" / "networks" / "params.yaml")
    scores = {"norm": 70.0, "ours_adam": 80.0, "ours_fitted": 99.0, "ours": 80.0}
    rows = [
        {"network": "resnet8", "method": name, "keep": 0.5, "accuracy": score}
        for name, score in scores.items()
    ]
    chosen = chosen.model_copy(update={"methods": list(scores)})
    said = summary.behind(pd.DataFrame(rows), chosen)
    assert "but for: resnet8 at 50%: translated, steps of Adam (80.0 against 80.0)." in said
    alone = chosen.model_copy(update={"methods": ["norm", "ours"]})
    assert summary.behind(pd.DataFrame(rows), alone).endswith("is ahead of every rival.")
    assert summary.behind(pd.DataFrame(rows), chosen.model_copy(update={"methods": ["norm"]})) == ""


def test_every_way_of_ours_has_a_colour_of_its_own():
    ours = [name for name in METHODS if name.startswith("ours")]
    assert len(set(summary.SHADES)) >= len(ours)

"""What the tables' stages read is checked: images, cells and metrics."""

import json
import shutil

import pytest
import torch
import yaml

from kt.ensemble import Compute
from kt.images import ImageSet
from kt.images.files import write_sets
from kt.real import files
from kt.run.errors import KTError
from stages import report
from stages.common.base import outputs
from stages.common.base.params import Params, merged, settings_of, stores
from stages.factor_transfer import learning
from stages.factor_transfer import settings as factor_transfer
from stages.networks import ceiling, content, tune
from stages.networks import cell as measurement
from stages.networks import settings as networks
from stages.networks.resnet import ResNet
from stages.tables import factor_transfer as comparison
from stages.tables import figure7, output, page, redraw
from stages.tables.cells import cell as cells
from stages.tables.cells import figure4, trained
from stages.tables.cells.settings import Curve
from tests.conftest import ROOT, usual_params
from tests.test_cifar import colour_images
from tests.test_doors import flip_in


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty project with the parameters of its tables: the working directory."""
    for table in (networks.TABLE, factor_transfer.TABLE):
        (tmp_path / table).mkdir(parents=True)
        shutil.copy(ROOT / table / "params.yaml", tmp_path / table)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(message, work, *arguments):
    with pytest.raises(KTError, match=message) as caught:
        work(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "split"),
    [("images", "test"), ("images", "labelled"), ("unlabelled-1", "unlabelled")],
)
def test_a_flipped_pixel_stops_the_stages_of_the_networks_table(here, name, split):
    path = here / networks.TABLE / "params.yaml"
    tree = yaml.safe_load(path.read_text())
    tree |= {"scale": "cifar10", "seeds": [1], "methods": ["ours"]}
    scale = tree["scales"]["cifar10"]
    scale["unlabelled"], scale["tuning"] = 20, scale["tuning"] | {"held_out": 1, "labelled": 64}
    path.write_text(yaml.safe_dump(tree))
    chosen = networks.load()
    network = chosen.tuned[0]
    files.save(chosen.active.networks[network].fresh(), chosen.data / f"{network}.safetensors")
    write_sets(chosen.images, {"labelled": colour_images(65), "test": colour_images(4)})
    write_sets(chosen.unlabelled(1), {"unlabelled": colour_images(20)})
    flip_in(chosen.data / f"{name}.safetensors", f"{split}.images")
    message = f"{name}.safetensors is damaged .the checksum of '{split}' .*: run `dvc repro`"
    stages = [(tune, network), (ceiling, network)]
    if split != "labelled":
        stages.append((measurement, f"{network}-ours-1"))
    for stage, words in stages:
        refused(message, stage.main, usual_params(), Compute(), words)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_flipped_pixel_stops_factor_transfer(here, split):
    images = {"train": colour_images(4), "test": colour_images(3)}
    write_sets(factor_transfer.IMAGES, images, {factor_transfer.SOURCE: "JPEG"})
    flip_in(factor_transfer.IMAGES, f"{split}.images")
    cpu = torch.device("cpu")
    refused(f"cifar10.safetensors is damaged .*of '{split}'", learning.image_set, split, cpu)


@pytest.mark.parametrize("about", [None, {factor_transfer.SOURCE: "GIF"}])
def test_images_that_do_not_say_what_they_are_are_refused(here, about):
    write_sets(factor_transfer.IMAGES, {"train": colour_images(4)}, about)
    refused("is damaged .it says that its images are", learning.image_source)


SUMMARY = {"mean": 50.0, "std": 1.0, "min": 49.0, "max": 51.0, "n": 3, "ci95": 2.5}
TRAINED = {
    "translation": SUMMARY,
    "selection": SUMMARY,
    "paper_rule_best_on_test": SUMMARY | {"epoch": 2},
    "training": SUMMARY,
    "accuracies": [49.0, 50.0, 51.0],
    "networks": 8,
    "updates": 16,
    "late_fall": 0.5,
    "evaluations": [{"epoch": 1, "loss": 0.5, "selection": 50.0, "test": 50.0}],
}
COUNTS = ("parameters", "network_parameters", "bytes", "network_bytes", "multiply_adds", "updates")
FLAGS = ("once", "retrains", "any_architecture")
LOSSES = {"loss": 0.5, "held_out_loss": 0.6}
CURVE = dict.fromkeys(("parameters", "multiply_adds", "pairs", "batch_size", "held_out"), 4)
WIDTHS_BLOCKS = ("random_initialisation", "pruned", "untrained", "retrained", "adam", "large")
BLOCKS = ("random_initialisation", "translation", "retrained", "large", "gain")
CELLS = {
    "ablation/mixer": TRAINED,
    "merge": TRAINED,
    "table6/mlp": TRAINED | {"random_initialisation": SUMMARY},
    "fixed": {
        "prune_norm": {"label": "x", "translation": SUMMARY, "accuracies": [49.0, 50.0, 51.0]}
    },
    "epochs/3": dict.fromkeys(BLOCKS, SUMMARY),
    "figure4/mixer": CURVE
    | {"updates": 4, "mean_block": LOSSES, "history": [LOSSES | {"epoch": 1}]},
    "table1/large": {
        "large": dict.fromkeys(COUNTS, 7)
        | dict.fromkeys(FLAGS, False)
        | {"label": "x", "images": "", "accuracy": SUMMARY, "accuracies": [49.0, 50.0, 51.0]}
    },
    "widths/own/6_to_3": {
        "widths": ["6_to_3"],
        "networks": 4,
        "updates": 2,
        "prototypes": 20,
        "measured": {"6_to_3": [90.0, 91.0]},
    },
    "widths/blocks/6_to_3": {name: {"accuracies": [90.0], "labels": True} for name in WIDTHS_BLOCKS}
    | {"ceiling": {"by": "adam", "rate": 0.01}},
}
MEASURED = dict.fromkeys(("accuracy", "agreement", "milliseconds", "seconds"), 50.0)
MEASURED |= {"multiply_adds": 9, "parameters": 9, "images": 0, "seed": 1}
ROWS = [MEASURED | {"keep": keep} for keep in (1.0, 0.7, 0.5, 0.3)]
EPOCH = {"epoch": 1, "loss": 2.0, "cross_entropy": 1.0}


def of_table(name):
    return lambda: cells.CELLS / "tiny" / f"{name}.json", lambda: cells.read(TINY, name)


def of_networks(read, path, *words):
    def chosen():
        return networks.load().model_copy(update={"seeds": [1], "keep": [0.7, 0.5, 0.3]})

    return lambda: path(chosen(), *words), lambda: read(chosen(), *words)


def of_training(kind):
    folder = factor_transfer.DATA / "tiny"
    return lambda: folder / learning.METRICS, lambda: comparison.read(folder, kind)


TINY = Params.model_construct(scale="tiny")
DOORS = {name: (*of_table(name), content) for name, content in CELLS.items()} | {
    "times": (
        lambda: cells.CELLS / "tiny" / cells.TIMES / "merge.json",
        lambda: cells.seconds_of(TINY, "merge"),
        {"training": 3.5},
    ),
    "times of table1": (
        lambda: cells.CELLS / "tiny" / cells.TIMES / "table1" / "large.json",
        lambda: cells.seconds_of(TINY, "table1/large"),
        {"large": {"latency_us": 1.0, "seconds": 2.0, "once_seconds": 0.0}},
    ),
    "networks": (
        *of_networks(content.cell, networks.Settings.cell, "resnet20", "norm", 1),
        {"labels": 0, "rows": ROWS},
    ),
    "ceiling": (
        *of_networks(content.ceiling, networks.Settings.ceiling_cell, "resnet20"),
        {"rows": [row | {"labels": 5, "epochs": 2} for row in ROWS]},
    ),
    "tuned": (
        *of_networks(content.tuned, networks.Settings.tuned_cell, "resnet20"),
        {
            "rows": [
                dict.fromkeys(("seconds", "accuracy", "held_out"), 50.0)
                | {"start": "random", "rate": 0.1, "epoch": 0}
            ]
        },
    ),
    "student": (*of_training(comparison.Student), {"accuracy": 90.0, "history": [EPOCH]}),
    "teacher": (*of_training(comparison.Judged), {"accuracy": 90.0, "history": [EPOCH]}),
    "paraphraser": (*of_training(comparison.Training), {"history": [EPOCH]}),
}
"""What a door reads: the file, the door, and what may be there."""


def leaves(content, way=()):
    if isinstance(content, dict | list) and content:
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from leaves(content[key], (*way, key))
        yield way
    else:
        yield way


def replaced(content, way, value):
    if not way:
        return value
    copied = content.copy()
    copied[way[0]] = replaced(content[way[0]], way[1:], value)
    return copied


@pytest.mark.parametrize("name", DOORS)
def test_cells_with_values_of_another_type_are_refused(here, name):
    path, read, content = DOORS[name]
    outputs.write_json(path(), content)
    assert read() == content
    for way in leaves(content):
        if way[-1:] == ("cross_entropy",) and name != "student":
            continue
        for value in ({"a": "b"}, [], None, "x" if not isinstance(at(content, way), str) else 3):
            if value is None and way[-1:] == ("late_fall",):  # of a single epoch
                continue
            path().write_text(json.dumps(replaced(content, way, value)))
            refused(f"{path().name} is damaged .*: run `dvc repro`", read)


@pytest.mark.parametrize("accuracies", [[49.0, 50.0, 52.0], [49.0, 51.0]])
def test_a_cell_whose_mean_is_not_of_its_accuracies_is_refused(here, accuracies):
    path, read, content = DOORS["merge"]
    outputs.write_json(path(), content | {"accuracies": accuracies})
    refused("merge.json is damaged .the mean of 3 is 50.0, but of its accuracies", read)


def at(content, way):
    for key in way:
        content = content[key]
    return content


def test_a_cell_of_the_networks_table_without_a_share_is_refused(here):
    path, read, content = DOORS["networks"]
    outputs.write_json(path(), content | {"rows": content["rows"][:-1]})
    refused("norm-1.json is damaged .it has no row that keeps 0.3", read)
    outputs.write_json(path(), content | {"rows": content["rows"][1:]})
    refused("norm-1.json is damaged .it has no row that keeps 1.: run", read)
    outputs.write_json(path(), content | {"rows": [*content["rows"], content["rows"][-1]]})
    refused("norm-1.json is damaged .it has two rows that keep 0.3", read)
    outputs.write_json(path(), content | {"rows": [row | {"seed": 7} for row in content["rows"]]})
    refused("norm-1.json is damaged .it has rows of seed 7", read)
    for name, value in (("accuracy", 101.0), ("keep", 0.0), ("multiply_adds", 0), ("seed", 1.5)):
        rows = [row | {name: value} for row in content["rows"]]
        outputs.write_json(path(), content | {"rows": rows})
        refused(f"is damaged .rows.0.{name}: got {value}; ", read)


@pytest.mark.parametrize("depth", [14, 8])
def test_another_network_in_the_place_of_the_networks_tables_is_refused(here, depth):
    """Of another depth, or of fewer channels throughout, as one that was made smaller may have."""
    chosen = networks.load(here / networks.TABLE / "params.yaml")
    chosen = chosen.model_copy(update={"scale": "digits", "networks": ["resnet8"]})
    path = chosen.data / "resnet8.safetensors"
    files.save(ResNet(depth, (4, 16, 32), colours=1), path)
    refused(f"{path} does not .*: run `dvc repro`", chosen.trained, "resnet8")
    own = chosen.active.networks["resnet8"].fresh()
    files.save(own, path)
    assert torch.equal(chosen.trained("resnet8").conv1.weight, own.conv1.weight)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (colour_images(4), "holds unlabelled images 4 x 3 x 32 x 32, not 1,000 of cifar10"),
        (
            ImageSet(torch.zeros(1000, 28, 28, dtype=torch.uint8), torch.zeros(1000).long()),
            "holds unlabelled images 1000 x 28 x 28, not 1,000 of cifar10",
        ),
    ],
)
def test_other_images_than_the_networks_tables_parameters_say_are_refused(here, images, message):
    chosen = networks.load()
    seed = chosen.seeds[0]
    write_sets(chosen.unlabelled(seed), {"unlabelled": images})
    refused(f"unlabelled-{seed}.safetensors {message}: run `dvc repro`", chosen.shown, seed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": [0.501, 0.499]}, r"keep: got \[0.501, 0.499\]; each must be another percent"),
        ({"networks": {"a-b": 1}}, "scales.cifar10.networks: got the name 'a-b'; .*pattern"),
        ({"networks": {"images": 1}}, "networks: got 'images', the name of another"),
        ({"colours": True}, "networks.resnet20: for images of cifar10 it has no training.widths"),
        ({"unlabelled": 20}, "unlabelled is 20, but a method that trains on them takes 64"),
    ],
)
def test_parameters_of_an_impossible_networks_table_are_refused(here, change, message):
    path = here / networks.TABLE / "params.yaml"
    tree = yaml.safe_load(path.read_text()) | {"scale": "cifar10"}
    scale = tree["scales"]["cifar10"]
    if "keep" in change:
        tree |= change
    elif "unlabelled" in change:
        tree["methods"] = ["labelled"]
        scale |= change
    elif "networks" in change:
        scale["networks"] = {name: scale["networks"]["resnet20"] for name in change["networks"]}
    else:
        scale["networks"]["resnet20"]["training"] = {"widths": [4, 4, 4], "epochs": 1, "lr": 0.1}
    path.write_text(yaml.safe_dump(tree))
    refused(f"params.yaml: .*{message}", networks.load)


@pytest.mark.parametrize("name", ["..", "../train", "a/b", ""])
def test_a_store_whose_name_leads_elsewhere_is_refused(here, name):
    """It would replace other networks."""
    path = here / "tables/curve/params.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({"networks": [4], "stores": {name: {}}}))
    refused("curve/params.yaml: stores.*pattern", stores, "curve")
    refused("curve/params.yaml: stores.*pattern", settings_of, "curve", Curve)


@pytest.mark.parametrize("value", ["x", [], {"mean": "x"}, None])
@pytest.mark.parametrize(
    ("name", "key"), [("table1", "adam"), ("curve", "2_networks"), ("widths", "6_to_2")]
)
def test_tables_with_values_of_another_type_are_not_drawn(here, monkeypatch, name, key, value):
    folder = output.TABLES / "quick"
    shutil.copytree(ROOT / folder, folder)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    monkeypatch.setattr(redraw, "DRAWN", {name: redraw.DRAWN[name]})
    refused(f"{name}.json is damaged", redraw.main, TINY, Compute(), "quick")


PARAMS = usual_params()


def test_accuracies_beyond_all_percent_are_refused(here):
    path = here / "accuracies.csv"
    path.write_text("network,translation\n0,50.0\n1,100.1\n")
    refused("translation is not percent, from 0 to 100", figure7.column, here, "translation")


def test_pages_that_are_no_text_are_refused(here):
    folder = output.TABLES / "quick"
    shutil.copytree(ROOT / folder, folder)
    (folder / "ablation.md").write_bytes(b"\xff")
    refused("ablation.md is damaged .*utf-8", page.section, folder, "ablation")
    (folder / "ablation.md").write_text("\n")
    refused("ablation.md is damaged .it is empty", page.section, folder, "ablation")
    (folder / "ablation.md").unlink()
    refused("ablation.md is missing", page.section, folder, "ablation")
    page.NOTES.mkdir(parents=True)
    (page.NOTES / "ablation.md").write_bytes(b"\xff")
    refused("notes/ablation.md is damaged .*utf-8", page.note, "ablation")


@pytest.mark.parametrize(
    ("table", "change", "cell_of", "message"),
    [
        ("ablation", {"mixers": {"mixer": {"store": "nowhere"}}}, ("mixer",), "none of train, abl"),
        (
            "ablation",
            {"mixers": {"mixer": {"change": {"model": {"layer": 3}}}}},
            ("mixer",),
            "ablation/mixer: model.layer: unknown key",
        ),
        ("table5", {"share": 1000}, ("masking", "0.02"), "share: got 1000; accepts up to the 128"),
        (
            "figure4",
            {"compared": {"mixer": {"channel_dim": 10**9}}},
            ("mixer",),
            "compared.mixer.channel_dim: got 1000000000",
        ),
        ("table3", {"epochs": 3}, ("small", "0"), "epochs: got 3; input should be a valid dict"),
    ],
)
def test_what_no_cell_can_be_made_of_is_named_with_its_file(here, table, change, cell_of, message):
    for name in ("table3", table):
        shutil.copytree(ROOT / "tables" / name, here / "tables" / name, dirs_exist_ok=True)
    path = here / "tables" / table / "params.yaml"
    path.write_text(yaml.safe_dump(merged(yaml.safe_load(path.read_text()), change)))
    make = figure4.make if table == "figure4" else trained.make
    refused(f"tables/{table}/params.yaml: .*{message}", make, PARAMS, Compute(), table, *cell_of)


def test_more_or_fewer_accuracies_than_networks_are_refused(here):
    path = report.RESULTS / "train" / "accuracies.csv"
    path.parent.mkdir(parents=True)
    path.write_text("network,translation\n0,50.0\n1,60.0\n")
    name = "train/accuracies.csv"
    refused(f"{path} is damaged .it has 2 networks", report.column, PARAMS, name, "translation")

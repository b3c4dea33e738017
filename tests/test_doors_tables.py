"""What the tables' stages read is checked: images, cells and metrics."""

import shutil

import pytest
import torch
import yaml

from kt.ensemble import Compute
from kt.images.files import write_sets
from kt.real import files
from kt.run.errors import KTError
from stages.factor_transfer import learning
from stages.factor_transfer import settings as factor_transfer
from stages.networks import cell as measurement
from stages.networks import ceiling, tune
from stages.networks import settings as networks
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
    path.write_text(
        yaml.safe_dump(yaml.safe_load(path.read_text()) | {"scale": "cifar10", "seeds": [1]})
    )
    chosen, given = networks.load(), colour_images(4)
    network = chosen.tuned[0]
    files.save(chosen.active.networks[network].fresh(), chosen.data / f"{network}.safetensors")
    write_sets(chosen.data / "images.safetensors", {"labelled": given, "test": colour_images(4)})
    write_sets(chosen.unlabelled(1), {"unlabelled": given})
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

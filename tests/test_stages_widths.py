"""The whole pipeline with networks of other sizes, and with colour images."""

from kt.images.files import read_set
from kt.run.files import load_tensors
from tests.colours import with_colours
from tests.test_stages import STAGES


def test_other_sizes_go_through_to_the_report(project):
    project.params["network"] = {
        "channels": 4, "hidden": 1, "kernel": 5, "image_channels": 3, "image_size": 13
    }  # fmt: skip
    project.write_params()
    project.succeed(*STAGES, KT_ENGINE="torch")
    small = load_tensors(project.folder / "data/pairs/test/00000.safetensors")
    assert small["small.conv1.weight"].shape == (3, 1, 4, 5, 5)
    assert small["former.conv.weight"].shape == (3, 4, 3, 5, 5)
    report = (project.folder / "results/report.md").read_text()
    assert "four channels" in report and "4 channels, small blocks of 1 hidden" in report
    project.params["model"]["kind"] = "mixer"
    project.write_params()
    project.succeed("train_translator", "eval_transfer_usps", KT_ENGINE="torch")


def test_cifar_goes_through_to_the_report(project):
    root = with_colours(project, train=8, test=2)
    project.params["network"] |= {
        "channels": 3, "hidden": 2, "image_channels": 3, "image_size": 32
    }  # fmt: skip
    images = {"main": "cifar10", "transfer": "cifar10", "held_back": 20}
    project.params["scales"]["tiny"]["images"] = images
    project.write_params()
    project.succeed(*STAGES, KT_ENGINE="torch", KT_DATA_ROOT=str(root))
    test = read_set(project.folder / "data/images/main.safetensors", "test")
    assert test.images.shape == (20, 3, 32, 32)
    small = load_tensors(project.folder / "data/pairs/test/00000.safetensors")
    assert small["small.conv1.weight"].shape == (3, 2, 3, 3, 3)
    assert small["former.conv.weight"].shape == (3, 3, 3, 3, 3)
    assert "cifar10" in (project.folder / "results/report.md").read_text()

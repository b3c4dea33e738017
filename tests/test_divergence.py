"""Checkpoints, and training that diverges."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import kt
from kt import ensemble
from kt.ensemble import Recipe
from kt.images import ImageSet
from kt.pairs import generate
from kt.pairs.generate import Plan
from kt.pairs.store import write_store
from kt.rivals import classifier
from kt.run import checkpoint
from kt.run.errors import NotFiniteError
from kt.run.finite import finite_networks
from kt.translators.fit import Training, fit
from kt.translators.objectives import WeightObjective

# --- checkpoints ----------------------------------------------------------------------------------


def linear(seed):
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def damage(path, how):
    whole = path.read_bytes()
    if how == "other":
        torch.save({"epoch": 3}, path)
    elif how == "not finite":
        bad = linear(0)
        nn.init.constant_(bad.weight, torch.nan)
        checkpoint.save(path, {"m": bad}, epoch=9)
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes({"cut": whole[:middle], "flip": flipped, "empty": b""}[how])


@pytest.mark.parametrize("how", ["cut", "flip", "empty", "other", "not finite"])
def test_behind_a_damaged_checkpoint_stands_the_one_before(how, tmp_path, caplog):
    path = tmp_path / "c.pt"
    first, second = linear(1), linear(2)
    checkpoint.save(path, {"m": first}, epoch=1)
    if how != "not finite":
        checkpoint.save(path, {"m": second}, epoch=2)
    damage(path, how)
    module = linear(3)
    kept = checkpoint.restore(checkpoint.load(path), {"m": module}, {"epoch": 0})
    assert kept == {"epoch": 1} and torch.equal(module.weight, first.weight)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("notice: ") and "c.damaged" in line and "\n" not in line
    assert (tmp_path / "c.damaged").exists() and not path.exists()
    damage(checkpoint.before(path), "cut")
    assert checkpoint.load(path) is None
    assert checkpoint.restore(None, {"m": module}, {"epoch": 0}) == {"epoch": 0}


@pytest.mark.parametrize("parts", [{"m": nn.Linear(5, 2)}, {"other": linear(0)}])
def test_another_works_checkpoint_changes_nothing(parts, tmp_path, caplog):
    checkpoint.save(tmp_path / "c", parts, epoch=1)
    module, optimizer = linear(3), linear(4)
    before = module.weight.clone()
    state = checkpoint.load(tmp_path / "c")
    kept = checkpoint.restore(state, {"m": module, "optimizer": optimizer}, {"epoch": 0})
    assert kept == {"epoch": 0} and torch.equal(module.weight, before)
    assert "something else" in caplog.text


# --- divergence -----------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2, bias=False)

    def forward(self, large):
        return {"small": self.layer(large["large"])}


@pytest.mark.parametrize(
    "change", [{"lr": 1e30}, {"lr": 1e300}, {"weight_decay": 1e308}, {"lr": 1e30, "epochs": 1}]
)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_translators_divergence_is_an_error_and_keeps_what_was_good(change, optimizer, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(8, 3)
    objective = WeightObjective({"large": x}, {"small": torch.randn(8, 2)})
    training = Training(epochs=2, batch_size=4, optimizer=optimizer)

    def evaluate(model):
        return {"score": 0.0}

    fit(Small(), objective, training, evaluate, "score", tmp_path / "c")
    good = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(good)
    diverging = replace(training, **{"epochs": 4, **change})
    if diverging.epochs == 1:
        (tmp_path / "c").unlink()
        checkpoint.before(tmp_path / "c").unlink(missing_ok=True)
    with pytest.raises(NotFiniteError, match="lower the learning rate, the noise or the weight"):
        fit(Small(), objective, diverging, evaluate, "score", tmp_path / "c")
    assert diverging.epochs == 1 or (tmp_path / "c").read_bytes() == good


def shown():
    torch.manual_seed(0)
    images = torch.randint(256, (32, 28, 28)).to(torch.uint8)
    return ImageSet(images, torch.arange(32) % 10)


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_networks_that_diverge_are_an_error_and_no_part_is_kept(engine, tmp_path):
    recipe = Recipe(epochs=2, batch_size=8, lr=1e30)
    plan = Plan("train", 4, 2, "conv", recipe, seed=1)
    with pytest.raises(NotFiniteError, match=r"networks diverged: [12] of 2 are not finite: lower"):
        list(generate.run(plan, shown(), tmp_path, ensemble.Compute(engine=engine)))
    assert not list(tmp_path.iterdir())
    with pytest.raises(NotFiniteError, match="1 of 1"):
        kt.train_network(shown(), 1, recipe)


def test_a_dead_network_is_no_divergence():
    dead = {"w": torch.zeros(3, 4), "v": torch.ones(3, 2)}
    assert finite_networks(dead) is dead
    dead["v"][1, 0] = torch.inf
    with pytest.raises(NotFiniteError, match="1 of 3"):
        finite_networks(dead)


def test_a_classifiers_divergence_is_an_error(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    data = ImageSet(torch.zeros(4, 3, 32, 32).to(torch.uint8), torch.arange(4))
    training = classifier.Training(3, 4, 1e30, 0.0, 0.9, 0.0, "float32", 0)

    def losses(images, labels):
        return {"loss": model(images).square().mean()}

    with pytest.raises(NotFiniteError, match="diverged in epoch"):
        classifier.train(model, losses, data, training, tmp_path / "c")


def test_a_store_of_weights_that_are_not_finite_is_not_written(tmp_path):
    parts = [{"large.w": torch.ones(2, 3)}, {"large.w": torch.full((1, 3), torch.inf)}]
    with pytest.raises(NotFiniteError, match=r"pairs.*large\.w"):
        write_store(tmp_path / "pairs", parts, 3, {})
    assert not list(tmp_path.iterdir())

"""Training in two processes: the losses of one, whoever goes on from whose checkpoint."""

import json

import pandas as pd
import pytest
import torch

from kt.run import distributed
from tests.test_resume import checkpoints, train_long, wait_for

TWO = "--standalone --nproc-per-node 2"
DRIFT = 0.01
"""Of losses after some steps: what a gate counts (`tests.rounding`) among those of a batch."""


def losses(project):
    path = project.folder / "results/train/plots/metrics/loss.tsv"
    return pd.read_csv(path, sep="\t")["loss"].tolist()


@pytest.fixture(params=["merge", "mixer"])
def kind(request, prepared):
    prepared.params["model"]["kind"] = request.param
    prepared.write_params()
    return request.param


def test_two_processes_learn_what_one_learns(prepared, kind):
    prepared.succeed("train_translator")
    alone = losses(prepared)
    metrics = json.loads((prepared.folder / "results/train/metrics.json").read_text())
    code, errors = prepared.run("train_translator", KT_TORCHRUN=TWO)
    assert code == 0, errors
    assert len(alone) > 1
    assert losses(prepared) == pytest.approx(alone, rel=DRIFT)
    again = json.loads((prepared.folder / "results/train/metrics.json").read_text())
    assert again["translation"] == pytest.approx(metrics["translation"], abs=2)


@pytest.mark.parametrize(("first", "then"), [(TWO, ""), ("", TWO)], ids=["2 to 1", "1 to 2"])
def test_another_number_of_processes_goes_on_from_a_checkpoint(prepared, first, then):
    train_long(prepared)
    prepared.succeed("train_translator")
    alone = losses(prepared)
    process = prepared.start("train_translator", KT_TORCHRUN=first)
    wait_for(lambda: checkpoints(prepared), process)
    process.terminate()
    process.communicate()
    assert checkpoints(prepared)
    code, errors = prepared.run("train_translator", KT_TORCHRUN=then)
    assert code == 0, errors
    assert not checkpoints(prepared)  # that one was taken up, and there is no other
    assert losses(prepared) == pytest.approx(alone, rel=DRIFT)


def test_in_one_process_nothing_is_shared_or_changed():
    index = torch.arange(5)
    own, weight = distributed.share(index)
    assert torch.equal(own, index) and weight == 1
    model = torch.nn.Linear(2, 1)
    model(torch.ones(3, 2)).sum().backward()
    before = model.weight.grad.clone()
    assert distributed.average(torch.tensor(2.0), model, 1.0) == 2
    assert torch.equal(model.weight.grad, before)
    assert distributed.from_first(lambda: 3) == 3

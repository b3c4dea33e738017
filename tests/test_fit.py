import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from kt.networks.blocks import initial_weights
from kt.pairs.store import Pairs, write_store
from kt.translators.fit import Training, fit, late_fall
from kt.translators.mixer import Mixer, MixerConfig
from kt.translators.objectives import WeightObjective
from tests.rounding import assert_near, bound

TRAINING = Training(epochs=6, batch_size=4, evaluate_every=2, seed=3)
ROUNDINGS = 6 * 2 * (3 + 10)
"""Terms added up in all: of three inputs and ten samples, forward and back, in six steps."""


class Linear(nn.Module):
    """A translator small enough to be followed by hand."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, large):
        return {"small": self.layer(self.dropout(large["large"]))}


def model(dropout: float = 0.0) -> Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Linear(dropout)


@pytest.fixture
def data():
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(10, 3, generator=draw)
    return {"large": x}, {"small": x @ torch.randn(3, 2, generator=draw)}


def run(network, data, training, path, evaluate=lambda _: {"score": 0.0}, on_epoch=None, **changes):
    options = {} if on_epoch is None else {"on_epoch": on_epoch}
    objective = WeightObjective(*data, **changes)
    return fit(network, objective, training, evaluate, "score", path, **options)


@pytest.mark.parametrize(
    ("optimizer", "reference"),
    [
        ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, 0.001)),
        ({"optimizer": "sgd"}, lambda p: torch.optim.SGD(p, 0.001, 0.9)),
        (
            {"optimizer": "adam", "weight_decay": 0.1},
            lambda p: torch.optim.AdamW(p, 0.001, weight_decay=0.1),
        ),
    ],
)
@pytest.mark.parametrize("piece", [32, 10, 4])
def test_full_batches_are_the_plain_loop_with_cosine_annealing(
    optimizer, reference, piece, data, tmp_path, monkeypatch
):
    monkeypatch.setattr("kt.translators.objectives.PIECE", piece)
    training = replace(TRAINING, batch_size=10, **optimizer)
    ours, plain = model(), model()
    fitted = run(ours, data, training, tmp_path / "c")
    optimizer = reference(plain.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.epochs)
    losses = []
    for _ in range(training.epochs):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(plain(data[0])["small"], data[1]["small"])
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert_near(ours.layer.weight, plain.layer.weight, ROUNDINGS)
    assert [record["loss"] for record in fitted.history] == pytest.approx(
        losses, rel=bound(ROUNDINGS, 1)
    )


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_workers_change_no_bit_of_a_mixer(dropout, tmp_path):
    config = MixerConfig(layers=2, hidden_size=16, sequence_dim=16, channel_dim=32, dropout=dropout)
    large = initial_weights("large", range(100))
    small = initial_weights("conv", range(100))
    training = Training(epochs=2, batch_size=90)
    weights, threads = [], torch.get_num_threads()
    for workers in (1, 2, 5):
        torch.manual_seed(0)
        mixer = Mixer(config)
        path = tmp_path / f"{workers}"
        run(mixer, (large, small), training, path, noise=0.1, workers=workers)
        weights.append(torch.cat([p.detach().flatten() for p in mixer.parameters()]))
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])
    assert torch.get_num_threads() == threads


def test_pairs_may_stay_in_a_store(data, tmp_path):
    (large, small), whole = data, model()
    run(whole, data, TRAINING, tmp_path / "memory")
    parts = [{"large.large": large["large"], "small.small": small["small"]}]
    write_store(tmp_path / "pairs", parts, 10, {}, shard_size=4)
    rows = Pairs(tmp_path / "pairs").mapped()
    mapped = model()
    stored = {"large": rows["large.large"]}, {"small": rows["small.small"]}
    run(mapped, stored, TRAINING, tmp_path / "mapped")
    assert torch.equal(mapped.layer.weight, whole.layer.weight)


def test_clipping_bounds_the_step(data, tmp_path):
    training = replace(TRAINING, epochs=1, batch_size=10, optimizer="sgd", lr=1.0, clip_norm=0.01)
    ours, before = model(), model()
    run(ours, data, training, tmp_path / "c")
    assert (ours.layer.weight - before.layer.weight).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_schedules():
    linear = replace(TRAINING, schedule="linear", epochs=4, lr=1.0)
    assert [linear.learning_rate(e) for e in range(4)] == [1, 0.75, 0.5, 0.25]
    warm = replace(TRAINING, schedule="constant", warmup_epochs=3, lr=1.0)
    assert [warm.learning_rate(e) for e in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    both = replace(TRAINING, schedule="cosine", warmup_epochs=1, epochs=3, lr=1.0)
    assert both.learning_rate(2) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_an_interrupted_run_ends_in_the_very_same_weights(
    stop_after, dropout, data, tmp_path, monkeypatch
):
    monkeypatch.setattr("kt.translators.fit.CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr("kt.translators.objectives.PIECE", 1)
    monkeypatch.setattr("kt.translators.objectives.LARGE_PIECE", 3)
    augmented = {"noise": 0.1, "masking": 0.1}
    whole = run(model(dropout), data, TRAINING, tmp_path / "whole", fingerprint, **augmented)

    class Killed(Exception):
        pass

    def kill(record):
        if record["epoch"] == stop_after:
            raise Killed

    with pytest.raises(Killed):
        run(model(dropout), data, TRAINING, tmp_path / "cut", fingerprint, kill, **augmented)
    seen = []
    augmented["workers"] = 3
    resumed = run(
        model(dropout), data, TRAINING, tmp_path / "cut", fingerprint, seen.append, **augmented
    )
    assert [record["epoch"] for record in seen] == [1, 2, 3, 4, 5, 6]
    assert [r["loss"] for r in resumed.history] == [r["loss"] for r in whole.history]
    assert resumed.best["epoch"] == whole.best["epoch"]
    assert torch.equal(resumed.weights["layer.weight"], whole.weights["layer.weight"])


def fingerprint(network):
    return {"score": network.layer.weight.sum().item()}


def test_a_damaged_checkpoint_counts_as_none(data, tmp_path):
    whole = run(model(), data, TRAINING, tmp_path / "c")
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:100])
    again = run(model(), data, TRAINING, tmp_path / "c")
    assert torch.equal(whole.weights["layer.weight"], again.weights["layer.weight"])


def test_the_best_epoch_is_chosen_by_its_key_and_its_weights_are_kept(data, tmp_path):
    scores = iter([(1.0, 9.0), (5.0, 2.0), (5.0, 3.0)])
    weights = []

    def evaluate(network):
        assert not network.training
        weights.append(network.layer.weight.detach().clone())
        score, other = next(scores)
        return {"score": score, "test": other}

    fitted = run(model(), data, TRAINING, tmp_path / "c", evaluate)
    assert fitted.best["epoch"] == 4 and fitted.best["test"] == 2.0  # the earliest of equals
    assert torch.equal(fitted.weights["layer.weight"], weights[1])


def test_bfloat16_computes_in_it_and_keeps_float32_weights(data, tmp_path):
    seen = []
    network = model()
    network.layer.register_forward_hook(lambda *hook: seen.append(hook[2].dtype))
    run(network, data, TRAINING, tmp_path / "c", precision="bfloat16")
    assert set(seen) == {torch.bfloat16} and network.layer.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("losses", "fall"),
    [
        ([4.0], None),
        ([4.0, 3.0], 25.0),
        ([9.0, 4.0, 3.0], 25.0),
        ([1.0] * 16 + [4.0, 6.0, 3.0, 1.0], 60.0),
        ([1.0] * 18 + [1.0, 1.5], -25.0),
        ([0.0, 0.0], 0.0),
    ],
)
def test_a_late_fall_compares_the_last_tenth_of_the_epochs_with_the_tenth_before(losses, fall):
    found = late_fall(losses)
    assert found is None if fall is None else abs(found - fall) < 1e-9

import copy
from pathlib import Path

import pytest
import yaml

from kt.errors import KTError
from stages import params

RAW = yaml.safe_load(Path("params.yaml").read_text())


def load(tmp_path, raw):
    path = tmp_path / "params.yaml"
    path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw))
    return params.load(path)


@pytest.mark.parametrize("scale", ["quick", "mnist", "paper"])
def test_every_scale_is_valid(tmp_path, scale):
    assert load(tmp_path, RAW | {"scale": scale}).active.networks.train > 0


def test_the_paper_scale_is_the_papers_protocol():
    paper = params.Params.model_validate(RAW | {"scale": "paper"}).active
    assert (paper.networks.train, paper.networks.test) == (300_000, 100)
    assert paper.recipe.model_dump() == {"epochs": 10, "batch_size": 128, "lr": 0.01}
    assert paper.train.pairs == 300_000
    assert paper.train.mixer.model_dump() == {
        "epochs": 1000, "batch_size": 4096, "evaluate_every": 25
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.dropout", 1.3, "train.dropout: got 1.3; input should be less than 1"),
        ("train.mixer.lr", "1e-4", "train.mixer.lr: got '1e-4'.*write 0.0001"),
        ("train.mixer.lr", 0, "train.mixer.lr: got 0; input should be greater than 0"),
        ("train.merge.lr", float("inf"), "train.merge.lr: got inf"),
        ("train.schedule", "step", "train.schedule.*'cosine', 'linear' or 'constant'"),
        ("train.merge.lrr", 1, "train.merge.lrr: unknown key; did you mean lr?"),
        ("surprise", 1, "surprise: unknown key; known here: augment, "),
        ("model.layers", 2.5, "model.layers: got 2.5; input should be a valid integer"),
        ("model.layers", True, "model.layers: got True"),
        ("target", "large", "target: got 'large'.*'conv', 'conv_bias', 'mlp' or 'attention'"),
        ("generate.flip", 1, "generate.flip: got 1; input should be a valid boolean"),
        ("generate.small_init", "same", "generate.small_init: got 'same'.*'fresh' or 'shared'"),
        ("generate.checkpoints", [3, 3], "generate.checkpoints: got .3, 3.; each must be greater"),
        ("generate.checkpoints", [0], "generate.checkpoints.0: got 0; input should be greater"),
        ("generate.checkpoints", [3, 10], "generate.checkpoints is \\[3, 10\\], but.*epochs 10"),
        ("augment.measure", [], "augment.measure: got \\[\\]"),
        ("partial.fractions", [0.5, 2], "partial.fractions.1: got 2"),
        ("scale", "huge", "scale is 'huge', which is none of"),
        ("scales.quick.repeats", 0, "scales.quick.repeats: got 0; input should be greater"),
        ("generate.small_init", "same", "generate.small_init: got 'same'.*'fresh' or 'shared'"),
        (
            "train.mixer.loss.align",
            1,
            "train.mixer.loss.align: got 1; input should be a valid boolean",
        ),
        (
            "train.mixer.loss.feature",
            1,
            "loss.feature: unknown key; did you mean features?",
        ),
        ("train.mixer.loss.weights", -1, "train.mixer.loss.weights: got -1"),
        (
            "train.mixer.loss.weights",
            0.0,
            "loss: none of weights, behaviour, cross_entropy and",
        ),
        (
            "train.mixer.loss.difference",
            True,
            "loss.difference is true.*small_init shared",
        ),
        ("scales.quick.train.pairs", 10**6, "train.pairs is 1000000, but networks.train only"),
        ("scales.quick.recipe.epoch", 2, "scales.quick.recipe.epoch: unknown.*mean epochs?"),
    ],
)
def test_a_bad_value_is_named_in_one_line(tmp_path, key, value, message):
    with pytest.raises(KTError, match=message) as caught:
        load(tmp_path, changed({key: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"augment.copies": 1, "train.mixer.loss.behaviour": 1.0},
            "augment.copies is 1, but what networks do with augmented copies is unknown",
        ),
        (
            {"target": "mlp", "model.kind": "mixer", "train.mixer.symmetry": True},
            "train.mixer.symmetry is true, but target is 'mlp': it accepts conv, conv_bias",
        ),
        (
            {"target": "attention", "model.kind": "mixer", "train.mixer.loss.align": True},
            "train.mixer.loss.align is true, but target is 'attention'",
        ),
        (
            {
                "train.mixer.loss.weights": 0.0,
                "train.mixer.loss.features": 1.0,
                "train.mixer.loss.ramp_epochs": 3,
            },
            "train.mixer.loss: weights is 0, so nothing counts before ramp_epochs 3",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(tmp_path, values, message):
    with pytest.raises(KTError, match=message) as caught:
        load(tmp_path, changed(values))
    assert "\n" not in str(caught.value)


def test_a_difference_goes_with_shared_initial_weights(tmp_path):
    values = {"train.mixer.loss.difference": True, "generate.small_init": "shared"}
    assert load(tmp_path, changed(values)).train.mixer.loss.difference


def changed(values):
    """The parameters with other values, {"section.key": value}."""
    raw = copy.deepcopy(RAW)
    for key, value in values.items():
        *sections, last = key.split(".")
        place = raw
        for section in sections:
            place = place[section]
        place[last] = value
    return raw


def test_checkpoints_are_further_pairs_and_the_mixer_needs_small_blocks(tmp_path):
    raw = copy.deepcopy(RAW)
    raw["generate"] |= {"checkpoints": [3, 9], "small_blocks": False}
    raw["scales"]["quick"]["train"]["pairs"] = 3 * 128
    assert load(tmp_path, raw).generate.checkpoints == [3, 9]
    raw["scales"]["quick"]["train"]["pairs"] += 1
    with pytest.raises(KTError, match=r"pairs is 385, but networks[.]train only 128, each with 2"):
        load(tmp_path, raw)
    raw["scales"]["quick"]["train"]["pairs"] = 128
    raw["model"]["kind"] = "mixer"
    with pytest.raises(KTError, match=r"small_blocks is false, but model[.]kind mixer learns"):
        load(tmp_path, raw)


def test_a_missing_key_a_missing_file_and_broken_yaml(tmp_path):
    raw = copy.deepcopy(RAW)
    del raw["train"]["merge"]["lr"]
    with pytest.raises(KTError, match=r"train\.merge\.lr: missing"):
        load(tmp_path, raw)
    with pytest.raises(KTError, match="not valid YAML"):
        load(tmp_path, "train: [1, 2\nmodel: {")
    with pytest.raises(KTError, match="missing: run from the repository's root"):
        params.load(tmp_path / "elsewhere" / "params.yaml")

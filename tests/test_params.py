import copy
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from kt.run.errors import KTError
from stages.common import kinds
from stages.common.base import params
from stages.common.base.checks import read_yaml
from stages.tables.cells.settings import Cells
from tests.tiny_params import usual

ROOT = Path(__file__).resolve().parent.parent

RAW = usual(ROOT)


def load(tmp_path, raw):
    path = tmp_path / "params.yaml"
    path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw, sort_keys=False))
    return params.load(path)


@pytest.mark.parametrize("scale", RAW["scales"])
@pytest.mark.parametrize("kind", RAW["translators"])
def test_every_scale_is_valid_for_every_kind_of_translator(tmp_path, scale, kind):
    model = RAW["model"] | {"kind": kind}
    loaded = load(tmp_path, RAW | {"scale": scale, "model": model})
    assert loaded.active.networks.train > 0 and loaded.schedule.evaluate_every > 0
    assert kinds.configuration(loaded).layers == 8 and kinds.learning(loaded).lr > 0


def test_a_mixer_is_trained_at_scale_study():
    loaded = params.Params.model_validate(
        RAW | {"scale": "study", "model": RAW["model"] | {"kind": "mixer"}}
    )
    assert loaded.updates == 10_240
    assert loaded.active.networks.train == loaded.active.pairs + 64


def test_the_paper_scale_is_the_papers_protocol():
    loaded = params.Params.model_validate(RAW | {"scale": "paper"})
    paper = loaded.active
    assert (paper.networks.train, paper.networks.test) == (300_000, 100)
    assert paper.recipe.model_dump() == {"epochs": 10, "batch_size": 128, "lr": 0.01}
    assert paper.pairs == 300_000
    assert loaded.translators["mixer"].schedule["paper"].model_dump() == {
        "epochs": 1000, "batch_size": 4096, "evaluate_every": 25
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.dropout", 1.3, "train.dropout: got 1.3; input should be less than 1"),
        ("train.schedule", "step", "train.schedule.*'cosine', 'linear' or 'constant'"),
        ("surprise", 1, "surprise: unknown key; known here: augment, "),
        ("model.layers", 2.5, "model.layers: got 2.5; input should be a valid integer"),
        ("model.layers", True, "model.layers: got True"),
        ("target", "large", "target: got 'large'.*'conv', 'conv_bias', 'attention' or 'mlp'"),
        ("generate.flip", 1, "generate.flip: got 1; input should be a valid boolean"),
        ("generate.small_init", "same", "generate.small_init: got 'same'.*'fresh' or 'shared'"),
        ("generate.checkpoints", [3, 3], "generate.checkpoints: got .3, 3.; each must be greater"),
        ("generate.checkpoints", [0], "generate.checkpoints.0: got 0; input should be greater"),
        ("generate.checkpoints", [3, 10], "generate.checkpoints is \\[3, 10\\], but.*epochs 10"),
        ("augment.measure", [], "augment.measure: got \\[\\]"),
        ("augment.measure", [0.0, 0.1, -0.0], "augment.measure: got .*each must be another"),
        ("network.kernel", True, "network.kernel: got True; input should be a valid integer"),
        ("network.kernel", 3.0, "network.kernel: got 3.0; input should be a valid integer"),
        ("network.kernel", 2, "network.kernel: got 2; accepts 1, 3, 5, 7"),
        ("network.image_channels", 1.0, "image_channels: got 1.0; input should be a valid integer"),
        ("network.image_channels", 2, "network.image_channels: got 2; accepts 1, 3"),
        ("partial.fractions", [0.5, 2], "partial.fractions.1: got 2"),
        ("partial.fractions", [0.5, 0.5], "partial.fractions: got .*; each must be another"),
        ("partial.fractions", [0.5, 0.50000001], r"got \[0.5, 0.50000001\]; each must.*digits"),
        ("scales", {"a/b": {}}, "scales: got the name 'a/b'; string should match pattern"),
        ("scales.quick.recipe.epochs", 10**30, "recipe.epochs: got 10*; input should be less"),
        ("scales.quick.recipe.lr", 1e30, "recipe.lr: got 1e.30; input should be less than"),
        ("train.weight_decay", 1e308, "train.weight_decay: got 1e.308; input should be less"),
        ("augment.noise", 1e308, "augment.noise: got 1e.308; input should be less than"),
        ("seed", 2**64, "seed: got 18446744073709551616; input should be less"),
        ("scale", "huge", "scale is 'huge', which is none of"),
        ("scales", {}, "scales: got {}; dictionary should have at least 1 item"),
        ("translators", {}, "translators: got {}; dictionary should have at least 1 item"),
        ("scales.quick.repeats", 0, "scales.quick.repeats: got 0; input should be greater"),
        ("generate.small_init", "same", "generate.small_init: got 'same'.*'fresh' or 'shared'"),
        (
            "model.kind",
            "blend",
            "model.kind is 'blend', which is none of translators: merge, mixer, attention",
        ),
        ("translators.merge.schedule.quick.epoch", 2, "schedule.quick.epoch: unknown.*epochs?"),
        ("translators.merge.schedule", {}, "translators.merge.schedule.quick: missing"),
        ("scales.quick.pairs", 10**6, "quick.pairs is 1000000, but networks.train only"),
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
        ({"mixer.train.lr": "fast"}, "translators.mixer.train.lr: got 'fast'; input should be a"),
        ({"mixer.train.lr": 1e30}, "translators.mixer.train.lr: got 1e.30; input should be less"),
        ({"mixer.model.channel_dim": 10**12}, "channel_dim: got 1000000000000; input should be"),
        ({"merge.model.prototypes": 10**12}, "prototypes: got 1000000000000; input should be less"),
        ({"mixer.train.lr": 0}, "mixer.train.lr: got 0; input should be greater than 0"),
        ({"merge.train.lr": float("inf")}, "translators.merge.train.lr: got inf"),
        ({"merge.train.lrr": 1}, "merge.train.lrr: unknown key; did you mean lr?"),
        ({"merge.model.prototypes": 0}, "merge.model.prototypes: got 0; input should be greater"),
        ({"merge.model.layers": 2}, "translators.merge.model.layers: unknown key"),
        ({"mixer.train.side": "left"}, "mixer.train.side: got 'left'.*'large', 'small' or 'both'"),
        ({"mixer.train.loss.align": 1}, "loss.align: got 1; input should be a valid boolean"),
        ({"mixer.train.loss.feature": 1}, "loss.feature: unknown key; did you mean features?"),
        ({"mixer.train.loss.weights": -1}, "mixer.train.loss.weights: got -1"),
        (
            {"mixer.train.loss.weights": 0.0},
            "train.loss: none of weights, behaviour, cross_entropy",
        ),
        (
            {
                "mixer.train.loss.weights": 0.0,
                "mixer.train.loss.features": 1.0,
                "mixer.train.loss.ramp_epochs": 3,
            },
            "train.loss: weights is 0, so nothing counts before ramp_epochs 3",
        ),
        (
            {"attention.model.heads": 5},
            "attention.model: 5 heads do not divide a hidden size of 32",
        ),
    ],
)
def test_a_bad_value_of_a_kind_of_translator_is_named_in_one_line(tmp_path, values, message):
    kind = next(iter(values)).split(".")[0]
    raw = changed({f"translators.{key}": value for key, value in values.items()})
    raw["model"]["kind"] = kind
    loaded = load(tmp_path, raw)
    with pytest.raises(KTError, match=message) as caught:
        kinds.configuration(loaded), kinds.learning(loaded)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model.layers": 0, "model.kind": "mixer"},
            "model.layers: got 0; input should be greater",
        ),
        ({"target": "mlp"}, "target is 'mlp', to which model.kind merge does not translate"),
        (
            {"model.kind": "mixer", "generate.small_blocks": False},
            "small_blocks is false, but model.kind mixer learns from small blocks",
        ),
    ],
)
def test_what_a_kind_cannot_do_is_refused_in_one_line(tmp_path, values, message):
    with pytest.raises(KTError, match=message) as caught:
        kinds.configuration(load(tmp_path, changed(values)))
    assert "\n" not in str(caught.value)


def test_no_two_parameters_share_a_yaml_anchor():
    """Under DVC's -S they would change together, or not at all."""
    files = [ROOT / "params.yaml", *ROOT.glob("tables/**/params.yaml")]
    assert len(files) > 10
    for file in files:
        for event in yaml.parse(file.read_text()):
            assert getattr(event, "anchor", None) is None, file


@pytest.mark.parametrize("scale", RAW["scales"])
@pytest.mark.parametrize("kind", RAW["translators"])
def test_what_dvc_sets_changes_what_it_names_and_nothing_else(kind, scale, tmp_path):
    """Two keys that share a YAML anchor change together, or not at all."""
    path = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", path)
    expected = read_yaml(path)
    expected["translators"][kind]["schedule"][scale]["epochs"] = 77
    apply_overrides(path, [f"translators.{kind}.schedule.{scale}.epochs=77"])
    assert read_yaml(path) == expected


def test_dvc_leaves_the_rest_of_the_file_as_it_is(tmp_path):
    path = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", path)
    text = path.read_text().replace("\nseed: 1 ", "\nseed: 7 ")
    apply_overrides(path, ["seed=7"])
    assert path.read_text() == text


def test_a_kind_without_a_class_is_refused_by_its_key(tmp_path):
    raw = usual(ROOT)
    raw["translators"]["mine"] = raw["translators"]["merge"]
    raw["model"]["kind"] = "mine"
    with pytest.raises(KTError, match=r"yaml: model\.kind: there is no translator 'mine'"):
        kinds.configuration(load(tmp_path, raw))


def test_what_a_kind_does_not_say_is_its_default(tmp_path):
    loaded = load(tmp_path, changed({"model.kind": "attention", "train.dropout": 0.25}))
    config, learning = kinds.configuration(loaded), kinds.learning(loaded)
    assert (config.layers, config.hidden_size, config.dropout) == (8, 32, 0.25)
    assert (config.heads, config.sequence_dim, config.target) == (4, 256, "conv")
    assert learning.loss.weights == 1 and not learning.loss.looks


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


def test_checkpoints_are_further_pairs(tmp_path):
    raw = copy.deepcopy(RAW)
    raw["generate"] |= {"checkpoints": [3, 9], "small_blocks": False}
    raw["scales"]["quick"]["pairs"] = 3 * 128
    assert load(tmp_path, raw).generate.checkpoints == [3, 9]
    raw["scales"]["quick"]["pairs"] += 1
    with pytest.raises(KTError, match=r"pairs is 385, but networks[.]train only 128, each with 2"):
        load(tmp_path, raw)


def test_a_missing_key_a_missing_file_and_broken_yaml(tmp_path):
    raw = copy.deepcopy(RAW)
    del raw["train"]["dropout"]
    with pytest.raises(KTError, match=r"train\.dropout: missing"):
        load(tmp_path, raw)
    with pytest.raises(KTError, match="not valid YAML"):
        load(tmp_path, "train: [1, 2\nmodel: {")
    with pytest.raises(KTError, match="missing: run from the repository's root"):
        params.load(tmp_path / "elsewhere" / "params.yaml")


def test_a_rate_that_cannot_be_is_told_by_its_own_key(tmp_path, monkeypatch):
    file = tmp_path / "tables" / "table3" / "params.yaml"
    file.parent.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    rates = "sizes: [small]\ndropout: [0, %s]\n"
    file.write_text(rates % "0.5")
    assert params.settings_of("table3", Cells).names() == ["small/0", "small/0.5"]
    for value in ("'0.1'", "true", "null", "1.5"):
        file.write_text(rates % value)
        with pytest.raises(KTError, match=r": dropout\.1: got .*; input should be (a va|less)"):
            params.settings_of("table3", Cells)

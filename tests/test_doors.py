"""What stages read is checked before any work; what they write is whole and finite."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from kt.ensemble import Compute
from kt.images import ImageSet
from kt.images.files import read_set, write_sets
from kt.networks.weights import take
from kt.pairs.store import MANIFEST, Pairs, write_store
from kt.run.errors import KTError
from kt.run.files import load_tensors, save_tensors
from kt.translators import METADATA, description, save_translator
from stages import (
    augment,
    eval_partial_data,
    eval_transfer_usps,
    evaluate_baselines,
    generate_partial,
    generate_transfer,
    generate_val,
    headline,
    report,
    train_translator,
)
from stages.common.base import inputs, outputs, params, room
from stages.common.base.generation import plan_of
from stages.common.base.inputs import IMAGES, PAIRS, RESULTS, TRANSLATOR
from stages.common.translation import make_model
from stages.tables import store
from stages.tables.cells import __main__ as cells

MAIN = IMAGES / "main.safetensors"


@pytest.fixture
def here(prepared, monkeypatch):
    """A project with images, pairs and augmented pairs: the working directory."""
    monkeypatch.chdir(prepared.folder)
    return prepared


def refused(stage, message):
    with pytest.raises(KTError, match=message) as caught:
        stage.main(params.load(), Compute())
    assert "\n" not in str(caught.value)


def flip_in(path: Path, tensor: str) -> None:
    """Change one bit of a tensor in a safetensors file."""
    data = bytearray(path.read_bytes())
    head = int.from_bytes(data[:8], "little")
    begin, _ = json.loads(data[8 : 8 + head])[tensor]["data_offsets"]
    data[8 + head + begin] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("part", ["former.conv.weight", "large.conv1.weight", "latter.fc.weight"])
def test_a_flipped_bit_anywhere_in_a_store_stops_every_stage_that_reads_it(here, part):
    flip_in(PAIRS / "train" / "00000.safetensors", part)
    for stage in (augment, evaluate_baselines, train_translator):
        refused(stage, f"train/00000.safetensors is damaged .*checksum of {part}")


@pytest.mark.parametrize(
    ("split", "stages"),
    [
        ("train", (generate_val, train_translator)),
        ("held_back", (augment, train_translator)),
        ("test", (evaluate_baselines, train_translator)),
    ],
)
def test_a_flipped_pixel_stops_every_stage_that_reads_these_images(here, split, stages):
    flip_in(MAIN, f"{split}.images")
    for stage in stages:
        refused(stage, f"main.safetensors is damaged .*the checksum of '{split}'")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"train.images": t["train.images"].float()}, "images are .*float32"),
        (lambda t: t | {"train.images": t["train.images"][:, 1:]}, "images are .*27, 28"),
        (lambda t: t | {"train.images": t["train.images"][1:]}, "images are .*, labels "),
        (lambda t: t | {"train.labels": t["train.labels"] + 1}, "labels are 1 to 10, not 0 to 9"),
        (lambda t: t | {"train.labels": t["train.labels"].int()}, "labels .*int32"),
        (
            lambda t: {k: v for k, v in t.items() if k != "train.labels"},
            "'train.labels' is not in it",
        ),
    ],
)
def test_other_images_than_the_networks_read_are_refused(here, change, message):
    save_tensors(MAIN, change(load_tensors(MAIN)))
    refused(generate_val, f"main.safetensors is damaged .*{message}")


def test_images_of_other_colours_stop_every_stage_that_reads_them(here):
    grey = {split: read_set(MAIN, split) for split in ("train", "held_back", "test")}
    colour = {k: ImageSet(s.images[:, None].repeat(1, 3, 1, 1), s.labels) for k, s in grey.items()}
    write_sets(MAIN, colour, {"name": "digits"})
    for stage in (generate_val, augment, train_translator, evaluate_baselines):
        refused(stage, r"main\.safetensors cannot be used .images are 3 x 28 x 28, .*: run `dvc")


def rewritten(split, change):
    """A store whose weights are changed, with true checksums."""
    before = Pairs(PAIRS / split)
    stored = change(before.read())
    write_store(PAIRS / split, [stored], len(next(iter(stored.values()))), before.about)


@pytest.mark.parametrize(
    ("split", "change", "stage", "message"),
    [
        ("train", lambda w: take(w, slice(0, 4)), augment, "holds 4 networks, but 8 are needed"),
        ("train", lambda w: take(w, slice(0, 4)), train_translator, "holds 4 .*8 are needed"),
        (
            "test",
            lambda w: {k: v for k, v in w.items() if not k.startswith("former")},
            train_translator,
            "test holds no 'former' blocks; it has",
        ),
        (
            "selection",
            lambda w: {k: v for k, v in w.items() if not k.startswith("small")},
            augment,
            "selection holds no 'small' blocks; it has",
        ),
        (
            "test",
            lambda w: w | {"latter.fc.weight": w["latter.fc.weight"][..., :3]},
            evaluate_baselines,
            "its latter blocks do not have the shapes of the networks'",
        ),
        (
            "test",
            lambda w: {k: v for k, v in w.items() if k != "large.conv1.weight"},
            generate_transfer,
            "its large blocks do not have the shapes",
        ),
    ],
)
def test_a_store_of_other_networks_is_refused(here, split, change, stage, message):
    rewritten(split, change)
    refused(stage, message)


def test_images_of_another_set_than_the_parameters_name_are_refused(here):
    here.params["scales"]["tiny"]["images"] |= {"main": "glyphs", "transfer": "digits"}
    here.write_params()
    for stage in (generate_val, augment, train_translator):
        refused(stage, "main.safetensors holds images of 'digits', not of 'glyphs'")
    refused(generate_transfer, "transfer.safetensors holds images of 'glyphs', not of 'digits'")


def test_a_link_in_a_stores_place_is_replaced_and_what_it_leads_to_stays(here):
    shutil.rmtree(PAIRS / "selection")
    Path("own").mkdir()
    Path("own/file").write_text("own")
    (PAIRS / "selection").symlink_to(Path("own").absolute())
    generate_val.main(params.load(), Compute())
    assert not (PAIRS / "selection").is_symlink() and len(Pairs(PAIRS / "selection")) == 2
    assert Path("own/file").read_text() == "own"


def test_a_file_in_a_stores_place_is_told_before_the_work(here, monkeypatch):
    shutil.rmtree(PAIRS / "selection")
    (PAIRS / "selection").write_text("own")
    monkeypatch.setattr("kt.pairs.generate.run", lambda *given: pytest.fail("began"))
    refused(generate_val, "pairs/selection could not be written .File exists")


@pytest.mark.parametrize("fraction", [1e-9, 0.05])
def test_a_fraction_of_fewer_images_than_classes_is_refused(here, fraction, monkeypatch):
    here.params["partial"]["fractions"] = [0.5, fraction]
    here.write_params()
    monkeypatch.setattr(generate_partial, "make_store", lambda *given: pytest.fail("began"))
    refused(
        generate_partial, f"partial.fractions: got {fraction}, which is .* accepts .* 10, one of"
    )


def test_a_warmup_longer_than_the_training_is_refused(here):
    here.params["translators"]["merge"]["train"]["warmup_epochs"] = 5
    here.write_params()
    refused(train_translator, "merge.train.warmup_epochs: got 5; accepts up to the 4 epochs of")


def test_more_prototypes_than_images_are_refused_by_their_full_key(here):
    here.params["translators"]["merge"]["model"]["prototypes"] = 2000
    here.write_params()
    refused(train_translator, "params.yaml: translators.merge.model.prototypes: got 2,000; accepts")


@pytest.mark.parametrize(
    "name",
    ["nothing", "", "/", "curve", "curve/abc", "curve/3", "curve/4/4", "table3/small",
     "table3/huge/0", "table3/small/nan", "table5/masking", "table5/masking/x", "table5/x",
     "table6/conv", "mixers/x",
     "epochs/x", "epochs/-1", "figure4/x", "table1/x", "merge/x", "ablation/x", "fixed/x"],
)  # fmt: skip
def test_a_cell_that_is_none_is_refused(here, name):
    with pytest.raises(KTError, match=r"is no (cell|row)") as caught:
        cells.main(params.load(), Compute(), name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "ablation", "ablation/x", "nothing/x", "table3/x"])
def test_a_store_that_is_none_is_refused(here, name):
    with pytest.raises(KTError, match=r"is no store|is no table: these are: .*ablation"):
        store.main(params.load(), Compute(), name)


@pytest.mark.parametrize(
    "change",
    [{"count": 9}, {"count": "8"}, {"shards": 3}, {"shards": [{}]}, {"about": None}, {"count": -1}],
)
def test_a_manifest_that_does_not_fit_its_shards_is_refused(here, change):
    path = PAIRS / "train" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(augment, "data/pairs/train")


def test_a_translator_of_another_target_or_with_nan_is_refused(here):
    chosen = params.load()
    for split in ("transfer", "partial/0.5"):
        made = {"plan": plan_of(chosen, split).describe()}
        count = made["plan"]["count"]
        networks = take(Pairs(PAIRS / "test").read(), slice(count))
        write_store(PAIRS / split, [networks], count, made)
    other = make_model(chosen.changed({"target": "conv_bias"}, "target"), 1)
    save_translator(TRANSLATOR, other)
    for stage in (eval_transfer_usps, eval_partial_data):
        refused(stage, "was trained with target conv_bias, but the parameters say conv: run")
    for change in ({"layers": 3}, {"kind": "mixer"}):
        save_translator(TRANSLATOR, make_model(chosen.changed({"model": change}, "model"), 1))
        for stage in (eval_transfer_usps, eval_partial_data):
            refused(stage, "translator.safetensors was trained with (layers 3|kind mixer), but")
    model = make_model(chosen, 1)
    with torch.no_grad():
        next(model.parameters()).view(-1)[3] = math.nan
    about = {METADATA: description(model)}
    save_file(model.state_dict(), TRANSLATOR, about)
    for stage in (eval_transfer_usps, eval_partial_data):
        refused(stage, "translator.safetensors .* not finite.*: run `dvc repro`")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"translation": NaN}',
        "[1]",
        "[" * 100_000,
        "\0",
        '{"a": {"mean": 1, "ci95": null}}',
    ],
)
def test_damaged_metrics_are_refused(text, tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(KTError, match=r"metrics.json is damaged .*: run `dvc repro`") as caught:
        inputs.read_json(path)
    assert "\n" not in str(caught.value)


def test_metrics_without_a_number_or_a_file_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen = tmp_path / "params.yaml"
    refused_all = [headline, report]
    chosen.write_text((Path(__file__).parents[1] / "params.yaml").read_text())
    for stage in refused_all:
        refused(stage, "metrics.json is missing: run `dvc repro`")
    for name in ("train", "baselines", "transfer", "partial"):
        outputs.write_json(RESULTS / name / "metrics.json", {"other": 1})
    for stage in refused_all:
        refused(stage, "metrics.json is damaged .*: missing")
    (RESULTS / "train" / "metrics.json").unlink()
    (RESULTS / "train" / "metrics.json").mkdir()
    refused(headline, "metrics.json is a folder, not a file: run")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged .No columns to parse"),
        ("step\tloss\n", "has no rows"),
        ("step\n1\n", "no column loss"),
        ("step\tloss\n1\tnan\n", "loss is not made of possible numbers"),
        ("step\tloss\n1\t-1e308\n", "loss is not made of possible numbers"),
        ("step\tloss\n1\t0.1", "its end is missing"),
        ("step\tloss\n1\tabc\n", "loss is not made of possible numbers"),
        ("step\tloss\n1\t2\t3\t4\n1\n", "loss.tsv is damaged"),
        ("\udc80", "is damaged"),
        (None, "is missing: run"),
    ],
)
def test_damaged_tables_are_refused(text, message, tmp_path):
    path = tmp_path / "loss.tsv"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(KTError, match=message) as caught:
        inputs.read_table(path, "step", "loss")
    assert "\n" not in str(caught.value)


def test_nothing_that_is_not_finite_is_published(tmp_path):
    path = tmp_path / "metrics.json"
    for content in ({"a": {"b": math.nan}}, {"a": [1.0, math.inf]}):
        with pytest.raises(KTError, match=r"a\.[b1] is not finite: lower the learning rate"):
            outputs.write_json(path, content)
    with pytest.raises(KTError, match="loss is not finite"):
        outputs.write_csv(path, pd.DataFrame({"loss": [1.0, math.nan]}))
    assert not list(tmp_path.iterdir())
    outputs.write_json(path, {"a": None, "b": [1, "x"]})
    assert inputs.read_json(path) == {"a": None, "b": [1, "x"]}


def test_networks_that_diverge_are_not_published(here):
    before = here.files("data/pairs")
    here.params["scales"]["tiny"]["recipe"]["lr"] = 100_000.0
    here.write_params()
    refused(
        generate_val,
        "networks diverged: .* are not finite: lower the learning rate",
    )
    assert here.files("data/pairs") == before


@pytest.mark.parametrize("kind", ["merge", "mixer"])
def test_a_translator_that_diverges_is_not_published(here, kind):
    here.params["model"]["kind"] = kind
    here.params["translators"][kind]["train"]["lr"] = 1e6
    here.params["train"]["optimizer"] = "sgd"
    here.write_params()
    refused(train_translator, "the training diverged in epoch .*lower the learning rate")
    assert not TRANSLATOR.exists()


def test_a_training_that_fails_leaves_what_was_there(here):
    """One fails in an epoch, the other before the first: its losses are not for these networks."""
    train_translator.main(params.load(), Compute())
    before = here.files("results/train")
    kind = here.params["model"]["kind"]
    rate = here.params["translators"][kind]["train"]["lr"]
    here.params["translators"][kind]["train"]["lr"] = 1e6
    here.params["train"]["optimizer"] = "sgd"
    here.write_params()
    refused(train_translator, "the training diverged in epoch")
    assert here.files("results/train") == before
    here.params["translators"][kind]["train"]["lr"] = rate
    here.params["model"]["kind"] = "mixer"
    here.params["translators"]["mixer"]["train"]["loss"] = {"difference": True}
    here.write_params()
    refused(train_translator, "params.yaml")
    assert here.files("results/train") == before and not Path("results/.train.before").exists()


@pytest.mark.parametrize("name", ["train", "train/metrics.json", "train/plots"])
def test_results_that_cannot_be_written_are_told_before_the_training(name, here):
    path = RESULTS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if name.endswith("json") else path.touch()
    refused(train_translator, f"{path}.* could not be written")


def test_what_has_no_room_is_refused(here):
    with pytest.raises(KTError, match=r"much: takes [\d,]+ MiB on the disk, where [\d,]+ MiB are"):
        room.require_disk(Path("not/yet/there"), 1e18, "much")
    here.params["augment"]["copies"] = 10**9
    here.write_params()
    refused(augment, r"augment.copies: takes [\d,]+ MiB on the disk")
    here.params["augment"]["copies"] = 0
    here.params["scales"]["tiny"]["networks"]["selection"] = 10**9
    here.write_params()
    refused(generate_val, r"selection, 1,000,000,000 networks: takes [\d,]+ MiB on the disk")
    here.params["model"]["hidden_size"] = 10**9
    here.write_params()
    refused(
        train_translator,
        "model.hidden_size: got|hidden_size.*65536|this size needs",
    )

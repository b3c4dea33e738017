"""Factor Transfer: its modules and losses, the networks that it is tried on, and its pipeline."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from kt.ensemble import Compute
from kt.images import ImageSet, cifar
from kt.images.files import write_sets
from kt.networks.residual import NETWORKS
from kt.rivals import classifier as training
from kt.rivals.classifier import Training
from kt.rivals.factor_transfer import (
    FactorTranslator,
    Paraphraser,
    factor_loss,
    reconstruction_loss,
)
from kt.run.errors import KTError
from kt.run.files import load_tensors
from stages.factor_transfer import images, settings
from tests.conftest import ROOT, Project, usual_params
from tests.rounding import assert_near, assert_trained_alike, bound
from tests.test_cifar import colour_images, parameters
from tests.test_resume import wait_for

TABLE = ROOT / "tables" / "factor_transfer"
TRAINING = Training(3, 8, 0.05, 0.3, 0.9, 0.0005, "float32", seed=3)


# --- modules ------------------------------------------------------------------------------------


@given(
    channels=st.integers(2, 9),
    rate=st.sampled_from([0.5, 0.75, 1.0]),
    student=st.integers(1, 9),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
)
def test_factors_of_teacher_and_student_have_one_shape(channels, rate, student, height, width):
    paraphraser = Paraphraser(channels, rate)
    translator = FactorTranslator(student, paraphraser.factor_channels)
    features = torch.randn(2, channels, height, width)
    factor = paraphraser.factor(features)
    assert factor.shape == (2, round(rate * channels), height, width)
    assert translator(torch.randn(2, student, height, width)).shape == factor.shape
    assert paraphraser(features).shape == features.shape


def test_a_rate_that_leaves_no_channel_is_refused(tmp_path):
    with pytest.raises(KTError, match=r"rate: got 0.0001, which leaves none of the 64 channels"):
        Paraphraser(64, 0.0001)
    given = yaml.safe_load((TABLE / "params.yaml").read_text())
    for key, value, words in (
        ("rate", 0.0001, "paraphraser.rate: got 0.0001, which leaves none of"),
        ("p", True, "paraphraser.p: got True; input should be a valid integer"),
        ("p", 3, "paraphraser.p: got 3; accepts 1, 2"),
    ):
        changed = given | {"paraphraser": given["paraphraser"] | {key: value}}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed))
        with pytest.raises(KTError, match=words):
            settings.load(tmp_path / "params.yaml")


def test_paraphraser_is_the_published_autoencoder():
    """Counted by hand: C = 64, k = 0.5, six 3x3 layers with biases."""
    there = (64 * 64 + 64 * 32 + 32 * 32) * 9 + 64 + 32 + 32
    back = (32 * 32 + 32 * 64 + 64 * 64) * 9 + 32 + 64 + 64
    paraphraser = Paraphraser(64)
    assert parameters(paraphraser) == there + back
    assert parameters(FactorTranslator(64, 32)) == there
    x = torch.randn(2, 64, 8, 8)
    expected = x
    weights = list(paraphraser.parameters())
    for i, convolve in enumerate([F.conv2d] * 3 + [F.conv_transpose2d] * 3):
        expected = convolve(expected, weights[2 * i], weights[2 * i + 1], padding=1)
        expected = torch.where(expected > 0, expected, 0.1 * expected)
    assert_near(paraphraser(x), expected, 9 * (3 * 64 + 3 * 32))


def test_factor_loss_by_hand():
    teacher = torch.tensor([[3.0, 4.0], [0.0, 2.0]]).view(2, 1, 1, 2)  # (.6, .8), (0, 1)
    student = torch.tensor([[4.0, 3.0], [5.0, 0.0]]).view(2, 1, 1, 2)  # (.8, .6), (1, 0)
    assert_close(factor_loss(teacher, student, 1), torch.tensor((0.2 + 0.2 + 1 + 1) / 4))
    assert_close(factor_loss(teacher, student, 2), torch.tensor((0.04 + 0.04 + 1 + 1) / 4))


@given(scale=st.floats(0.1, 10), p=st.sampled_from([1, 2]), seed=st.integers(0, 99))
def test_factor_loss_ignores_each_images_scale(scale, p, seed):
    draw = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, 3, 4, 2, 2, generator=draw)
    scales = torch.tensor([scale, 1, 1 / scale]).view(3, 1, 1, 1)
    assert_close(factor_loss(scales * teacher, student, p), factor_loss(teacher, student, p))
    assert_close(factor_loss(teacher, scales * student, p), factor_loss(teacher, student, p))
    assert factor_loss(teacher, scales * teacher, p) < 1e-6


def test_no_gradient_reaches_the_teachers_side():
    teacher, student = torch.randn(2, 2, 3, 4, 4).unbind()
    teacher.requires_grad_()
    student.requires_grad_()
    (factor_loss(teacher, student, 1) + reconstruction_loss(student, teacher, 2)).backward()
    assert teacher.grad is None and student.grad.any()


def test_reconstruction_is_l1_or_squared_l2():
    rebuilt, features = torch.zeros(2, 3, 2, 2), torch.full((2, 3, 2, 2), -3.0)
    assert reconstruction_loss(rebuilt, features, 1) == 3
    assert reconstruction_loss(rebuilt, features, 2) == 9


def test_factors_of_different_shapes_are_not_compared():
    with pytest.raises(ValueError, match="differ"):
        factor_loss(torch.ones(2, 3, 4, 4), torch.ones(2, 6, 4, 4), 1)


# --- training -----------------------------------------------------------------------------------


def small_learner() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(10))


def learn(path, learner=None, stop: int | None = None, how: Training = TRAINING):
    """The learner and its history; stopped by an error after `stop` epochs."""
    learner, data = learner or small_learner(), colour_images(20)
    learner(torch.zeros(1, 3, 32, 32))

    def losses(images, labels):
        return {"loss": F.cross_entropy(learner(images).float(), labels)}

    epochs = []

    def watch(images, done_before):
        epochs.append(images)
        if stop is not None and len(epochs) == 2 + stop * (20 // how.batch_size):
            raise KeyboardInterrupt

    return learner, training.train(learner, losses, data, how, path, watch)


def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path):
    torch.manual_seed(0)
    start = small_learner()
    start(torch.zeros(1, 3, 32, 32))
    state = {k: v.clone() for k, v in start.state_dict().items()}
    whole, history = learn(tmp_path / "whole.pt", start)
    again = small_learner()
    again(torch.zeros(1, 3, 32, 32))
    again.load_state_dict(state)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "parts.pt", again, stop=2)
    resumed, also = learn(tmp_path / "parts.pt")
    assert [r["loss"] for r in also] == [r["loss"] for r in history]
    assert len(history) == 3
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_step_is_that_of_sgd_at_the_cycles_rate(tmp_path):
    """One batch in all, so half of the steps are done in its middle: two thirds of the warm-up."""
    learner = small_learner()
    learner(torch.zeros(1, 3, 32, 32))
    twin = small_learner()
    twin(torch.zeros(1, 3, 32, 32))
    twin.load_state_dict(learner.state_dict())
    how = Training(1, 20, 0.03, 0.75, 0.9, 0.1, "float32", seed=3)
    learn(tmp_path / "c.pt", learner, how=how)
    images, labels = next(cifar.augmented_batches(colour_images(20), 20, 3, 0))
    twin.train()
    F.cross_entropy(twin(images), labels).backward()
    with torch.no_grad():
        for mine, theirs in zip(learner.parameters(), twin.parameters(), strict=True):
            wanted = theirs - 0.02 * (theirs.grad + 0.1 * theirs)
            assert_trained_alike(mine, wanted, theirs, 20)


def test_reduced_precision_is_close_to_full(tmp_path):
    how = Training(1, 4, 0.01, 0.3, 0.9, 0, "bfloat16", seed=3)
    _, history = learn(tmp_path / "c.pt", how=how)
    assert 1 < history[0]["loss"] < 10


def test_accuracy_counts_right_answers():
    data = colour_images(8)

    class Oracle(nn.Module):
        def forward(self, images):
            here = (cifar.pixels(data.images)[None] == images[:, None]).flatten(2).all(2)
            answers = here.float().argmax(1)
            logits = F.one_hot(data.labels[answers], 10).float()
            return images, torch.where((answers < 6)[:, None], logits, -logits)

    assert training.accuracy(Oracle(), data) == 75


# --- the pipeline -------------------------------------------------------------------------------


def test_settings_are_valid_and_mistakes_are_one_line(tmp_path):
    chosen = settings.load(TABLE / "params.yaml")
    assert set(chosen.scales) == {"resnet20_to_8", "resnet50_to_18"} and len(chosen.seeds) >= 3
    raw = yaml.safe_load((TABLE / "params.yaml").read_text())
    path = tmp_path / "params.yaml"
    for change, message in (
        ({"scale": "huge"}, "scale is 'huge', which is none of resnet20_to_8"),
        ({"methods": ["alone", "x"]}, "methods: 'x' is none of the settings: alone, factor_1"),
        ({"seeds": [1, 1]}, r"seeds: got \[1, 1\]; each must be another"),
        ({"paraphraser": {"rate": 0.5, "p": 3}}, "paraphraser.p: got 3; accepts 1, 2"),
        ({"seedz": 1}, "seedz: unknown key; did you mean seed"),
    ):
        path.write_text(yaml.safe_dump(raw | change))
        with pytest.raises(KTError, match=message) as caught:
            settings.load(path)
        assert "\n" not in str(caught.value)


def test_settings_are_checked_before_the_images_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KTError, match=r"tables/factor_transfer/params\.yaml is missing"):
        images.main(usual_params(), Compute())


TINY = {"teacher": "resnet8", "student": "resnet8"}
METHODS = ("alone", "logits", "factor_500")
DATA = settings.DATA / "tiny"


@pytest.fixture(scope="module")
def _compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A handful of random images, and every network trained on them for a few epochs."""
    project = Project(tmp_path_factory.mktemp("compared")).fill()
    chosen = yaml.safe_load((TABLE / "params.yaml").read_text())
    schedule = {"epochs": 8, "lr": 0.05}
    networks = {part: schedule | {"network": name} for part, name in TINY.items()}
    chosen |= {"scale": "tiny", "scales": {"tiny": {**networks, "paraphraser": schedule}}}
    chosen |= {"seeds": [1, 2], "methods": list(METHODS)}
    chosen["training"]["batch_size"] = 16
    (project.folder / settings.TABLE).mkdir(parents=True, exist_ok=True)
    (project.folder / settings.TABLE / "params.yaml").write_text(yaml.safe_dump(chosen))
    drawn = {split: colour_images(count) for split, count in (("train", 40), ("test", 20))}
    write_sets(project.folder / settings.IMAGES, drawn, {settings.SOURCE: "JPEG"})
    project.succeed(
        "factor_transfer.teacher",
        "factor_transfer.paraphraser",
        *(f"factor_transfer.student {method}" for method in METHODS),
        "tables.factor_transfer",
        KT_WORKERS="1",
    )
    return project.folder


@pytest.fixture
def compared(_compared: Path, tmp_path: Path) -> Project:
    """A project in which all was run: a copy, free to be changed."""
    shutil.copytree(_compared, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3, 3, 32, 32), "batch_size: got 16; there are 3 images"),
     ((40, 28, 28), r"its images are \(28, 28\)"), ((40, 3, 28, 28), r"are \(3, 28, 28\)")],
)  # fmt: skip
def test_images_of_another_size_or_too_few_are_refused(compared, shape, message):
    some = {
        split: ImageSet(torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape[0]).long())
        for split in ("train", "test")
    }
    write_sets(compared.folder / settings.IMAGES, some)
    status, errors = compared.run("factor_transfer.teacher")
    assert status == 1 and re.search(message, errors)


def test_the_pipeline_compares_all_methods(compared):
    results = compared.folder / settings.TABLE / "results" / "tiny"
    summary = json.loads((results / "summary.json").read_text())
    assert summary["factor_500"]["gain"]["n"] == 2 and "gain" not in summary["alone"]
    table = (results / "summary.md").read_text()
    assert "| Factor Transfer, β = 500 (the authors') (resnet8) | 75,290 |" in table
    assert "JPEG copies" in table and (results / "loss.png").exists()
    losses = (results / "loss.csv").read_text().splitlines()
    assert len(losses) == 1 + (3 * 2 + 1) * 8  # students and teacher
    assert not list((compared.folder / ".kt").iterdir())  # finished work leaves nothing behind

    def epochs(cell: str) -> list[dict]:
        return json.loads((compared.folder / DATA / cell / "training.json").read_text())["history"]

    for record in epochs("students/factor_500/1"):
        assert record["loss"] == pytest.approx(
            record["cross_entropy"] + 500 * record["factor"], rel=bound(8, 1)
        )
    assert all(r["loss"] == r["cross_entropy"] for r in epochs("students/alone/1"))
    rebuilt = [record["loss"] for record in epochs("paraphraser")]
    assert rebuilt[-1] < rebuilt[0]


def test_a_students_file_holds_the_student_alone(compared):
    for method in METHODS:
        file = compared.folder / DATA / "students" / method / "1" / "weights.safetensors"
        assert set(load_tensors(file)) == set(NETWORKS["resnet8"]().state_dict())


def test_killed_students_go_on_to_the_same_bytes_and_leave_their_teacher_as_it_was(compared):
    students = str(DATA / "students" / "factor_500")
    known = [str(DATA / name) for name in ("teacher", "paraphraser")]
    before, whole = compared.files(*known), compared.files(students)
    shutil.rmtree(compared.folder / students)
    process = compared.start("factor_transfer.student", "factor_500", KT_WORKERS="2")
    wait_for(lambda: list(compared.folder.glob(".kt/factor-*/*.pt")), process)
    process.kill()
    process.communicate()
    assert list(compared.folder.glob(".kt/factor-*/*.pt"))
    compared.succeed("factor_transfer.student factor_500", KT_WORKERS="2")
    for seed in (1, 2):
        name = f"{students}/{seed}/weights.safetensors"
        assert compared.files(students)[name] == whole[name]
    assert compared.files(*known) == before

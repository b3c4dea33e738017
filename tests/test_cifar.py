"""CIFAR-10 as images, and the networks that are trained on it."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from kt.images import ImageSet, cifar, load_images
from kt.networks.residual import NETWORKS, cifar_resnet
from kt.run.errors import KTError
from tests.rounding import assert_near


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def colour_images(count: int) -> ImageSet:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8)
    return ImageSet(images, torch.randint(0, 10, (count,), generator=draw))


# --- networks -----------------------------------------------------------------------------------


def test_networks_have_their_published_sizes():
    """ResNet-20: 0.27 M (He et al., Table 6). The others: torchvision's less what was replaced."""
    assert parameters(NETWORKS["resnet20"]()) == 269_722
    assert parameters(cifar_resnet(110)) == 1_727_962  # 1.7 M in the paper
    for name, whole, width in (("resnet18", 11_689_512, 512), ("resnet50", 25_557_032, 2048)):
        head = 1000 * (width + 1) - 10 * (width + 1)
        assert parameters(NETWORKS[name]()) == whole - head - 64 * 3 * (7 * 7 - 3 * 3)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("resnet8", (64, 8, 8)), ("resnet20", (64, 8, 8)), ("resnet18", (512, 4, 4))],
)
def test_networks_give_features_and_logits(name, shape):
    network = NETWORKS[name]()
    features, logits = network(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, *shape) and logits.shape == (2, 10)
    assert network.head.in_features == shape[0]
    head = F.linear(features.mean((2, 3)), network.head.weight, network.head.bias)
    assert_near(logits, head, shape[0] + shape[1] * shape[2])


def test_shortcuts_without_parameters_keep_what_they_can():
    """With convolutions at zero a block is its shortcut: every other position, zeros behind."""
    block = cifar_resnet(8).body[4]
    for convolution in (block.conv1, block.conv2):
        nn.init.zeros_(convolution.weight)
    x = torch.rand(2, 16, 32, 32)
    out = block.eval()(x)
    assert torch.equal(out[:, :16], x[:, :, ::2, ::2]) and not out[:, 16:].any()


def test_other_depths_are_no_cifar_resnets():
    with pytest.raises(ValueError, match="depth 18"):
        cifar_resnet(18)


# --- images -------------------------------------------------------------------------------------


def test_augmented_images_are_crops_of_the_padded_ones():
    data = colour_images(25)
    data = ImageSet(data.images, torch.arange(25))
    (images, labels), second = cifar.augmented_batches(data, 12, seed=1, epoch=0)
    assert len(set(torch.cat([labels, second[1]]).tolist())) == 24
    assert images.is_contiguous(memory_format=torch.channels_last)
    seen = set()
    for image, label in zip(images, labels, strict=True):
        padded = F.pad(data.images[label], [4] * 4)
        views = {
            (top, left, flip): cifar.pixels(padded[:, top : top + 32, left : left + 32])
            for top in range(9)
            for left in range(9)
            for flip in (False, True)
        }
        views = {k: v.flip(-1) if k[2] else v for k, v in views.items()}
        (found,) = (key for key, view in views.items() if torch.equal(view, image))
        seen.add(found)
    assert len(seen) > 6 and {flip for *_, flip in seen} == {True, False}


def test_passes_differ_and_are_the_same_again():
    data = colour_images(8)
    passes = [next(cifar.augmented_batches(data, 8, 1, epoch)) for epoch in (0, 1, 0)]
    assert torch.equal(passes[0][0], passes[2][0]) and torch.equal(passes[0][1], passes[2][1])
    assert not torch.equal(passes[0][0], passes[1][0])


def jpeg(image: torch.Tensor) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(packed, "JPEG", quality=95)
    return packed.getvalue()


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A folder with CIFAR-10 of two classes, three training images and a test image in each."""
    monkeypatch.setattr(cifar, "SIZES", (6, 2))
    monkeypatch.setenv("KT_DATA_ROOT", str(tmp_path))
    path = tmp_path / cifar.ARCHIVE
    path.parent.mkdir()
    images = colour_images(8).images
    names = [f"train/{c}/{i}.jpg" for c in ("frog", "cat") for i in range(3)]
    with tarfile.open(path, "w:gz") as tar:
        for name, image in zip([*names, "test/cat/0.jpg", "test/frog/0.jpg"], images, strict=True):
            content = jpeg(image)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path, images


def test_jpeg_images_are_read_by_class(archive, tmp_path):
    _, images = archive
    train, test = load_images("cifar10", tmp_path)
    source = cifar.source()
    assert source == "JPEG"
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1] and test.labels.tolist() == [0, 1]
    for read, written in ((train.images[3], images[0]), (test.images[0], images[6])):
        picture = np.array(Image.open(io.BytesIO(jpeg(written))))
        assert np.array_equal(read.permute(1, 2, 0), picture)


def test_a_damaged_archive_is_refused_in_one_line(archive, tmp_path):
    path, _ = archive
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(KTError, match=r"cifar10-jpeg.tar.gz is damaged") as caught:
        load_images("cifar10", tmp_path)
    assert "\n" not in str(caught.value)


def rewritten(path, members):
    """An archive with other members; bytes, or a place that a link leads to."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


PICTURE = jpeg(colour_images(1).images[0])
SMALL = jpeg(colour_images(1).images[0][:, :31])
WHOLE = [(f"train/{c}/{i}.jpg", PICTURE) for c in ("a", "b") for i in range(3)]
WHOLE += [(f"test/{c}/0.jpg", PICTURE) for c in ("a", "b")]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([], "it holds no images below train/"),
        (WHOLE[:6], "it holds no images below test/"),
        ([("train/a/x.jpg", SMALL), *WHOLE[1:]], r"x.jpg is of \(31, 32\) pixels"),
        ([("train/a/x.jpg", PICTURE[:300]), *WHOLE[1:]], "is damaged .*[Tt]runcated"),
        ([("train/a/x.jpg", b"text"), *WHOLE[1:]], "is damaged .cannot identify"),
        ([("train/a/x.jpg", "/etc/passwd"), *WHOLE[1:]], r"it holds \[2, 3\] images of its"),
        ([("train/a/x.jpg", "x.jpg"), *WHOLE[1:]], r"it holds \[2, 3\] images of its"),
        ([("../train/a/x.jpg", PICTURE), *WHOLE[1:]], r"it holds \[2, 3\] images of its"),
        ([("", PICTURE), (".", PICTURE), *WHOLE[1:]], r"it holds \[2, 3\] images of its"),
        ([("train/b/x.jpg", PICTURE), *WHOLE[1:]], r"it holds \[2, 4\] images of its classes"),
    ],
)
def test_an_archive_of_other_members_is_refused(members, words, archive, tmp_path):
    path, _ = archive
    rewritten(path, members)
    with pytest.raises(KTError, match=words) as caught:
        load_images("cifar10", tmp_path)
    assert "\n" not in str(caught.value)


def test_no_flipped_bit_in_an_archive_passes(archive, tmp_path):
    path, _ = archive
    whole, sets = path.read_bytes(), load_images("cifar10", tmp_path)
    for place in range(0, len(whole), len(whole) // 60):
        flipped = bytes([whole[place] ^ 1 << place % 8])
        path.write_bytes(whole[:place] + flipped + whole[place + 1 :])
        try:
            again = load_images("cifar10", tmp_path)
        except KTError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:  # in the name or the time that gzip keeps
            for data, before in zip(again, sets, strict=True):
                assert data.images.equal(before.images) and data.labels.equal(before.labels)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.name)])
def test_what_is_no_archive_is_refused(make, archive, tmp_path):
    archive[0].unlink()
    make(archive[0])
    with pytest.raises(KTError) as caught:
        load_images("cifar10", tmp_path / "data")
    assert "\n" not in str(caught.value)


def test_damaged_originals_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("KT_DATA_ROOT", str(tmp_path))
    (tmp_path / cifar.ORIGINAL).mkdir()
    (tmp_path / cifar.ORIGINAL / "data_batch_1").write_bytes(b"other")
    with pytest.raises(KTError, match=r"cifar-10-batches-py is damaged .*: delete it there, and"):
        load_images("cifar10", tmp_path / "data")


def test_another_number_of_images_is_refused(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "SIZES", (50000, 10000))
    with pytest.raises(KTError, match=r"gz is damaged .* not 50,000 in equal parts\): delete"):
        load_images("cifar10", tmp_path)


def test_missing_files_without_network_are_one_clear_line(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.delenv("KT_DATA_ROOT", raising=False)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(KTError, match=r"could not be downloaded .*KT_DATA_ROOT") as caught:
        load_images("cifar10", tmp_path)
    assert "\n" not in str(caught.value)


def test_cifar_from_files(data_root, tmp_path, monkeypatch):
    """A hundredth of the images: decoding all takes a while."""
    if not (data_root / cifar.ARCHIVE).exists():
        pytest.skip(f"needs {cifar.ARCHIVE} in KT_DATA_ROOT")
    (tmp_path / cifar.ARCHIVE).parent.mkdir()
    with (
        tarfile.open(data_root / cifar.ARCHIVE) as whole,
        tarfile.open(tmp_path / cifar.ARCHIVE, "w:gz") as part,
    ):
        for member in whole:
            if member.name.endswith("00.jpg"):
                part.addfile(member, whole.extractfile(member))
    monkeypatch.setenv("KT_DATA_ROOT", str(tmp_path))
    monkeypatch.setattr(cifar, "SIZES", (500, 100))
    train, test = load_images("cifar10", tmp_path)
    assert train.images.shape == (500, 3, 32, 32) and test.images.shape == (100, 3, 32, 32)
    assert train.labels.bincount().tolist() == [50] * 10
    assert test.labels.bincount().tolist() == [10] * 10
    normalised = cifar.pixels(train.images)
    assert normalised.mean((0, 2, 3)).abs().max() < 0.1
    assert (normalised.std((0, 2, 3)) - 1).abs().max() < 0.1

import bz2
import gzip
import hashlib
import re
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kt.images import ImageSet, downloaded, fitted, load_images, pixels, training_batches
from kt.images.files import read_set, write_sets
from kt.run import memory
from kt.run.errors import KTError, one_line


def test_embedded_sets_have_their_published_sizes_and_are_always_the_same(tmp_path):
    train, test = load_images("digits", tmp_path)
    assert (len(train), len(test)) == (1437, 360)
    counts = torch.bincount(torch.cat([train.labels, test.labels])).tolist()
    assert counts == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # scikit-learn's
    train, test = load_images("glyphs", tmp_path)
    assert (len(train), len(test)) == (1200, 600)
    again, _ = load_images("glyphs", tmp_path)
    assert torch.equal(train.images, again.images)
    assert all(train.images[train.labels == digit].float().mean() > 5 for digit in range(10))


@given(
    count=st.integers(1, 50),
    batch_size=st.integers(1, 60),
    epochs=st.integers(1, 3),
    flip=st.booleans(),
    seed=st.integers(0, 2**62),
)
def test_every_pass_shows_every_image_once(count, batch_size, epochs, flip, seed):
    images = torch.zeros(count, 28, 28, dtype=torch.uint8)
    images[:, 0, 0] = 255  # tells a mirrored image from a plain one
    batches = list(
        training_batches(ImageSet(images, torch.arange(count)), batch_size, epochs, flip, seed)
    )
    labels = torch.cat([labels for _, labels in batches]).view(epochs, count)
    assert torch.equal(labels.sort(1).values, torch.arange(count).expand(epochs, count))
    pixels = torch.cat([pixels for pixels, _ in batches])
    corners = pixels[:, 0, 0, [0, 27]]
    assert torch.equal(corners.sum(1), torch.ones(epochs * count))
    assert flip or bool((corners[:, 0] == 1).all())


def test_half_of_the_images_are_mirrored():
    images = torch.zeros(4000, 28, 28, dtype=torch.uint8)
    images[:, 0, 0] = 255
    stream = training_batches(ImageSet(images, torch.zeros(4000).long()), 100, 1, True, 5)
    mirrored = sum(pixels[:, 0, 0, 27].sum().item() for pixels, _ in stream)
    assert abs(mirrored - 2000) < 5 * 1000**0.5  # five standard deviations


def test_pixels_are_scaled_to_one():
    scaled = pixels(torch.tensor([[[0, 51, 255]]], dtype=torch.uint8))
    torch.testing.assert_close(scaled, torch.tensor([[[[0, 0.2, 1]]]]))


def test_mnist_from_files(data_root, tmp_path):
    train, test = load_images("mnist", tmp_path)
    assert (train.images.shape, test.images.shape) == ((60000, 28, 28), (10000, 28, 28))
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # LeCun et al.
    assert torch.bincount(train.labels).tolist() == counts


def test_usps_from_files(data_root, tmp_path):
    train, test = load_images("usps", tmp_path)
    assert (len(train), len(test)) == (7291, 2007)
    assert torch.bincount(train.labels).tolist() == [
        1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644,
    ]  # fmt: skip
    assert train.images.shape[1:] == (28, 28) and train.images.float().mean() > 10


@pytest.mark.parametrize("name", ["mnist", "usps"])
def test_missing_set_without_network_is_one_clear_line(name, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.delenv("KT_DATA_ROOT", raising=False)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("urllib.request.urlretrieve", refuse)
    with pytest.raises(KTError, match=r"KT_DATA_ROOT.*'digits' and 'glyphs'") as caught:
        load_images(name, tmp_path)
    assert "\n" not in str(caught.value)


def test_files_with_another_content_are_refused(data_root, tmp_path, monkeypatch):
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"other labels")
    monkeypatch.setenv("KT_DATA_ROOT", str(tmp_path / "root"))
    with pytest.raises(KTError, match="t10k-labels-idx1-ubyte is damaged"):
        load_images("mnist", tmp_path / "data")
    usps = tmp_path / "root" / "USPS"
    usps.mkdir()
    whole = (data_root / "USPS" / "usps.bz2").read_bytes()
    (usps / "usps.bz2").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KTError, match=r"root/USPS/usps\.bz2 is damaged"):
        load_images("usps", tmp_path / "data")
    shutil.copy(data_root / "USPS" / "usps.t.bz2", usps)
    (usps / "usps.bz2").write_bytes(whole)  # repaired
    assert len(load_images("usps", tmp_path / "data")[0]) == 7291


LINE = b"0 " + b" ".join(b"%d:0.5" % place for place in range(1, 257))
"""A picture of no class, as USPS writes one."""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is damaged"),
        (b"text", "is damaged"),
        (bz2.compress(b"text"), "is damaged"),
        (bz2.compress(b"1 1:0.5\n"), "is damaged"),
        (bz2.compress(LINE), "is damaged .1 images of classes .-1.,"),
        (bz2.compress(LINE + b"\n1 1:nan"), "is damaged .a pixel of image 2 is not in -1 to 1"),
        (bz2.compress(b"1 1:900"), "is damaged .a pixel of image 1 is not"),
        (bz2.compress(b"1 1:-1.01"), "is damaged .a pixel of image 1 is not"),
        (bz2.compress(b"1 2:0.5 1:0.5"), "is damaged .the pixels of image 1 are not in order"),
        (None, "is a folder, not a file"),
    ],
)
def test_what_is_not_usps_is_refused(content, words, tmp_path, monkeypatch):
    path = tmp_path / "root" / "USPS" / "usps.bz2"
    path.parent.mkdir(parents=True)
    path.mkdir() if content is None else path.write_bytes(content)
    monkeypatch.setenv("KT_DATA_ROOT", str(tmp_path / "root"))
    with pytest.raises(KTError, match=rf"usps\.bz2 {words}.*: delete it there") as caught:
        load_images("usps", tmp_path / "data")
    assert "\n" not in str(caught.value)


def test_a_folder_for_copies_that_is_a_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("KT_DATA_ROOT", str(tmp_path))
    (tmp_path / "data").touch()
    with pytest.raises(KTError, match="data/torchvision/USPS could not be written"):
        load_images("usps", tmp_path / "data")


def test_no_flipped_bit_in_a_packed_file_passes(tmp_path, monkeypatch):
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    path = raw / "train-images-idx3-ubyte.gz"
    whole = gzip.compress(bytes(range(256)) * 20, mtime=0)
    monkeypatch.setitem(
        downloaded.MNIST_MD5, path.stem, hashlib.md5(gzip.decompress(whole)).hexdigest()
    )
    monkeypatch.setenv("KT_DATA_ROOT", str(tmp_path / "root"))
    target = tmp_path / path.stem
    for place in range(len(whole)):
        path.write_bytes(flipped(whole, place))
        target.unlink(missing_ok=True)
        try:
            downloaded._fetch("MNIST/raw", [path.name], target, downloaded.MNIST_MD5[path.stem])
        except KTError as error:
            assert str(path) in str(error) and "\n" not in str(error) and not target.exists()
        else:
            assert target.read_bytes() == gzip.decompress(whole)


def test_damaged_archive_is_named(tmp_path, monkeypatch):
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    whole = gzip.compress(b"some bytes" * 1000)
    (raw / "t10k-images-idx3-ubyte.gz").write_bytes(whole[: len(whole) // 2])
    monkeypatch.setenv("KT_DATA_ROOT", str(tmp_path / "root"))
    with pytest.raises(KTError, match=r"t10k-images-idx3-ubyte\.gz is damaged"):
        load_images("mnist", tmp_path / "data")


@pytest.mark.parametrize("given", ["/nonexistent", "not/here", "~/not/here", "{file}", "x" * 300])
def test_a_data_root_that_is_no_folder_is_named_in_full(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").touch()
    monkeypatch.setenv("KT_DATA_ROOT", given.format(file=tmp_path / "file"))
    expected = tmp_path / given.format(file="file").removeprefix("~/")
    named = re.escape(one_line(expected))
    for name in ("mnist", "usps", "cifar10"):
        with pytest.raises(KTError, match=rf"KT_DATA_ROOT is .*{named} is no folder"):
            load_images(name, tmp_path / "data")


SETS = {
    "train": ImageSet(torch.arange(5 * 784).view(5, 28, 28).to(torch.uint8), torch.arange(5)),
    "test": ImageSet(torch.zeros(2, 28, 28, dtype=torch.uint8), torch.tensor([9, 0])),
}


def test_image_sets_in_files_are_as_they_were_and_no_flipped_bit_passes(tmp_path):
    path = tmp_path / "main.safetensors"
    write_sets(path, SETS, {"name": "digits"})
    for split, images in SETS.items():
        read = read_set(path, split)
        assert torch.equal(read.images, images.images) and torch.equal(read.labels, images.labels)
    whole = path.read_bytes()
    for place in range(len(whole) - 40 * 90, len(whole), 90):
        path.write_bytes(flipped(whole, place))
        with pytest.raises(KTError, match=r"main\.safetensors.*: again$"):
            for split in SETS:
                read_set(path, split, "again")
    path.write_bytes(whole)
    assert len(read_set(path, "train", name="digits")) == 5
    with pytest.raises(KTError, match=r"holds images of 'digits', not of 'glyphs': again"):
        read_set(path, "train", "again", "glyphs")
    (tmp_path / "main.json").unlink()
    with pytest.raises(KTError, match=r"main\.json is missing: again"):
        read_set(path, "train", "again")


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.zeros(3, 28, 28), torch.arange(3), "not uint8"),
        (torch.zeros(3, 28, 20, dtype=torch.uint8), torch.arange(3), "28, 20"),
        (torch.zeros(3, 2, 28, 28, dtype=torch.uint8), torch.arange(3), "2, 28, 28"),
        (torch.zeros(3, 28, 28, dtype=torch.uint8), torch.arange(2), "labels .2,"),
        (torch.zeros(3, 28, 28, dtype=torch.uint8), torch.arange(8, 11), "8 to 10, not 0 to 9"),
        (torch.zeros(3, 28, 28, dtype=torch.uint8), -torch.arange(3), "-2 to 0"),
        (torch.zeros(0, 28, 28, dtype=torch.uint8), torch.arange(0), "no images"),
    ],
)
def test_images_that_no_network_reads_are_refused(tmp_path, images, labels, words):
    write_sets(tmp_path / "main.safetensors", {"test": ImageSet(images, labels)})
    with pytest.raises(KTError, match=words):
        read_set(tmp_path / "main.safetensors", "test")


def test_images_that_no_memory_holds_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr(memory, "free", lambda: 1e9)
    data = ImageSet(torch.zeros(100, 28, 28, dtype=torch.uint8), torch.zeros(100))
    with pytest.raises(KTError, match=r"100 images of 4096 x 4096 pixels needs 6\.25 GiB"):
        fitted(data, 1, 4096)


def test_one_file_that_is_lacking_beside_others_is_named(tmp_path, monkeypatch):
    def download(*where, **how):
        raise RuntimeError("Error downloading")

    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in downloaded.MNIST_MD5:
        (raw / name).write_bytes(b"x")
        monkeypatch.setitem(downloaded.MNIST_MD5, name, hashlib.md5(b"x").hexdigest())
    (raw / "t10k-labels-idx1-ubyte").unlink()
    monkeypatch.setenv("KT_DATA_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr("torchvision.datasets.MNIST", download)
    with pytest.raises(KTError, match=r"that holds MNIST/raw/t10k-labels-idx1-ubyte.gz, too"):
        load_images("mnist", tmp_path / "data")

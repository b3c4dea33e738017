import gzip

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kt.images import ImageSet, load_images, pixels, training_batches
from kt.run.errors import KTError


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
    with pytest.raises(KTError, match="usps are damaged"):
        load_images("usps", tmp_path / "data")


def test_damaged_archive_is_named(tmp_path, monkeypatch):
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    whole = gzip.compress(b"some bytes" * 1000)
    (raw / "t10k-images-idx3-ubyte.gz").write_bytes(whole[: len(whole) // 2])
    monkeypatch.setenv("KT_DATA_ROOT", str(tmp_path / "root"))
    with pytest.raises(KTError, match=r"t10k-images-idx3-ubyte\.gz is damaged"):
        load_images("mnist", tmp_path / "data")

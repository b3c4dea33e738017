"""Damaged files of all kinds: each works as before or ends in one line; none passes unnoticed."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

import kt
from kt.images import ImageSet
from kt.images.files import read_set, sums_of, write_sets
from kt.networks.blocks import Network, weights
from kt.pairs.store import MANIFEST, Pairs, write_store
from kt.run import checkpoint
from kt.run.errors import KTError
from kt.run.files import load_tensors, save_tensors
from kt.translators import load_translator, save_translator
from kt.translators.mixer import Mixer, MixerConfig

FEW = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LINE = 700
"""Characters of an error at most, its path included."""


@st.composite
def damages(draw):
    """What disks do to bytes: a flipped bit, an end that is missing, zeros, more than there was."""
    kind = draw(st.sampled_from(["flip", "flip", "cut", "zeros", "more", "other"]))
    place = draw(st.floats(0, 1, exclude_max=True))
    bit, junk = draw(st.integers(0, 7)), draw(st.binary(min_size=1, max_size=40))

    def damaged(content: bytes) -> bytes:
        at = int(place * len(content))
        return {
            "flip": content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :],
            "cut": content[:at],
            "zeros": content[:at] + bytes(len(content) - at),
            "more": content + junk,
            "other": junk,
        }[kind]

    return damaged


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**9, 10**30, -(10**30), 1e308, float("nan"), float("inf")]),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
"""What a field of JSON may hold instead of what belongs there."""


def places(content, way=()):
    """The ways to all values in nested mappings and lists."""
    yield way
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from places(content[key], (*way, key))


@contextlib.contextmanager
def one_line():
    """Whatever ends in an error ends in one of ours, in one line that advises no harm."""
    try:
        yield
    except KTError as error:
        text = str(error)
        assert text and "\n" not in text and len(text) < LINE
        assert "dvc repro" not in text and "delete" not in text


def same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def network(seed=0):
    torch.manual_seed(seed)
    made = Network()
    made(torch.rand(4, 1, 28, 28))
    return made.eval()


# --- bytes ----------------------------------------------------------------------------------------


def sealed(folder):
    tensors = {"a": torch.arange(60.0).view(3, 20), "b": torch.arange(9)}
    path = folder / "part"
    save_tensors(path, tensors, seal=True)
    return path, lambda: load_tensors(path, sealed=True), tensors


def store(folder):
    tensors = {"large.w": torch.rand(6, 30), "small.w": torch.rand(6, 5)}
    write_store(folder / "pairs", [tensors], 6, {}, shard_size=4)
    return folder / "pairs" / "00001.safetensors", lambda: Pairs(folder / "pairs").read(), tensors


def images(folder):
    path = folder / "main.safetensors"
    drawn = torch.randint(256, (4, 28, 28)).to(torch.uint8), torch.tensor([0, 9, 3, 3])
    write_sets(path, {"train": ImageSet(*drawn)}, {"name": "digits"})
    return path, lambda: vars(read_set(path, "train")), dict(images=drawn[0], labels=drawn[1])


def own_network(folder):
    path, expected = folder / "n.safetensors", network()
    kt.save_network(path, expected)
    return path, lambda: weights(kt.load_network(path)), weights(expected)


def state(folder):
    path, module = folder / "c.pt", torch.nn.Linear(3, 2)
    checkpoint.save(path, {"module": module}, history=[1.5, {"a": 2}])

    def load():
        checkpoint.before(path).unlink(missing_ok=True)
        found = checkpoint.load(path)
        if found is None:
            raise KTError("set aside")
        return found["parts"]["module"]

    return path, load, {name: t.clone() for name, t in module.state_dict().items()}


def saved_by_torch(folder):
    path, expected = folder / "n.pt", network()
    torch.save(expected.state_dict(), path)
    return path, lambda: weights(kt.load_network(path)), weights(expected)


KINDS = [sealed, store, images, own_network, saved_by_torch, state]


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(damage=damages())
def test_damaged_bytes_never_pass(kind, damage, tmp_path):
    """Files of ours that hold checksums, or lie beside them."""
    path, read, expected = kind(tmp_path)
    same(read(), expected)
    path.write_bytes(damage(path.read_bytes()))
    with one_line():
        same(read(), expected)  # bytes that say the same, and those that nothing reads


def translator(folder):
    path = folder / "t.safetensors"
    torch.manual_seed(0)
    save_translator(path, Mixer(MixerConfig(layers=1, hidden_size=8)))
    return path, lambda: load_translator(path)


@FEW
@given(damage=damages())
def test_what_is_read_from_a_file_without_checksums_is_whole_and_finite(damage, tmp_path):
    path, read = translator(tmp_path)
    expected = {name: (t.shape, t.dtype) for name, t in read().state_dict().items()}
    path.write_bytes(damage(path.read_bytes()))
    with one_line():
        found = read().state_dict()
        assert {name: (t.shape, t.dtype) for name, t in found.items()} == expected
        assert all(t.isfinite().all() for t in found.values())


# --- what is said ---------------------------------------------------------------------------------


def changed(content, data):
    """The same with one value replaced, or one entry removed."""
    content = json.loads(json.dumps(content))
    way = data.draw(st.sampled_from(list(places(content))))
    value = data.draw(VALUES)
    if not way:
        return value
    inside = content
    for step in way[:-1]:
        inside = inside[step]
    if data.draw(st.booleans()):
        del inside[way[-1]]
    else:
        inside[way[-1]] = value
    return content


@FEW
@given(data=st.data())
def test_a_manifest_that_says_another_thing_is_refused(data, tmp_path):
    _, read, expected = store(tmp_path)
    file = tmp_path / "pairs" / MANIFEST
    manifest = json.loads(file.read_text())
    other = changed(manifest, data)
    file.write_text(json.dumps(other))
    try:
        with one_line():
            same(read(), expected)
            assert json.dumps(other, sort_keys=True) == json.dumps(manifest, sort_keys=True)
    finally:
        shutil.rmtree(tmp_path / "pairs")


@FEW
@given(data=st.data())
def test_checksums_of_images_that_say_another_thing_are_refused(data, tmp_path):
    path, read, expected = images(tmp_path)
    sums = json.loads(sums_of(path).read_text())
    sums_of(path).write_text(json.dumps(changed(sums, data)))
    with one_line():
        same(read(), expected)


@FEW
@given(data=st.data())
def test_a_translator_of_impossible_settings_is_refused(data, tmp_path):
    path, read = translator(tmp_path)
    described = json.loads(header(path)["__metadata__"]["translator"])
    other = changed(described, data)
    path.write_bytes(save(load(path.read_bytes()), {"translator": json.dumps(other)}))
    with one_line():
        read()
        assert other == described


def header(path):
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


TENSORS = st.one_of(
    st.sampled_from([torch.float16, torch.float64, torch.int64, torch.bool, torch.bfloat16]).map(
        lambda kind: lambda t: t.to(kind)
    ),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30]).map(
        lambda value: lambda t: torch.full_like(t, value)
    ),
    st.sampled_from([(), (0,), (1, 2), (7,)]).map(lambda shape: lambda t: torch.ones(shape)),
    st.just(lambda t: t.flatten()),
    st.just(lambda t: None),
)


@FEW
@given(name=st.sampled_from([*weights(network())]), change=TENSORS, extra=st.booleans())
def test_a_network_of_other_tensors_is_refused(name, change, extra, tmp_path):
    tensors = weights(network())
    tensors[name] = change(tensors[name])
    if extra:
        tensors["extra"] = torch.ones(1)
    present = {n: t.contiguous() for n, t in tensors.items() if t is not None}
    (tmp_path / "n").write_bytes(save(present))
    with one_line():
        found = weights(kt.load_network(tmp_path / "n"))
        same(found, {n: t.float() for n, t in present.items()})
        assert not extra and all(t.isfinite().all() for t in found.values())


# --- no file at all -------------------------------------------------------------------------------

READERS = {
    "tensors": load_tensors,
    "network": kt.load_network,
    "translator": load_translator,
    "store": Pairs,
    "images": lambda path: read_set(path, "train"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["", ".", "missing", "folder", "/dev/null", "x" * 300, "file/x"])
def test_what_is_no_file_is_said_so(reader, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(KTError, match=r"missing|folder|regular|cannot be read") as caught:
        READERS[reader](Path(name))
    with one_line():
        raise caught.value

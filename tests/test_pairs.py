import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from kt import pairs
from kt.errors import KTError
from kt.pairs import Pairs


def make(sizes, start=0.0):
    whole = torch.arange(sum(sizes), dtype=torch.float32) + start
    parts = [
        {"large.conv.weight": part[:, None].repeat(1, 3), "small.fc": part}
        for part in whole.split(sizes)
    ]
    return whole, parts


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), first=st.integers(1, 40))
def test_what_is_written_in_parts_is_read_as_a_whole(tmp_path_factory, sizes, first):
    folder = tmp_path_factory.mktemp("store") / "pairs"
    whole, parts = make(sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "SHARD_SIZE", 10)
        pairs.write(folder, parts, {"what": "a test"})
    store = Pairs(folder)
    assert len(store) == len(whole) and store.about == {"what": "a test"}
    assert torch.equal(store.read()["small.fc"], whole)
    assert list(store.read("large")) == ["large.conv.weight"]
    assert torch.equal(store.read("small", first=first)["small.fc"], whole[:first])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert all(shard["count"] <= 10 for shard in manifest["shards"])


def test_a_store_is_replaced_as_a_whole(tmp_path):
    pairs.write(tmp_path / "pairs", make([4])[1], {})
    pairs.write(tmp_path / "pairs", make([2], start=9)[1], {})
    assert Pairs(tmp_path / "pairs").read("small")["small.fc"].tolist() == [9, 10]
    assert [path.name for path in tmp_path.iterdir()] == ["pairs"]


def test_a_damaged_or_truncated_shard_is_refused(tmp_path):
    pairs.write(tmp_path / "pairs", make([4])[1], {})
    shard = tmp_path / "pairs" / "00000.safetensors"
    whole = shard.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    for content in (whole[:-5], flipped, b""):
        shard.write_bytes(content)
        with pytest.raises(KTError, match=r"00000\.safetensors is damaged.*delete"):
            Pairs(tmp_path / "pairs")
    shard.unlink()
    with pytest.raises(KTError, match="damaged"):
        Pairs(tmp_path / "pairs")


def test_a_missing_or_senseless_manifest_is_refused(tmp_path):
    with pytest.raises(KTError, match="missing: run `dvc repro`"):
        Pairs(tmp_path / "pairs")
    (tmp_path / "pairs").mkdir()
    for text in ("", "{}", "[1]"):
        (tmp_path / "pairs" / "manifest.json").write_text(text)
        with pytest.raises(KTError, match="damaged"):
            Pairs(tmp_path / "pairs")


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    pairs.save(path, {"x": torch.rand(100)})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(KTError, match="damaged"):
        pairs.load(path)


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    pairs.save(path, {"x": torch.ones(3)})

    def full_disk(tensors, partial, metadata):
        partial.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(pairs, "save_file", full_disk)
    with pytest.raises(KTError, match=r"No space left on device.*make room and run again"):
        pairs.save(path, {"x": torch.zeros(3)})
    assert pairs.load(path)["x"].tolist() == [1, 1, 1]
    assert list(tmp_path.iterdir()) == [path]

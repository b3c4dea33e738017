import errno
import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kt.pairs.store import Pairs, write_store
from kt.run import files
from kt.run.errors import KTError
from kt.run.files import load_tensors, save_tensors

ROOT = Path(__file__).resolve().parent.parent


def make(sizes, start=0.0):
    whole = torch.arange(sum(sizes), dtype=torch.float32) + start
    parts = [
        {"large.conv.weight": part[:, None].repeat(1, 3), "small.fc": part}
        for part in whole.split(sizes)
    ]
    return whole, parts


def write(folder, sizes, start=0.0, **options):
    whole, parts = make(sizes, start)
    write_store(folder, iter(parts), len(whole), {"what": "a test"}, **options)
    return whole


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 25), min_size=1, max_size=8),
    first=st.integers(1, 40),
    data=st.data(),
)
def test_what_is_written_in_parts_is_read_as_a_whole(tmp_path_factory, sizes, first, data):
    folder = tmp_path_factory.mktemp("store") / "pairs"
    whole = write(folder, sizes, shard_size=10)
    store = Pairs(folder)
    assert len(store) == len(whole) and store.about == {"what": "a test"}
    assert torch.equal(store.read()["small.fc"], whole)
    assert torch.equal(store.read("large")["large.conv.weight"], whole[:, None].repeat(1, 3))
    assert list(store.read("large")) == ["large.conv.weight"]
    assert torch.equal(store.read("small", first=first)["small.fc"], whole[:first])
    rows = store.mapped()
    index = torch.tensor(data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=30)))
    index = index.to(torch.int64)
    assert torch.equal(rows["small.fc"][index], whole[index])
    assert torch.equal(rows["large.conv.weight"][index], whole[index][:, None].repeat(1, 3))
    stop = first + data.draw(st.integers(0, 20))
    assert torch.equal(rows["small.fc"][first:stop], whole[first:stop])
    assert len(store.mapped("small", first=first)["small.fc"]) == min(first, len(whole))


@pytest.mark.parametrize("sizes", [[23], [1] * 23, [7, 9, 7], [10, 10, 3]])
def test_shards_are_full_and_byte_for_byte_what_safetensors_writes(tmp_path, sizes):
    whole = write(tmp_path / "pairs", sizes, shard_size=10)
    manifest = json.loads((tmp_path / "pairs" / "manifest.json").read_text())
    assert [shard["count"] for shard in manifest["shards"]] == [10, 10, 3]
    for shard, expected in zip(manifest["shards"], whole.split(10), strict=True):
        file = tmp_path / "pairs" / shard["file"]
        tensors = {"large.conv.weight": expected[:, None].repeat(1, 3), "small.fc": expected}
        assert file.read_bytes() == safetensors.torch.save(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(safetensors.torch.load_file(file)[name], tensor)
            digest = hashlib.sha256(struct.pack(f"<{tensor.numel()}f", *tensor.flatten().tolist()))
            assert shard["sha256"][name] == digest.hexdigest()


@pytest.mark.parametrize("count", [9, 11, 20, 21])
def test_a_wrong_count_is_refused_and_leaves_nothing(tmp_path, count):
    with pytest.raises(ValueError, match="parts"):
        write_store(tmp_path / "pairs", make([5, 5])[1], count, {}, shard_size=10)
    assert not list(tmp_path.iterdir())


def test_a_store_is_replaced_as_a_whole(tmp_path):
    write(tmp_path / "pairs", [4])
    write(tmp_path / "pairs", [2], start=9)
    assert Pairs(tmp_path / "pairs").read("small")["small.fc"].tolist() == [9, 10]
    assert [path.name for path in tmp_path.iterdir()] == ["pairs"]


def test_rows_come_from_the_file_and_changing_them_does_not_change_it(tmp_path):
    write(tmp_path / "pairs", [4])
    rows = Pairs(tmp_path / "pairs").mapped("small")["small.fc"]
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert "pairs/00000.safetensors" in maps.read_text()
    assert rows.to(torch.device("cpu")) is rows
    rows[:].zero_()
    rows[torch.tensor([1])].zero_()
    assert Pairs(tmp_path / "pairs").read("small")["small.fc"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("index", [[-1], [0, 12], [3, 99]])
def test_rows_that_are_not_there_are_refused(tmp_path, index):
    write(tmp_path / "pairs", [12], shard_size=10)
    with pytest.raises(IndexError, match="of 12"):
        Pairs(tmp_path / "pairs").mapped("small")["small.fc"][torch.tensor(index)]


def test_a_truncated_or_missing_shard_is_refused_on_opening(tmp_path):
    write(tmp_path / "pairs", [12], shard_size=10)
    shard = tmp_path / "pairs" / "00001.safetensors"
    whole = shard.read_bytes()
    for content in (whole[:-5], whole + b"0", b""):
        shard.write_bytes(content)
        with pytest.raises(KTError, match=r"00001\.safetensors is damaged.*size.*: again"):
            Pairs(tmp_path / "pairs", "again")
    shard.unlink()
    with pytest.raises(KTError, match=r"damaged.*missing"):
        Pairs(tmp_path / "pairs")


def test_no_flipped_byte_is_read(tmp_path):
    whole = write(tmp_path / "pairs", [12], shard_size=10)
    shard = tmp_path / "pairs" / "00001.safetensors"
    content = shard.read_bytes()
    refused = 0
    for place in range(len(content)):
        shard.write_bytes(
            content[:place] + bytes([content[place] ^ 1 << place % 7]) + content[place + 1 :]
        )
        try:
            assert torch.equal(Pairs(tmp_path / "pairs").read("small")["small.fc"], whole)
        except KTError as error:
            assert "00001.safetensors" in str(error)
            refused += 1
    assert refused > 2 * 4  # at least the bytes of what is read; those of `large` are not


def test_what_is_not_read_is_not_verified(tmp_path):
    write(tmp_path / "pairs", [12], shard_size=10)
    shard = tmp_path / "pairs" / "00001.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # the last of small.fc
    store = Pairs(tmp_path / "pairs")
    store.read("large")
    store.read("small", first=10)
    for _ in range(2):
        with pytest.raises(KTError, match=r"checksum of small\.fc is not the manifest's"):
            store.mapped("small")


@pytest.mark.parametrize("limit", [10, 1000, 5000])
def test_a_full_disk_is_one_line_and_leaves_the_old_store(tmp_path, limit):
    resource = pytest.importorskip("resource")
    write(tmp_path / "pairs", [4])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # stands in for the full disk
    try:
        with pytest.raises(KTError, match=r"could not be written.*make room and run again"):
            write(tmp_path / "pairs", [500, 500])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Pairs(tmp_path / "pairs").read("small")["small.fc"].tolist() == [0, 1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["pairs"]


FLAT = """
import torch
from pathlib import Path
from benchmarks.process import peak_memory
from kt.pairs.store import write_store

def write(name, count):
    parts = ({"large.weight": torch.rand(256, 1000)} for _ in range(count // 256))
    write_store(Path(name), parts, count, {})

write("little", 2048)
before = peak_memory()
write("much", 65536 + 2048)
print(1024 * (peak_memory() - before))
"""


def test_writing_takes_the_same_memory_whatever_the_size(tmp_path):
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", FLAT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert sum(file.stat().st_size for file in (tmp_path / "much").iterdir()) > 2**28
    assert float(done.stdout) < 16  # MiB


def test_a_missing_or_senseless_manifest_is_refused(tmp_path):
    with pytest.raises(KTError, match="missing: make it first"):
        Pairs(tmp_path / "pairs", "make it first")
    (tmp_path / "pairs").mkdir()
    for text in ("", "{}", "[1]"):
        (tmp_path / "pairs" / "manifest.json").write_text(text)
        with pytest.raises(KTError, match="damaged"):
            Pairs(tmp_path / "pairs")


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.rand(100)})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(KTError, match="damaged"):
        load_tensors(path)


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.ones(3)})

    def full_disk(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(KTError, match=r"No space left on device.*make room and run again"):
        save_tensors(path, {"x": torch.zeros(3)})
    assert load_tensors(path)["x"].tolist() == [1, 1, 1]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("leftover", ["file", "link"])
def test_what_is_in_the_way_of_a_store_is_no_obstacle(leftover, tmp_path):
    building = tmp_path / ".pairs.partial"
    building.touch() if leftover == "file" else building.symlink_to("nowhere")
    whole = write(tmp_path / "pairs", [3])
    assert torch.equal(Pairs(tmp_path / "pairs").read("small")["small.fc"], whole)
    assert [path.name for path in tmp_path.iterdir()] == ["pairs"]

"""The reader: any row as tarfile reads it; every damage found and named."""

import json
import os
import pickle
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from jemb.core.errors import InputError
from jemb.core.records import Sample
from jemb.shards import Manifest, ShardReader, open_datasets, read_manifest
from tests.helpers.made_shards import write_shards


def write(folder: Path, num_samples: int = 20, shard_samples: int = 6, name: str = "data") -> Path:
    samples = [Sample(f"key{i:03d}", f"query {i} " + "x" * (i * 97 % 1_500), f"größe {i}") for i in range(num_samples)]
    return write_shards(folder, name, samples, shard_samples)


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "data")


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def place(folder: Path, shard: int, row: int) -> tuple[int, int]:
    """Payload offset and size by tarfile, not by our index."""
    with tarfile.open(folder / f"shard-{shard:06d}.tar") as tar:
        member = tar.getmembers()[row]
        return member.offset_data, member.size


def test_random_reads_equal_tarfile(folder):
    reference = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                value = json.loads(tar.extractfile(member).read())
                reference.append(Sample(member.name[:-5], value["query"], value["positive"]))
    reader = ShardReader(folder)
    assert len(reader) == len(reference) == 20
    rows = [random.Random(0).randrange(20) for _ in range(100)]
    assert [reader.read(row) for row in rows] == [reference[row] for row in rows]
    assert [reader.key(row) for row in rows] == [reference[row].key for row in rows]


@pytest.mark.parametrize("row", [-1, 20])
def test_rows_outside(folder, row):
    with pytest.raises(IndexError, match=f"row {row} .*< 20"):
        ShardReader(folder).read(row)


def test_index_is_12_bytes_a_sample_and_plain_numpy(folder):
    index = np.load(folder / "shard-000001.idx.npy", mmap_mode="r")
    assert index.dtype == np.dtype([("offset", "<u8"), ("size", "<u4")])
    assert index.dtype.itemsize == 12
    assert [tuple(entry) for entry in index] == [place(folder, 1, row) for row in range(6)]


def test_truncated_tar_is_found_on_opening(folder):
    path = folder / "shard-000001.tar"
    size = path.stat().st_size
    os.truncate(path, size - 512)
    with pytest.raises(InputError, match=rf"shard-000001\.tar: has {size - 512} bytes; .* wants {size}.*cut off"):
        ShardReader(folder)


def test_tar_truncated_after_opening_is_found_on_reading(folder):
    reader = ShardReader(folder)
    offset, size = place(folder, 0, 5)
    os.truncate(folder / "shard-000000.tar", offset + size - 1)
    with pytest.raises(InputError, match=rf"shard-000000\.tar.*'key005'.*{offset}.*{size - 1} bytes left"):
        reader.read(5)
    os.truncate(folder / "shard-000000.tar", offset - 100)
    with pytest.raises(InputError, match="412 bytes of header"):
        reader.key(5)


@pytest.mark.parametrize("name", ["shard-000002.tar", "shard-000002.idx.npy"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        ShardReader(folder)


def test_changed_tar_of_the_same_size_is_found_by_verify(tmp_path, folder):
    reader = ShardReader(folder)
    reader.verify()
    offset, _ = place(folder, 1, 2)
    path = folder / "shard-000001.tar"
    overwrite(path, path.read_bytes().index(b"query", offset + 10), b"QUERY")
    assert reader.read(8).query.startswith("QUERY 8")  # still a sample: only the checksum can tell
    wanted = reader.manifest.shards[1].sha256
    with pytest.raises(InputError, match=rf"shard-000001\.tar: sha256 is \w{{64}}; .* wants {wanted}"):
        reader.verify()


def test_verify_finds_any_flipped_bit(folder):
    path = folder / "shard-000002.tar"
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(20):
        position = draw.randrange(len(whole))
        overwrite(path, position, bytes([whole[position] ^ 1 << draw.randrange(8)]))
        with pytest.raises(InputError, match="sha256"):
            ShardReader(folder).verify()
        overwrite(path, position, whole[position : position + 1])
    ShardReader(folder).verify()


@pytest.mark.parametrize(
    ("shift", "data", "message"),
    [
        (0, b"[", "damaged sample 'key007' at byte {offset}"),
        (3, b"\xff", "damaged sample 'key007' at byte {offset}.*utf-8"),
        (2, b"Q", "'key007'.*query is missing"),
        (257 - 512, b"USTAR", "byte {offset}: no ustar header"),
        (124 - 512, b"00000000001", "byte {offset}: the header says 1 bytes, the index"),
        (124 - 512, b"zz", "byte {offset}"),
        (0 - 512, b"x.txt\0\0\0\0\0\0", "byte {offset}: member 'x.txt'"),
    ],
)
def test_damaged_sample_is_named(folder, shift, data, message):
    offset, _ = place(folder, 1, 1)
    overwrite(folder / "shard-000001.tar", offset + shift, data)
    reader = ShardReader(folder)
    with pytest.raises(InputError, match=r"shard-000001\.tar: .*" + message.format(offset=offset)):
        reader.read(7)
    assert reader.read(6).query.startswith("query 6")


def test_index_of_another_length(folder):
    index = np.load(folder / "shard-000001.idx.npy")
    np.save(folder / "shard-000001.idx.npy", index[:5])
    seen, wanted = (folder / "shard-000001.idx.npy").stat().st_size, 128 + 6 * 12
    with pytest.raises(InputError, match=rf"idx\.npy: has {seen} bytes; .* wants {wanted}"):
        ShardReader(folder)


def test_index_of_another_tar(folder):
    """Same length, same size in bytes: found when a row is read."""
    one, two = folder / "shard-000001.idx.npy", folder / "shard-000000.idx.npy"
    one.write_bytes(two.read_bytes())
    with pytest.raises(InputError, match=r"shard-000001\.tar: no sample at byte"):
        [ShardReader(folder).read(row) for row in range(6, 12)]


@pytest.mark.parametrize("entry", [(2**63, 10), (0, 10), (512, 2**32 - 1)])
def test_index_entry_outside_the_tar(folder, entry):
    index = np.load(folder / "shard-000000.idx.npy")
    index[3] = entry
    np.save(folder / "shard-000000.idx.npy", index)
    with pytest.raises(InputError, match=rf"shard-000000\.tar: .* row 3 at byte {entry[0]} with {entry[1]} bytes"):
        ShardReader(folder).read(3)


def test_verify_finds_rows_repeated_in_the_index(folder):
    index = np.load(folder / "shard-000000.idx.npy")
    index[3] = index[2]
    np.save(folder / "shard-000000.idx.npy", index)
    with pytest.raises(InputError, match="row 3 is said to have"):
        ShardReader(folder).verify()


@pytest.mark.parametrize("damage", [b"\x93NUMPX", b"\x93NUMPY\x01\x00v\x00{'descr': '|O'"])
def test_index_that_is_no_array_is_never_unpickled(folder, damage):
    overwrite(folder / "shard-000000.idx.npy", 0, damage)
    with pytest.raises(InputError, match=r"shard-000000\.idx\.npy: not an index"):
        ShardReader(folder).read(0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", 2, "version is 2; .* version 1"),
        ("kind", "quads", "kind is 'quads'; wanted one of pairs, triplets"),
        ("num_samples", 21, "num_samples is 21, .* 20"),
        ("bytes", 1, "bytes is 1, "),
        ("fingerprint", "0" * 64, "fingerprint is '000"),
        ("shards", {}, "shards is an object; wanted a list"),
        ("name", None, "name is None; wanted a text"),
    ],
)
def test_edited_manifest(folder, field, value, message):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content[field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"manifest\.json: {message}"):
        ShardReader(folder)
    del content[field]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"manifest\.json: .*{field}"):
        ShardReader(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [("file", "../shard-000000.tar"), ("file", "/etc/passwd"), ("num_samples", -1), ("bytes", True)],
)
def test_edited_shard_entry(folder, field, value):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content["shards"][1][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"manifest\.json: shards\[1\](\.|: )({field} is|names) {value!r}; wanted"):
        read_manifest(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\ud800"])
def test_damaged_manifest(folder, content):
    (folder / "manifest.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=r"manifest\.json"):
        read_manifest(folder)


class Rows(Dataset):
    """Reads rows in loader workers; says which process did."""

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, row: int) -> tuple[str, str, int]:
        sample = self.reader.read(row)
        return sample.key, sample.query, os.getpid()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_reader_in_loader_workers(folder, method):
    reader = ShardReader(folder)
    reference = [(sample.key, sample.query) for sample in reader]  # opens descriptors before the fork
    order = random.Random(1).sample(range(20), 20)
    loader = DataLoader(
        Rows(reader),
        sampler=order,
        batch_size=2,
        num_workers=2,
        multiprocessing_context=method,
        collate_fn=list,
    )
    found = [item for batch in loader for item in batch]
    assert [(key, query) for key, query, _ in found] == [reference[row] for row in order]
    workers = {pid for _, _, pid in found}
    assert len(workers) == 2
    assert os.getpid() not in workers
    assert [(sample.key, sample.query) for sample in reader] == reference


def test_pickled_reader_is_small_and_reads(folder):
    reader = ShardReader(folder)
    reader.read(0)
    data = pickle.dumps(reader)
    assert len(data) < 5_000
    assert list(pickle.loads(data)) == list(reader)


def test_many_shards_do_not_use_up_descriptors(tmp_path):
    readers = [ShardReader(write(tmp_path / name, 100, 1)) for name in "ab"]
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for reader in readers:
        assert [sample.key for sample in reader] == [f"key{i:03d}" for i in range(100)]
    assert len(os.listdir("/proc/self/fd")) - before <= 2 * 128  # noqa: PTH208


def test_open_datasets(tmp_path):
    for name in ("b", "a", "c"):
        write(tmp_path / "all" / f"folder-{name}", 3, name=name)
    (tmp_path / "all" / "dropped").mkdir()
    (tmp_path / "all" / "notes.txt").write_text("not a data set")
    (tmp_path / "all" / ".work").mkdir()
    assert list(open_datasets(tmp_path / "all")) == ["a", "b", "c"]
    assert {name: len(reader) for name, reader in open_datasets(tmp_path / "all" / "folder-b").items()} == {"b": 3}


def test_open_datasets_refuses(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        open_datasets(tmp_path / "nowhere")
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    with pytest.raises(InputError, match="empty: no data set in it"):
        open_datasets(tmp_path / "empty")
    write(tmp_path / "twice" / "x", 3, name="same")
    write(tmp_path / "twice" / "y", 3, name="same")
    with pytest.raises(InputError, match="'same'"):
        open_datasets(tmp_path / "twice")
    write(tmp_path / "foreign" / "x", 3)
    write(tmp_path / "foreign" / "y", 3, name="y")
    (tmp_path / "foreign" / "x" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"foreign/x: no manifest\.json .*jemb inspect --index"):
        open_datasets(tmp_path / "foreign")


def test_data_set_without_samples(tmp_path):
    folder = write(tmp_path / "d", 1)
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content.update(num_samples=0, bytes=0, shards=[])
    content["fingerprint"] = Manifest("data", "pairs", ()).fingerprint
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="num_samples is 0; wanted at least 1"):
        open_datasets(folder)

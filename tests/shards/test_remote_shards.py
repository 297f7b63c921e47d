"""Shards behind a URL: the same samples, each shard fetched once, a bounded cache, and networks that fail."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import multiprocessing
import os
import pickle
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from fsspec.registry import _registry

from jemb.config import TrainConfig
from jemb.core.errors import Failure, InputError
from jemb.launch import find_node
from jemb.preflight import faults_here
from jemb.shards import ShardCache, ShardReader, cache_home, open_datasets
from jemb.shards import cache as cache_module
from jemb.shards import reader as reader_module
from jemb.tables import transfer
from tests.helpers.object_store import BUCKET, FaultyProxy, bytes_on_disk, put, put_folder

SIZE, SHARD = 120, 10
_context = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """12 shards of about 10 kB, and a small data set beside them."""
    root = tmp_path_factory.mktemp("remote")
    make_dataset(root, "many", SIZE, shard_samples=SHARD)
    make_dataset(root, "few", 9)
    return root


@pytest.fixture
def stored(folder: Path, s3_port: int, request: pytest.FixtureRequest) -> str:
    """The prefix under which they lie in the bucket, another one for each test."""
    prefix = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    put_folder(s3_port, folder, prefix)
    return prefix


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.001)


def many(place: str, cache: ShardCache | None = None) -> ShardReader:
    return open_datasets(place, cache)["many"]


def web(proxy: FaultyProxy, stored: str) -> str:
    """The data set by plain HTTP, whose client tries nothing again by itself."""
    return f"{proxy.url}/{BUCKET}/{stored}/many"


@pytest.mark.slow
def test_preflight_looks_at_the_jobs_own_cache_and_says_what_it_cannot_read(
    proxy: FaultyProxy, stored: str, impatient: None, tmp_path: Path
) -> None:
    config = TrainConfig(
        shards=f"s3://{BUCKET}/{stored}", output=str(tmp_path / "run"), cache_dir=str(tmp_path / "own")
    )
    assert not [fault for fault in faults_here(config, find_node({})) if "shards" in fault]
    assert (tmp_path / "own" / "indexes").is_dir()
    assert not (cache_home() / "shards").exists()
    proxy.rate = 1.0
    assert any("cannot read the shards" in fault for fault in faults_here(config, find_node({})))


def test_an_upload_that_was_cut_off_is_not_left_out(proxy: FaultyProxy, stored: str, s3_port: int) -> None:
    put(s3_port, f"{stored}/half/half-000000.tar", b"x" * 512)
    with pytest.raises(InputError, match=rf"s3://{BUCKET}/{stored}/half: has tars but no manifest\.json"):
        open_datasets(f"s3://{BUCKET}/{stored}")


def test_the_same_samples_as_from_the_folder(folder: Path, proxy: FaultyProxy, stored: str) -> None:
    for place in (f"s3://{BUCKET}/{stored}", f"s3://{BUCKET}/{stored}/", f"file://{folder}"):
        readers, local = open_datasets(place), open_datasets(folder)
        assert list(readers) == list(local) == ["few", "many"]
        for name, reader in readers.items():
            assert list(reader) == list(local[name])
            assert [reader.key(row) for row in range(len(reader))] == [
                local[name].key(row) for row in range(len(reader))
            ]
            assert reader.manifest == local[name].manifest
            reader.verify()
    assert list(many(web(proxy, stored))) == list(many(str(folder)))
    assert list(pickle.loads(pickle.dumps(many(f"s3://{BUCKET}/{stored}"))))[5] == many(str(folder)).read(5)


def read_all(place: str, limit: float | None, seed: int, count: int = SIZE) -> None:
    """In a process of its own: samples in an order of its own."""
    reader = many(place, ShardCache(None, limit))
    for row in random.Random(seed).sample(range(SIZE), count):
        assert reader.read(row).key == f"many-{row}"


@pytest.mark.slow
def test_processes_of_a_machine_fetch_each_shard_once(folder: Path, proxy: FaultyProxy, stored: str) -> None:
    proxy.delay = 0.05  # so that they do meet
    found = [_context.Process(target=read_all, args=(f"s3://{BUCKET}/{stored}/many", None, seed)) for seed in range(3)]
    for process in found:
        process.start()
    for process in found:
        process.join()
    assert [process.exitcode for process in found] == [0] * 3
    assert proxy.sent(".tar") == sum(path.stat().st_size for path in (folder / "many").glob("*.tar"))
    assert proxy.sent(".idx.npy") == sum(path.stat().st_size for path in (folder / "many").glob("*.idx.npy"))
    before = proxy.sent(".tar")
    assert len(list(many(f"s3://{BUCKET}/{stored}/many"))) == SIZE
    assert proxy.sent(".tar") == before, "the cache outlives its processes"


@pytest.mark.slow
def test_the_limit_holds_at_every_moment(folder: Path, proxy: FaultyProxy, stored: str) -> None:
    """Three processes read in random orders through a cache of a third of the data. What lies on the disk is measured
    all the while, and nobody holds an unlinked shard open."""
    largest = max(path.stat().st_size for path in (folder / "many").glob("*.tar"))
    limit = 4 * (largest + 4096)  # a file takes whole blocks of the disk
    cache = cache_home() / "shards"
    place = f"s3://{BUCKET}/{stored}/many"
    found = [_context.Process(target=read_all, args=(place, limit / 1e9, seed, 60)) for seed in range(3)]
    for process in found:
        process.start()
    most = held = moments = 0
    while any(process.is_alive() for process in found):
        if cache.exists():
            most = max(most, bytes_on_disk(cache))
            moments += 1
        held = max([held, *(len(deleted(process.pid)) for process in found)])
        time.sleep(0.002)
    assert [process.exitcode for process in found] == [0] * 3
    assert moments > 100
    assert largest < most <= limit
    assert held <= 1, "but for the one that is being read"
    assert proxy.sent(".tar") > 2 * sum(path.stat().st_size for path in (folder / "many").glob("*.tar")), "evicted, too"
    assert not list(cache.glob("*.part"))


def test_no_shard_changes_its_name_while_files_are_counted(
    monkeypatch: pytest.MonkeyPatch, proxy: FaultyProxy, stored: str
) -> None:
    """Or the one who counts might see neither name, and give its room away once more."""
    cache = ShardCache()
    reader = many(f"s3://{BUCKET}/{stored}", cache)
    fetch, fetched, go = cache_module.fetch, threading.Event(), threading.Event()

    def late(url: str, file: BinaryIO, size: int, digest: str) -> None:
        fetch(url, file, size, digest)
        fetched.set()
        assert go.wait(60)

    def suffixes() -> set[str]:
        return {path.suffix for path in cache.folder.iterdir()} & {".part", ".tar"}

    monkeypatch.setattr(cache_module, "fetch", late)
    fetching = threading.Thread(target=reader.read, args=(0,))
    fetching.start()
    assert fetched.wait(60)
    with cache._alone():
        go.set()
        time.sleep(0.3)
        assert suffixes() == {".part"}
    fetching.join(60)
    assert suffixes() == {".tar"}


def deleted(pid: int | None) -> list[str]:
    """Unlinked shards that a process holds open."""
    try:
        links = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []
    return [link for link in links if ".tar (deleted)" in link]


@pytest.mark.slow
def test_killed_while_fetching(folder: Path, proxy: FaultyProxy, stored: str) -> None:
    """Others wait for its lock no longer than it lives; what it had fetched goes when room is needed."""
    place = f"s3://{BUCKET}/{stored}/many"
    proxy.delay = 1.0
    process = _context.Process(target=read_all, args=(place, None, 0))
    process.start()
    cache = cache_home() / "shards"
    deadline = time.monotonic() + 60
    while not (parts := [path for path in cache.glob("*.part") if path.stat().st_size]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    proxy.delay = 0.0
    left = parts[0].stat().st_size
    sizes = sorted(path.stat().st_size for path in (folder / "many").glob("*.tar"))
    assert left in sizes, "it has the room of the whole shard from the start"
    tight = ShardCache(None, 2 * sizes[-1] / 1e9)
    reader = many(place, tight)
    samples = [reader.read(row) for row in range(SIZE) if digest_of(reader, row) != parts[0].stem]
    assert len(samples) == SIZE - SHARD
    assert not parts[0].exists(), "nobody asked for that shard, so it had to go"
    assert bytes_on_disk(cache) <= 2 * (sizes[-1] + 4096)
    parts[0].write_bytes(b"x" * 77)
    assert list(reader) == list(many(str(folder))), "nor does it stand in the way of the shard itself"


def digest_of(reader: ShardReader, row: int) -> str:
    return reader.manifest.shards[row // SHARD].sha256


@pytest.mark.usefixtures("impatient")
def test_a_broken_download_goes_on_where_it_broke(
    monkeypatch: pytest.MonkeyPatch, folder: Path, proxy: FaultyProxy, stored: str
) -> None:
    monkeypatch.setattr(transfer, "BLOCK", 1000)
    reader = many(web(proxy, stored))
    proxy.fates = ["pass", "pass", "503", "drop", "cut", "pass", "500", "pass"]
    assert [reader.read(row) for row in range(SHARD)] == list(many(str(folder)))[:SHARD]
    starts = [request.start for request in proxy.seen if ".tar" in request.path]
    size = (folder / "many" / "shard-000000.tar").stat().st_size
    assert [start for start in starts if start is not None][:8] == [0, 1000, 2000, 2000, 2000, 2000, 3000, 3000]
    assert sorted(set(starts)) == list(range(0, size, 1000))
    assert len(starts) == len(range(0, size, 1000)) + 4


@pytest.mark.slow
def test_a_cut_of_seconds(folder: Path, proxy: FaultyProxy, stored: str) -> None:
    for place in (f"s3://{BUCKET}/{stored}/many", web(proxy, stored)):
        shutil.rmtree(cache_home(), ignore_errors=True)
        reader = many(place)
        proxy.down = True
        began = time.monotonic()

        def restore(seconds: float = 3.0) -> None:
            time.sleep(seconds)
            proxy.down = False

        threading.Thread(target=restore).start()
        assert reader.read(0) == many(str(folder)).read(0)
        assert time.monotonic() - began >= 2.9
    assert proxy.faults() > 2


@pytest.mark.usefixtures("impatient")
def test_a_server_that_never_answers_well(proxy: FaultyProxy, stored: str) -> None:
    reader = many(web(proxy, stored))
    before = len(proxy.seen)
    proxy.fates = ["503"] * 100
    with pytest.raises(Failure) as caught:
        reader.read(0)
    assert f"{web(proxy, stored)}/shard-000000.tar: cannot be read, after {transfer.TRIES} tries" in str(caught.value)
    assert "503" in str(caught.value)
    assert len(proxy.seen) - before == transfer.TRIES
    assert not list((cache_home() / "shards").glob("*.part"))
    proxy.fates = []
    assert reader.read(0).key == "many-0", "nothing is spoilt"


def test_what_no_try_can_mend_is_tried_once(proxy: FaultyProxy, stored: str) -> None:
    reader = many(web(proxy, stored))
    before = len(proxy.seen)
    proxy.fates = ["403"]
    with pytest.raises(InputError, match=r"/many/shard-000000\.tar: cannot be read \(.*403"):
        reader.read(0)
    with pytest.raises(InputError, match=rf"{proxy.url}/nowhere/manifest\.json: no such file"):
        open_datasets(f"{proxy.url}/nowhere")
    assert len(proxy.seen) - before == 2


@pytest.mark.usefixtures("impatient")
def test_bytes_that_changed_on_the_way(
    caplog: pytest.LogCaptureFixture, folder: Path, proxy: FaultyProxy, stored: str
) -> None:
    reader = many(web(proxy, stored))
    proxy.fates = ["corrupt"]
    with caplog.at_level(logging.WARNING):
        assert reader.read(0) == many(str(folder)).read(0)
    assert "came damaged; fetched again" in caplog.text


def test_a_shard_that_was_changed_at_its_url(proxy: FaultyProxy, s3_port: int, stored: str, folder: Path) -> None:
    reader = many(f"s3://{BUCKET}/{stored}")
    changed = bytearray((folder / "many" / "shard-000001.tar").read_bytes())
    changed[600] ^= 1
    put(s3_port, f"{stored}/many/shard-000001.tar", bytes(changed))
    wanted, found = reader.manifest.shards[1].sha256, hashlib.sha256(changed).hexdigest()
    with pytest.raises(InputError, match=rf"s3://{BUCKET}/.*/shard-000001\.tar: .* sha256 {found}; wanted .*{wanted}"):
        reader.read(SHARD)
    assert reader.read(0).key == "many-0"
    assert [path.stem for path in (cache_home() / "shards").glob("*.tar")] == [reader.manifest.shards[0].sha256]


def test_a_damaged_file_of_the_cache_is_fetched_again(proxy: FaultyProxy, stored: str) -> None:
    reader = many(f"s3://{BUCKET}/{stored}")
    samples = list(reader)
    paths = sorted((cache_home() / "shards").glob("*.tar"))
    os.truncate(paths[0], 1000)
    paths[1].unlink()
    before = proxy.sent(".tar")
    assert list(reader) == samples
    assert proxy.sent(".tar") - before == sum(path.stat().st_size for path in paths[:2])


@pytest.mark.parametrize(
    ("name", "data", "wanted"),
    [
        (
            "many/shard-000003.tar",
            b"",
            r"shard-000003\.tar: has 0 bytes; manifest\.json wants \d+: the tar was cut off",
        ),
        ("many/shard-000003.idx.npy", b"12", r"shard-000003\.idx\.npy: has 2 bytes; .* not the index"),
        ("many/manifest.json", b"{", r"many/manifest\.json: not valid JSON"),
        ("other/manifest.json", None, r"other: is named 'few' like .*few; wanted one name"),
    ],
)
def test_damage_that_is_found_on_opening(
    proxy: FaultyProxy, s3_port: int, folder: Path, stored: str, name: str, data: bytes | None, wanted: str
) -> None:
    if data is None:
        put_folder(s3_port, folder / "few", f"{stored}/other")
    else:
        put(s3_port, f"{stored}/{name}", data)
    with pytest.raises(InputError, match=wanted):
        open_datasets(f"s3://{BUCKET}/{stored}")


def test_places_without_data(proxy: FaultyProxy, stored: str) -> None:
    with pytest.raises(InputError, match=rf"s3://{BUCKET}/nothing: no data set there \(a folder with manifest\.json\)"):
        open_datasets(f"s3://{BUCKET}/nothing")
    with pytest.raises(InputError, match=r"s3://no-such-bucket"):
        open_datasets("s3://no-such-bucket/x")


def test_s3fs_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(InputError, match=r"s3://bucket/x: Install s3fs .*pip install 'jemb\[s3\]'"):
        open_datasets("s3://bucket/x", ShardCache(str(tmp_path)))


def test_a_manifest_that_would_write_elsewhere(
    proxy: FaultyProxy, s3_port: int, folder: Path, stored: str, tmp_path: Path
) -> None:
    """Names of shards and their checksums become names of files here."""
    from jemb.shards import Manifest

    manifest = Manifest.from_json(json.loads((folder / "few" / "manifest.json").read_text()), "few")
    hostile = dataclasses.replace(manifest.shards[0], sha256="../../../../tmp/x")
    text = json.dumps(dataclasses.replace(manifest, shards=(hostile,)).to_json())
    put(s3_port, f"{stored}/few/manifest.json", text.encode())
    with pytest.raises(InputError, match=r"shards\[0\]: sha256 is '\.\./.*; wanted 64 hex digits"):
        open_datasets(f"s3://{BUCKET}/{stored}")


def test_few_samples_of_much_data_are_fetched_alone(
    monkeypatch: pytest.MonkeyPatch, proxy: FaultyProxy, folder: Path, stored: str
) -> None:
    """Each tenth sample as bytes; all of them with the shards; and `jemb inspect` never takes a shard."""
    monkeypatch.setattr(reader_module, "RANGE_COST", 3000)
    reader, local = many(f"s3://{BUCKET}/{stored}"), many(str(folder))
    total = reader.manifest.bytes
    assert list(reader.spread(6)) == [local.read(row) for row in range(0, SIZE, 20)]
    assert 0 < proxy.sent(".tar") < total / 10
    assert not list((cache_home() / "shards").glob("*.tar"))
    peeking = open_datasets(f"s3://{BUCKET}/{stored}", whole_shards=False)["many"]
    assert peeking.read(7) == local.read(7)
    assert peeking.key(8) == local.key(8)
    assert not list((cache_home() / "shards").glob("*.tar"))
    assert list(reader.spread(SIZE)) == list(local)
    assert len(list((cache_home() / "shards").glob("*.tar"))) == SIZE // SHARD
    before = proxy.sent(".tar")
    assert list(reader.spread(6)) == [local.read(row) for row in range(0, SIZE, 20)]
    assert proxy.sent(".tar") == before, "what is here is not fetched"


def test_spread_reports_damage_as_before(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder / "few", tmp_path / "few")
    tar = copy / "shard-000000.tar"
    data = bytearray(tar.read_bytes())
    data[data.index(b"few-4.json") + 512] = ord("]")
    tar.write_bytes(data)
    found = list(ShardReader(copy).spread(9))
    assert [isinstance(sample, InputError) for sample in found] == [row == 4 for row in range(9)]


@pytest.mark.parametrize(
    ("gigabytes", "needed", "wanted"),
    [
        (0.001, 2 * 10**6, r"cache_gb=0\.001: the shards needed at once have 0\.002 GB; do so"),
        (10**9, 10**17, r"cache_gb=.*: the shards needed at once have 1e\+08 GB"),
        (0.001, 10**6, None),
        (None, 10**6, None),
    ],
)
def test_room_is_checked(tmp_path: Path, gigabytes: float | None, needed: int, wanted: str | None) -> None:
    check: Callable[[], None] = lambda: ShardCache(str(tmp_path), gigabytes).check(needed, "do so")  # noqa: E731
    if wanted is None:
        check()
    else:
        with pytest.raises(InputError, match=wanted):
            check()


def test_a_cache_that_cannot_be() -> None:
    with pytest.raises(InputError, match=r"cache_dir=/proc/x: cannot hold a cache"):
        ShardCache("/proc/x")

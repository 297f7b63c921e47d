"""Shards fetched before the steps that need them: in time, once a pass, and within the limit of the cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from jemb.core.records import Batch
from jemb.data import BatchPlan, Collate, PlanSource, ReadAhead, StepDataset, make_loader
from jemb.data.small import by_source
from jemb.shards import ShardCache, ShardReader, cache_home, open_datasets
from tests.data.test_loader import facts, letters
from tests.helpers.object_store import BUCKET, FaultyProxy, bytes_on_disk, put_folder
from tests.helpers.step_batches import Steps

SHARDS, SHARD, BATCH = 24, 10, 8
PASS = SHARDS * SHARD // BATCH


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """24 shards of 20 kB."""
    return make_dataset(tmp_path_factory.mktemp("ahead"), "data", SHARDS * SHARD, shard_samples=SHARD)


@pytest.fixture
def url(folder: Path, s3_port: int) -> str:
    put_folder(s3_port, folder, "ahead")
    return f"s3://{BUCKET}/ahead"


def loader(
    readers: dict[str, ShardReader],
    *,
    number: int | None,
    stop: int,
    steps: int | None = None,
    workers: int = 0,
    batch: int = BATCH,
) -> DataLoader[Batch]:
    sources = [
        PlanSource(
            name, len(reader), reader.manifest.fingerprint, 1.0, tuple(s.num_samples for s in reader.manifest.shards)
        )
        for name, reader in readers.items()
    ]
    plan = BatchPlan(sources, seed=3, global_batch_size=batch, shuffle_shards=number, small_datasets="join")
    readers = by_source(plan.sources, readers, ShardReader.joined)
    lag = 2 * workers
    ahead = ReadAhead(plan, readers, steps=steps, stop=stop, lag=lag) if steps is not None else None
    data = Steps(plan, readers, Collate(letters, 0, seed=1), ahead=ahead)
    return make_loader(data, workers, batch_size=None, sampler=range(stop))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_as_from_the_folder_within_a_small_cache(
    folder: Path, proxy: FaultyProxy, url: str, workers: int
) -> None:
    """Windows of 2 shards, a cache of 7 of 24, three passes: no shard is fetched twice in a pass, though the cache is
    always full, and what lies on the disk stays below its limit."""
    largest = max(path.stat().st_size for path in folder.glob("*.tar"))
    cache = ShardCache(None, 7 * largest / 1e9)
    remote = loader(open_datasets(url, cache), number=2, stop=3 * PASS, steps=20, workers=workers)
    local = loader(open_datasets(folder), number=2, stop=3 * PASS)
    most = 0
    for one, other in zip(remote, local, strict=True):
        assert facts(iter([one])) == facts(iter([other]))
        most = max(most, bytes_on_disk(cache.folder))
    assert 4 * largest < most <= 7 * largest
    names = [request.path.rpartition("/")[2] for request in proxy.seen if ".tar" in request.path and request.sent]
    fetches = {name: names.count(name) for name in names}
    assert len(fetches) == SHARDS
    assert max(fetches.values()) <= 3 + (workers > 0), "a slower worker may have lost one"
    assert sum(fetches.values()) <= 3 * SHARDS + 4


@pytest.mark.parametrize("number", [None, 2])
@pytest.mark.usefixtures("proxy")
def test_joined_data_sets(tmp_path: Path, make_dataset: Callable[..., Path], s3_port: int, number: int | None) -> None:
    for name, size in (("b", 33), ("a", 39)):
        put_folder(s3_port, make_dataset(tmp_path, name, size, shard_samples=10), f"two/{name}")
    local = loader(open_datasets(tmp_path), number=number, stop=5, batch=64)
    remote = loader(open_datasets(f"s3://{BUCKET}/two"), number=number, stop=5, steps=2, batch=64)
    assert facts(iter(remote)) == facts(iter(local))


def test_shards_are_here_before_they_are_asked_for(proxy: FaultyProxy, url: str) -> None:
    """Those of the 10 steps after the one that is read, and of no later ones."""
    reader = open_datasets(url)["data"]
    batches = loader({"data": reader}, number=2, stop=PASS, steps=10)
    ahead = ahead_of(batches)
    plan = ahead.plan
    try:
        for step in (0, 12):
            ahead.reached(step)
            wanted = {
                reader.manifest.shards[number].sha256
                for later in range(step + 11)
                for window in plan.windows(later)[1]
                for number in plan.window_shards("data", window).tolist()
            }
            assert len(wanted) < SHARDS
            deadline = time.monotonic() + 60
            while here() != wanted:
                assert here() <= wanted
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(0.2)
            assert here() == wanted
    finally:
        ahead.close()
    assert ".tar" in proxy.seen[-1].path


def here() -> set[str]:
    return {path.stem for path in (cache_home() / "shards").glob("*.tar")}


def test_without_windows_all_shards_are_fetched(folder: Path, proxy: FaultyProxy, url: str) -> None:
    """Any sample may come next, so the first step already asks for all."""
    batches = loader(open_datasets(url), number=None, stop=4, steps=1)
    assert facts(batches) == facts(loader(open_datasets(folder), number=None, stop=4))
    ahead = ahead_of(batches)
    ahead.reached(0)
    deadline = time.monotonic() + 60
    while len(here()) < SHARDS:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ahead.close()


def test_a_server_that_fails_while_fetching_ahead(folder: Path, proxy: FaultyProxy, url: str) -> None:
    """The step that needs the shard tries again."""
    readers = open_datasets(url)
    proxy.fates = ["403"] * 2
    remote = loader(readers, number=2, stop=PASS, steps=5)
    assert ahead_of(remote).steps == 5
    ahead_of(remote).reached(0)
    deadline = time.monotonic() + 60
    while proxy.fates:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert facts(remote) == facts(loader(open_datasets(folder), number=2, stop=PASS))


def ahead_of(batches: DataLoader[Batch]) -> ReadAhead:
    assert isinstance(batches.dataset, StepDataset)
    assert batches.dataset.ahead is not None
    return batches.dataset.ahead

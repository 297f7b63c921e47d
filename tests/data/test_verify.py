"""What a run reads is compared with its checksums: once, by one process of a machine, before a checkpoint is saved."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jemb.core.errors import InputError
from jemb.data import BatchPlan, PlanSource, Verifier
from jemb.data.small import by_source
from jemb.shards import RemoteTars, ShardCache, ShardReader, TokenReader, open_datasets
from jemb.shards.tokens import Recipe, part_path, start_tokens, write_part

BATCH, STEPS = 8, 40


@pytest.fixture
def shards(tmp_path: Path, pair_shards: Path) -> Path:
    return shutil.copytree(pair_shards, tmp_path / "shards")


def plan_of(readers: dict[str, ShardReader], shuffle_shards: int | None = None, batch: int = BATCH) -> BatchPlan:
    sources = [
        PlanSource(name, len(reader), "", shard_sizes=tuple(shard.num_samples for shard in reader.manifest.shards))
        for name, reader in readers.items()
    ]
    return BatchPlan(sources, seed=1, global_batch_size=batch, shuffle_shards=shuffle_shards, small_datasets="join")


@pytest.mark.parametrize(("shuffle_shards", "batch"), [(None, 8), (2, 8), (None, 64), (2, 64)])
def test_each_shard_once_by_one_process(
    shards: Path, shuffle_shards: int | None, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    verify = ShardReader.verify_shard

    def counted(self: ShardReader, number: int, *, fetch: bool = True) -> int:
        seen.append(Path(self.shards[number].path))
        return verify(self, number, fetch=fetch)

    monkeypatch.setattr(ShardReader, "verify_shard", counted)
    readers = open_datasets(shards)
    plan = plan_of(readers, shuffle_shards, batch)
    readers = by_source(plan.sources, readers, ShardReader.joined)
    for rank in range(3):
        assert Verifier(plan, readers, None, start=0, stop=STEPS, share=(rank, 3)).verified(STEPS)
    assert sorted(seen) == sorted(shards.glob("*/*.tar"))


def test_a_checkpoint_waits_and_training_does_not(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    verify = ShardReader.verify_shard
    monkeypatch.setattr(ShardReader, "verify_shard", lambda *args, **more: go_on.wait() and verify(*args, **more))
    readers = open_datasets(shards)
    verifier = Verifier(plan_of(readers), readers, None, start=0, stop=STEPS)
    verifier.check()
    assert not verifier.verified(1, seconds=0)
    assert verifier.verified(0, seconds=0)
    go_on.set()
    assert verifier.verified(1)
    assert verifier.verified(STEPS)


def changed(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("batch", [8, 64])
def test_a_changed_tar(shards: Path, batch: int) -> None:
    """Also one of joined data sets. The steps before the first that reads it are safe."""
    tar = changed(shards / "answers" / "shard-000002.tar")
    readers = open_datasets(shards)
    plan = plan_of(readers, batch=batch)
    before = {"answers": 0, "joined-pairs": 27}  # rows of the other data set
    batches = (plan.batch(step) for step in range(STEPS))
    first = next(i for i, (name, rows) in enumerate(batches) if ((rows - before.get(name, 99)) // 16 == 2).any())
    readers = by_source(plan.sources, readers, ShardReader.joined)
    verifier = Verifier(plan, readers, None, start=0, stop=STEPS)
    with pytest.raises(InputError, match=r"shard-000002.tar: sha256 is \w{64}; manifest.json wants \w{64}: the tar"):
        verifier.verified(STEPS)
    assert verifier.upto == first
    with pytest.raises(InputError, match=str(tar)):
        verifier.check()


@pytest.mark.parametrize("what", ["reversed", "sizes", "far", "another"])
def test_a_changed_index(shards: Path, what: str) -> None:
    path = shards / "answers" / "shard-000000.idx.npy"
    index = np.load(path)
    if what == "another":  # of a tar with the same number of samples
        shutil.copyfile(shards / "answers" / "shard-000001.idx.npy", path)
    else:
        if what == "reversed":
            index = index[::-1]
        elif what == "sizes":
            index["size"] = index["size"][::-1]
        else:
            index["offset"][3] = 2**63
        np.save(path, index)
    (reader,) = [reader for name, reader in open_datasets(shards).items() if name == "answers"]
    with pytest.raises(InputError, match=r"shard-000000\.idx\.npy: row \d+ is said to have .* the index has changed"):
        reader.verify_shard(0)
    assert reader.verify_shard(1) > 0


def test_a_changed_shard_in_the_cache(tmp_path: Path, shards: Path) -> None:
    """Of those that are not there nothing is fetched, for fetching compares them."""
    cache = ShardCache(str(tmp_path / "cache"))
    reader = ShardReader(shards / "answers", RemoteTars("https://localhost:1/answers", cache))
    infos = reader.manifest.shards
    for number in (0, 1):
        shutil.copyfile(shards / "answers" / infos[number].file, cache.folder / f"{infos[number].sha256}.tar")
    changed(cache.folder / f"{infos[1].sha256}.tar")
    assert reader.verify_shard(0, fetch=False) > infos[0].bytes
    assert reader.verify_shard(2, fetch=False) == 0
    with pytest.raises(
        InputError, match=r"shard-000001.tar: sha256 is .*its copy .* was removed; the next start fetches"
    ):
        reader.verify_shard(1, fetch=False)
    assert cache.find(infos[1]) is None


def test_an_index_that_came_damaged(tmp_path: Path, shards: Path) -> None:
    """From a URL, where nobody has a checksum of it: found by the first read, once the tar is there."""
    reversed_index = shards / "answers" / "shard-000000.idx.npy"
    np.save(reversed_index, np.load(reversed_index)[::-1])
    cache = ShardCache(str(tmp_path / "cache"))
    reader = ShardReader(shards / "answers", RemoteTars("https://localhost:1/answers", cache))
    for info in reader.manifest.shards[:2]:
        shutil.copyfile(shards / "answers" / info.file, cache.folder / f"{info.sha256}.tar")
    assert reader.read(17).key == "answers-17"
    with pytest.raises(InputError, match=r"shard-000000\.idx\.npy: row 1 is said to have"):
        reader.read(3)


def test_changed_tokens(tmp_path: Path, shards: Path, make_dataset: Callable[..., Path]) -> None:
    readers = open_datasets(make_dataset(tmp_path, "few", 20))
    reader, folder = readers["few"], tmp_path / "tokens"
    recipe = Recipe(reader.manifest.fingerprint, "tokenizer", 8, "", "")
    start_tokens(folder, recipe)
    for number, size in enumerate([16, 4]):
        texts = np.arange(2 * size + 1)
        arrays = {"ids": np.zeros(2 * size, np.uint16), "starts": texts, "first": texts[::2].astype(np.uint32)}
        write_part(folder, number, {**arrays, "hashes": texts[1:]})
    tokens = {"few": TokenReader(folder, reader.manifest, recipe)}
    verifier = Verifier(plan_of(readers), readers, tokens, start=0, stop=STEPS)
    assert verifier.verified(STEPS)
    assert verifier.bytes == sum(path.stat().st_size for path in [*tmp_path.glob("few/*.*[ry]"), *folder.glob("*.npy")])
    ids = part_path(folder, 1, "ids")
    data = ids.read_bytes()
    ids.write_bytes(data[:-1] + b"\1")
    with pytest.raises(InputError, match=r"000001.ids.npy: sha256 is \w{64}; 000001.sha256.json wants \w{64}"):
        Verifier(plan_of(readers), readers, tokens, start=0, stop=STEPS).verified(STEPS)

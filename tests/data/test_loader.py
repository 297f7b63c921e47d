"""Batches of a rank from the shards: every row once across ranks, from any step on, with any number of workers."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from jemb.core.errors import Failure, InputError
from jemb.core.records import Batch, Tokens
from jemb.data import BatchPlan, Collate, PlanSource, make_loader
from jemb.data.deal import check_sum, deal
from jemb.data.loader import loader_processes
from jemb.shards import open_datasets
from tests.helpers.step_batches import Steps

STEPS = 30


def letters(texts: Sequence[str]) -> Tokens:
    longest = max(1, max(map(len, texts)))
    ids = torch.tensor([[ord(c) for c in text] + [0] * (longest - len(text)) for text in texts])
    return Tokens(ids, (ids > 0).sum(1).numpy())


class WithPid:
    """The same, with the process that did it in the last column."""

    def __call__(self, texts: Sequence[str]) -> Tokens:
        tokens = letters(texts)
        return Tokens(torch.nn.functional.pad(tokens.input_ids, (0, 1), value=os.getpid()), tokens.lengths)


def dataset(
    shards: Path,
    rank: int = 0,
    world_size: int = 1,
    global_keys: bool = False,
    negatives: int = 0,
    balance: bool = True,
) -> Steps:
    readers = open_datasets(shards)
    sources = [PlanSource(name, len(reader), reader.manifest.fingerprint) for name, reader in readers.items()]
    plan = BatchPlan(sources, seed=1, global_batch_size=12)
    collate = Collate(letters, negatives, seed=1)
    return Steps(plan, readers, collate, rank=rank, world_size=world_size, global_keys=global_keys, balance=balance)


def steps_of(data: Steps, steps: range, workers: int = 0) -> Iterable[Batch]:
    return make_loader(data, workers, batch_size=None, sampler=steps)


def at(data: Steps, step: int) -> Batch:
    batch = data[step]
    assert isinstance(batch, Batch)
    return batch


def facts(batches: Iterable[Batch]) -> list[tuple[object, ...]]:
    return [(b.step, b.dataset, b.keys, b.query.input_ids.tolist(), b.positive_hash.tolist()) for b in batches]


@pytest.mark.parametrize("balance", [True, False])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_the_ranks_shares_are_the_batch(pair_shards: Path, world_size: int, balance: bool) -> None:
    """Every row of the plan once; in its order within each rank, and in rank order where the rows are not dealt."""
    whole = dataset(pair_shards)
    ranks = [dataset(pair_shards, rank, world_size, balance=balance) for rank in range(world_size)]
    for step in range(STEPS):
        name, rows = whole.plan.batch(step)
        expected = [whole.readers[name].read(int(row)).key for row in rows]
        parts = [at(data, step) for data in ranks]
        assert {part.dataset for part in parts} == {name}
        assert {len(part.keys) for part in parts} == {12 // world_size}
        joined = [key for part in parts for key in part.keys]
        assert sorted(joined) == sorted(expected)
        if balance:
            assert all(list(part.keys) == [key for key in expected if key in part.keys] for part in parts)
        else:
            assert joined == expected
        hashes = torch.cat([part.query_hash for part in parts])
        assert torch.equal(hashes[[joined.index(key) for key in expected]], at(whole, step).query_hash)


def test_dealt_shares_have_like_lengths(pair_shards: Path) -> None:
    """Characters are the tokens here; over 30 steps the fuller of two ranks exceeds the mean far less than undealt."""
    excess = {}
    for balance in (True, False):
        ranks = [dataset(pair_shards, rank, 2, balance=balance) for rank in range(2)]
        tokens = torch.tensor(
            [
                [int(b.query.lengths.sum() + b.positive.lengths.sum()) for b in (at(d, s) for d in ranks)]
                for s in range(STEPS)
            ]
        )
        excess[balance] = float((tokens.max(1).values / tokens.double().mean(1)).mean() - 1)
    assert excess[True] < excess[False] / 4


def test_check_sums_tell_a_rank_with_other_data(tmp_path: Path, pair_shards: Path) -> None:
    """Alike on all ranks, they add up; with an index whose sizes differ on one rank they do not, but for chance."""
    ranks = [dataset(pair_shards, rank, 3) for rank in range(3)]
    other = shutil.copytree(pair_shards, tmp_path / "other")
    for path in other.glob("*/*.idx.npy"):
        index = np.load(path)
        index["size"] = index["size"][::-1]
        np.save(path, index)
    strange = dataset(other, 1, 3).sizes
    found = 0
    for step in range(STEPS):
        batches = [at(data, step) for data in ranks]
        (expected,) = {batch.batch_sum for batch in batches}
        assert sum(batch.share_sum for batch in batches) % 2**32 == expected
        assert batches[0].share_sum != batches[1].share_sum
        name, rows = ranks[1].plan.batch(step)
        share = rows[deal(strange[name](rows), 1, 3)]
        if sorted(share) != sorted(rows[deal(ranks[1].sizes[name](rows), 1, 3)]):
            found += 1
            sums = [batches[0].share_sum, check_sum(step, name, share), batches[2].share_sum]
            assert sum(sums) % 2**32 != expected
    assert found > STEPS / 2


def test_global_keys(pair_shards: Path) -> None:
    for balance in (True, False):
        half = at(dataset(pair_shards, 1, 2, global_keys=True, balance=balance), 5)
        assert half.keys == at(dataset(pair_shards), 5).keys
        assert len(half.query_hash) == 6


def test_negatives_are_the_same_on_any_number_of_ranks(triplet_shards: Path) -> None:
    def of(batch: Batch) -> dict[str, list[int]]:
        assert batch.negative_hash is not None
        return dict(zip(batch.keys, batch.negative_hash.view(-1, 2).tolist(), strict=True))

    whole = of(at(dataset(triplet_shards, negatives=2), 3))
    parts = [of(at(dataset(triplet_shards, rank, 3, negatives=2), 3)) for rank in range(3)]
    assert {key: hashes for part in parts for key, hashes in part.items()} == whole


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("start", [0, 1, 17, STEPS])
def test_from_any_step_on_with_any_workers(pair_shards: Path, workers: int, start: int) -> None:
    data = dataset(pair_shards, 1, 2)
    loader = steps_of(data, range(start, STEPS), workers)
    assert facts(loader) == facts(iter([at(data, step) for step in range(start, STEPS)]))
    assert facts(loader) == facts(loader), "can be gone through again"


def test_workers_do_the_work(pair_shards: Path) -> None:
    data = dataset(pair_shards)
    data.collate = Collate(WithPid(), 0, seed=1)
    processes = {int(batch.query.input_ids[0, -1]) for batch in steps_of(data, range(8), 2)}
    assert len(processes) == 2
    assert os.getpid() not in processes


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_sample_is_reported_clearly(tmp_path: Path, pair_shards: Path, workers: int) -> None:
    """As InputError with the reader's words, not as a worker's traceback; the batches before it come whole."""
    folder = shutil.copytree(pair_shards / "answers", tmp_path / "answers")
    clean = dataset(pair_shards / "answers")
    row = int(clean.plan.batch(3)[1][0])
    good = [step for step in range(3) if row not in clean.plan.batch(step)[1]]
    tar = folder / f"shard-{row // 16:06d}.tar"
    data = bytearray(tar.read_bytes())
    place = data.index(clean.readers["answers"].key(row).encode() + b".json") + 512
    data[place : place + 2] = b"]]"
    tar.write_bytes(data)
    batches = iter(steps_of(dataset(folder), range(9), workers))
    assert facts(iter([next(batches) for _ in good])) == facts(iter([at(clean, step) for step in good]))
    with pytest.raises(InputError, match=rf"{tar}: damaged sample") as caught:
        list(batches)
    assert "Traceback" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_bug_is_not_swallowed(pair_shards: Path) -> None:
    """Only errors of the input are carried over as values."""
    data = dataset(pair_shards)
    data.collate = Collate(lambda texts: 1 / 0, 0, seed=1)
    with pytest.raises(ZeroDivisionError):
        data[0]


def test_a_process_that_dies_while_its_batch_is_taken_over_is_one_message(pair_shards: Path) -> None:
    """What it has sent already are handles, for which the reader has to ask it."""
    batches = iter(steps_of(dataset(pair_shards), range(4), workers=1))
    next(batches)
    (worker,) = batches._workers  # type: ignore[attr-defined]
    while batches._worker_result_queue.empty():  # type: ignore[attr-defined]
        time.sleep(0.01)
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join()
    with pytest.raises(Failure, match="a loader process was killed"), loader_processes():
        list(batches)

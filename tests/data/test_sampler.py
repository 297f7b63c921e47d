"""The batch sampler in the loops of others: one data set in each global batch, each sample once in a pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import ConcatDataset, DataLoader

import jemb
from jemb.core.errors import InputError
from jemb.core.records import Batch, Sample
from jemb.data import BatchPlan, GlobalBatchSampler, PlanSource
from jemb.model import load_encoder
from tests.helpers import loops
from tests.helpers.loops import BATCH, SIZES, Seen
from tests.helpers.made_shards import write_shards
from tests.helpers.ranks import on_ranks

STEPS = sum(SIZES.values()) // BATCH
"""Of a pass over all samples."""


def check(ranks: list[Seen], steps: int = 2 * STEPS, sizes: dict[str, int] = SIZES) -> None:
    """ranks: by rank, the samples of each step."""
    assert {len(seen) for seen in ranks} == {steps}
    drawn: dict[str, Counter[str]] = {name: Counter() for name in sizes}
    for shares in zip(*ranks, strict=True):
        assert {len(share) for share in shares} == {BATCH // len(ranks)}
        together = [sample for share in shares for sample in share]
        assert len(set(together)) == BATCH
        (name,) = {sample.rpartition("-")[0] for sample in together}
        drawn[name].update(together)
    for name, counts in drawn.items():
        assert max(counts.values()) - min(counts[f"{name}-{n}"] for n in range(sizes[name])) <= 1, "a pass is whole"


def samples(sampler: GlobalBatchSampler) -> Seen:
    data = ConcatDataset([loops.names(name) for name in SIZES])
    return [list(batch) for batch in DataLoader(data, batch_sampler=sampler)]


def make(**options: Any) -> GlobalBatchSampler:
    return GlobalBatchSampler(SIZES, global_batch_size=BATCH, seed=3, **options)


def test_shares_of_the_ranks() -> None:
    lengths = {name: lambda rows: 1 + rows % 7 for name in SIZES}
    for world_size in (1, 2, 4):
        for more in ({}, {"lengths": lengths}):
            ranks = [make(rank=rank, world_size=world_size, steps=2 * STEPS, **more) for rank in range(world_size)]
            check([samples(sampler) for sampler in ranks])
    whole = [sorted(batch) for batch in samples(make())]
    parts = [samples(make(rank=rank, world_size=2, lengths=lengths)) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == whole, "the same samples on any number of processes"


def test_iterations_follow_each_other() -> None:
    sampler, long = make(), samples(make(steps=3 * STEPS))
    assert len(sampler) == STEPS
    assert samples(sampler) + samples(sampler) + samples(sampler) == long
    sampler.set_epoch(1)
    assert samples(sampler) == long[STEPS : 2 * STEPS]
    assert samples(make(start=5)) == long[5 : 5 + STEPS]
    assert samples(make(start=lambda: STEPS + 5)) == long[STEPS + 5 : 2 * STEPS], "the rest of that one"


def test_of_a_plan() -> None:
    plan = BatchPlan([PlanSource(name, size, "f", 2.0) for name, size in SIZES.items()], seed=1, global_batch_size=4)
    for step, rows in enumerate(GlobalBatchSampler(plan)):
        name, numbers = plan.batch(step)
        assert (rows.dataset, rows.step) == (name, step)
        assert np.array_equal(rows.rows, numbers)
        assert list(rows) == (numbers + {"a": 0, "b": 56, "c": 96}[name]).tolist()
    with pytest.raises(InputError, match="a plan has its own"):
        GlobalBatchSampler(plan, seed=3)
    with pytest.raises(InputError, match="no data set d"):
        make(weights={"d": 2})
    with pytest.raises(InputError, match="cannot be divided among 3 processes"):
        iter(make(rank=0, world_size=3))


def test_data_sets_smaller_than_the_batch() -> None:
    sampler = GlobalBatchSampler({"a": 100, "b": 40}, global_batch_size=64, world_size=2, rank=0)
    assert sampler.batch_size is None
    assert {(rows.dataset, 2 * len(rows)) for rows in sampler} == set(sampler.plan.batch_sizes.items())


def test_batches_are_not_dealt_out_twice() -> None:
    """By the class that Accelerate and the trainers built on it put around a sampler."""
    ranks = [list(BatchSamplerShard(make(rank="all", world_size=2), 2, rank)) for rank in range(2)]
    assert ranks == [list(make(rank=rank, world_size=2)) for rank in range(2)]
    with pytest.raises(InputError, match='rank="all"'):
        list(BatchSamplerShard(make(rank=0, world_size=2), 2, 0))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("loops")
    for name, size in SIZES.items():
        make_dataset(folder, name, size)
    return folder


@pytest.mark.slow
def test_in_a_plain_loop(tmp_path: Path) -> None:
    check(on_ranks(tmp_path, 2, loops.plain))


@pytest.mark.slow
def test_in_accelerate(tmp_path: Path) -> None:
    check(on_ranks(tmp_path, 2, loops.accelerated))


def test_in_the_trainer_of_sentence_transformers(tmp_path: Path, t5_folder: Path) -> None:
    load_encoder(str(t5_folder)).save(tmp_path / "model")
    check(on_ranks(tmp_path, 2, loops.sentence_transformers, tmp_path / "model", tmp_path / "out"))


def test_in_a_trainer_of_lightning(tmp_path: Path, shards: Path) -> None:
    """Over two epochs; and, stopped in the second one, on from where it was, in another number of processes too."""
    ranks = on_ranks(tmp_path, 2, loops.lightning, shards, tmp_path / "ckpt", STEPS + 5)
    check(ranks)
    rest = loops.lightning(shards, tmp_path / "ckpt")
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)][STEPS + 5 :] == [sorted(batch) for batch in rest]


def test_batches_of_tokens_without_a_trainer(shards: Path, t5_folder: Path) -> None:
    data = jemb.PairData(shards, global_batch_size=BATCH, encoder=load_encoder(str(t5_folder)), workers=0, steps=3)
    batches = list(data.train_dataloader())
    assert [batch.step for batch in batches] == [0, 1, 2]
    assert all(isinstance(batch, Batch) and batch.negatives is None for batch in batches)
    assert len(batches[0].query.input_ids) == BATCH
    with pytest.raises(InputError, match=r"give encoder=…, .* or collate_fn=…"):
        jemb.PairData(shards, global_batch_size=BATCH).train_dataloader()
    with pytest.raises(InputError, match=r"weights\.d: no such data set"):
        jemb.PairData(shards, global_batch_size=BATCH, weights={"d": 2}, collate_fn=list).train_dataloader()
    with pytest.raises(InputError, match="tokens=ids has ids in place of texts"):
        jemb.PairData(shards, tokens="ids", collate_fn=list)


def test_samples_in_a_loop_have_all_that_was_said_of_them(tmp_path: Path) -> None:
    said: dict[str, Any] = {"score": 0.0, "label": "x", "scores": (2.0, 1.0, None)}
    write_shards(tmp_path / "d", "d", [Sample(k, "q", "p", ("n",), more_positives=("r",), **said) for k in "01"])
    ((sample, _),) = jemb.PairData(tmp_path / "d", global_batch_size=2, workers=0, collate_fn=list).train_dataloader()
    assert sample | {"key": "0"} == said | {
        "key": "0", "dataset": "d", "query": "q", "positive": "p", "positives": ["p", "r"], "negatives": ["n"],
        "scores": [2.0, 1.0, None],
    }  # fmt: skip


def test_loader_processes_by_device_and_cores(pair_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One, and for a GPU as many as each training process has cores for beside its own."""
    data: Any = jemb.PairData(pair_shards, global_batch_size=BATCH)
    assert data.num_workers == 1
    for device, cores, devices, expected in [
        ("cpu", 64, 1, 1), ("cuda", 16, 1, 4), ("cuda", 16, 8, 1), ("cuda", 24, 8, 2), ("cuda", 1, 1, 1),
    ]:  # fmt: skip
        monkeypatch.setattr("jemb.data.module.usable_cores", lambda cores=cores: cores)
        data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)), num_devices=devices)
        assert data.num_workers == expected
    data.workers = 0
    assert data.num_workers == 0

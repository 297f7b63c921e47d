"""What a loader process does: the samples or the batch of what a sampler names, from plan, readers and tokens alone.

Before: `sampler.py` says which rows of which step this rank has. After: `module.py` gives the loader to a Trainer,
which keeps no position of it: that is the step, and a loader begins there.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

from torch.utils.data import DataLoader, Dataset

from jemb.core.errors import Failure
from jemb.core.records import Batch
from jemb.data.ahead import ReadAhead
from jemb.data.collate import Collate
from jemb.data.joined import rows_of, tokens_of
from jemb.data.plan import BatchPlan
from jemb.data.sampler import GlobalBatchSampler, StepRows
from jemb.launch import obey_parent_alone
from jemb.shards import ShardReader, TokenReader


class StepDataset(Dataset[Batch]):
    """Step number, or what a `GlobalBatchSampler` gives for it -> this rank's batch, its rows in plan order.

    balance: the rows are dealt by length, so that all ranks get nearly as many tokens; else rank r gets slice r.
    global_keys: the batch carries the keys of the whole global batch.
    ahead: fetches the remote shards of the steps to come, told here which step it is.
    tokens: stored token ids of every data set, which take the place of reading texts; the batches are the same.
    """

    def __init__(
        self,
        plan: BatchPlan,
        readers: Mapping[str, ShardReader],
        collate: Collate,
        *,
        rank: int = 0,
        world_size: int = 1,
        global_keys: bool = False,
        balance: bool = True,
        ahead: ReadAhead | None = None,
        tokens: Mapping[str, TokenReader] | None = None,
    ) -> None:
        plan.check_processes(world_size)
        self.plan, self.collate = plan, collate
        self.readers = {source.name: rows_of(source, readers) for source in plan.sources}
        self.sizes = {name: reader.sizes for name, reader in self.readers.items()}
        self.sampler = GlobalBatchSampler(
            plan, rank=rank, world_size=world_size, lengths=self.sizes if balance else None
        )
        self.rank, self.world_size = rank, world_size
        self.global_keys, self.ahead = global_keys, ahead
        self.tokens = {source.name: tokens_of(source, tokens) for source in plan.sources} if tokens else {}

    def __len__(self) -> int:
        """Samples of all data sets: what Lightning asks before it makes the sampler anew for several processes."""
        return self.plan.num_samples

    def __getitem__(self, step: int) -> Batch:
        return self.__getitems__(self.sampler.share(step, self.rank, self.world_size))

    def __getitems__(self, rows: StepRows) -> Batch:
        step, name, mine = rows.step, rows.dataset, rows.rows
        if self.ahead:
            self.ahead.reached(step)
        reader = self.readers[name]
        samples = [] if self.tokens else [reader.read(row) for row in mine.tolist()]
        own = keys = [sample.key for sample in samples] or [reader.key(row) for row in mine.tolist()]
        if self.global_keys and len(mine) < self.plan.batch_sizes[name]:
            keys = [reader.key(row) for row in self.plan.batch(step)[1].tolist()]
        if self.tokens:
            batch = self.collate.from_tokens(step, name, self.tokens[name], mine, own, keys)
        else:
            batch = self.collate(step, name, samples, keys)
        batch.share_sum, batch.batch_sum = rows.share_sum, rows.batch_sum
        return batch


class RowDataset(Dataset[dict[str, Any]]):
    """The samples of all data sets of a plan, one data set after the other, as dictionaries."""

    def __init__(self, plan: BatchPlan, readers: Mapping[str, ShardReader]) -> None:
        self.parts = {source.name: rows_of(source, readers) for source in plan.sources}
        self.names = [source.name for source in plan.sources]
        self.ends = list(accumulate(source.num_samples for source in plan.sources))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, place: int) -> dict[str, Any]:
        number = bisect_right(self.ends, place)
        name, start = self.names[number], self.ends[number - 1] if number else 0
        sample = self.parts[name].read(place - start)
        return {
            "key": sample.key,
            "dataset": name,
            "query": sample.query,
            "positive": sample.positive,
            **({"negatives": list(sample.negatives)} if sample.negatives else {}),
        }


def make_loader(dataset: Dataset[Any], workers: int, **sampling: Any) -> DataLoader[Any]:
    """A torch loader with so many processes. sampling: what says which batches; a `Batch` stays what it is."""
    return DataLoader(
        dataset,
        num_workers=workers,
        worker_init_fn=start_worker,
        # Where another method is the default, each worker would import torch and Lightning first.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        **{"collate_fn": _as_it_is, **sampling},
    )


def _as_it_is(batch: Any) -> Any:
    return batch


@contextmanager
def loader_processes() -> Iterator[None]:
    """One that is killed inside the block becomes a `Failure`: torch raises its own error wherever the trainer is."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise Failure(
            "a loader process was killed, perhaps by the system for lack of memory: the same command continues from "
            "the last checkpoint, with workers=0 in the training process itself"
        ) from None


def start_worker(number: int) -> None:
    """A loader process begins."""
    obey_parent_alone()
    # The tokenizer's threads do not survive a fork, and this process is one thread of many already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

"""Which rows each process gets in each step: a torch batch sampler over a `BatchPlan`, for any loop; and their batch.

Before: `plan.py` names the rows of a global batch. After: a `DataLoader` has the batch of this process. All rows of a
step are of one data set, over all processes together; that is what negatives are shared over.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sized
from itertools import accumulate
from typing import Any, Literal

import torch.distributed as dist
from torch.utils.data import BatchSampler, Dataset

from jemb.core.errors import InputError
from jemb.core.records import Batch
from jemb.data.ahead import ReadAhead
from jemb.data.collate import Collate
from jemb.data.deal import Numbers, check_sum, deal
from jemb.data.plan import BatchPlan
from jemb.data.small import PlanSource
from jemb.shards import ShardReader, TokenReader


class StepRows(list[int]):
    """Rows of one process in one step, as places in all data sets one after the other.

    step: from 0. dataset: the one that all are of. rows: their numbers in it. share_sum, batch_sum: check sums of these
    rows and of those of all processes; 0 where they are not dealt by length. A list, so that any DataLoader takes it.
    """

    def __init__(self, start: int, rows: Numbers, step: int, dataset: str, sums: tuple[int, int] = (0, 0)) -> None:
        super().__init__((start + rows).tolist())
        self.step, self.dataset, self.rows = step, dataset, rows
        self.share_sum, self.batch_sum = sums


class GlobalBatchSampler(BatchSampler):
    """Batches for a `DataLoader` such that in each step all processes together have samples of one data set, each
    sample once in a pass; a function of the seed and the step alone, so that the same samples meet on any number of
    processes.

    data: a `BatchPlan`; or the data sets (or their sizes) by name, in the order in which the loader's data set has them
    (`torch.utils.data.ConcatDataset(data.values())`), with global_batch_size, seed and weights (`BatchPlan`).
    rank, world_size: of this process; None: those of torch.distributed, (0, 1) without. rank="all": the shares of all
    processes one after the other, for loops that deal batches out by themselves, as Accelerate does.
    start: the step to begin with, or a function that says so when an iteration begins. steps: in an iteration; None:
    one pass over the samples. An iteration begins behind the one before it, or where `set_epoch` says.
    lengths: of the rows of a data set, in any unit: they are dealt to the processes so that all get nearly as much.
    sampler: has no meaning; Lightning gives one when it makes the sampler anew for several processes.
    Raises InputError where the batch cannot be divided among the processes.
    """

    def __init__(
        self,
        data: BatchPlan | Mapping[str, int | Sized],
        *,
        global_batch_size: int | None = None,
        seed: int = 0,
        weights: Mapping[str, float] | None = None,
        rank: int | Literal["all"] | None = None,
        world_size: int | None = None,
        start: int | Callable[[], int] = 0,
        steps: int | None = None,
        lengths: Mapping[str, Callable[[Numbers], Numbers]] | None = None,
        sampler: Any = None,
    ) -> None:
        if isinstance(data, BatchPlan):
            if global_batch_size is not None or weights or seed:
                raise InputError("a plan has its own global_batch_size, seed and weights: give them there")
            self.plan = data
            sizes = {source.name: source.num_samples for source in data.sources}
        else:
            sizes = {name: size if isinstance(size, int) else len(size) for name, size in data.items()}
            self.plan = _plan(sizes, global_batch_size, seed, weights or {})
        self.starts = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))
        self.steps = steps or self.plan.steps_of_a_pass
        self.rank, self.world_size, self.start, self.lengths = rank, world_size, start, lengths
        self.drop_last, self.epoch = True, 0
        self.sampler: Any = self  # loops look for `batch_sampler.sampler.set_epoch`

    @property
    def batch_size(self) -> int | None:  # type: ignore[override]
        """Rows of a process in a step; None where data sets smaller than the global batch have fewer."""
        sizes = set(self.plan.batch_sizes.values())
        return sizes.pop() // self._place()[1] if len(sizes) == 1 else None

    def __len__(self) -> int:
        return self.steps * (self._place()[1] if self.rank == "all" else 1)

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is that one, counted from 0; of no effect where `start` is a function."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[StepRows]:
        if self.rank != "all" and sys._getframe(1).f_globals.get("__name__") == "accelerate.data_loader":
            raise InputError('Accelerate deals batches out by itself: give GlobalBatchSampler(…, rank="all")')
        epoch, self.epoch = self.epoch, self.epoch + 1
        first = self.start() if callable(self.start) else self.start + epoch * self.steps
        # Where a start is in the middle of an iteration, as after a resume, that one is ended.
        last = first + self.steps - first % self.steps if callable(self.start) else first + self.steps
        rank, world_size = self._place()
        ranks = range(world_size) if rank == "all" else [rank]
        return (self.share(step, number, world_size) for step in range(first, last) for number in ranks)

    def share(self, step: int, rank: int, world_size: int) -> StepRows:
        """What `rank` of `world_size` processes gets in `step`."""
        name, rows = self.plan.batch(step)
        if self.lengths is None or world_size == 1:
            size = len(rows) // world_size
            return StepRows(self.starts[name], rows[rank * size : (rank + 1) * size], step, name)
        mine = rows[deal(self.lengths[name](rows), rank, world_size)]
        return StepRows(self.starts[name], mine, step, name, (check_sum(step, name, mine), check_sum(step, name, rows)))

    def _place(self) -> tuple[int | Literal["all"], int]:
        """(rank, number of processes)."""
        known = dist.is_available() and dist.is_initialized()
        rank = self.rank if self.rank is not None else dist.get_rank() if known else 0
        world_size = self.world_size or (dist.get_world_size() if known else 1)
        self.plan.check_processes(world_size)
        return rank, world_size


class StepDataset(Dataset[Batch]):
    """What a `GlobalBatchSampler` gives for a step -> this rank's batch, its rows in plan order.

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
        global_keys: bool = False,
        ahead: ReadAhead | None = None,
        tokens: Mapping[str, TokenReader] | None = None,
    ) -> None:
        self.plan, self.readers, self.collate = plan, readers, collate
        self.global_keys, self.ahead, self.tokens = global_keys, ahead, tokens

    def __len__(self) -> int:
        """Samples of all data sets: what Lightning asks before it makes the sampler anew for several processes."""
        return self.plan.num_samples

    def __getitems__(self, rows: StepRows) -> Batch:
        step, name, mine = rows.step, rows.dataset, rows.rows
        if self.ahead:
            self.ahead.reached(step)
        reader = self.readers[name]
        read = not self.tokens or self.collate.reads_samples(name)
        samples = [reader.read(row) for row in mine.tolist()] if read else []
        own = keys = [sample.key for sample in samples] or [reader.key(row) for row in mine.tolist()]
        if self.global_keys and len(mine) < self.plan.batch_sizes[name]:
            keys = [reader.key(row) for row in self.plan.batch(step)[1].tolist()]
        if self.tokens:
            batch = self.collate.from_tokens(step, name, self.tokens[name], mine, own, keys, samples)
        else:
            batch = self.collate(step, name, samples, keys)
        batch.share_sum, batch.batch_sum = rows.share_sum, rows.batch_sum
        return batch


def for_sentence_transformers(
    dataset: Any, batch_samplers: list[BatchSampler], generator: Any = None, seed: int = 0
) -> GlobalBatchSampler:
    """A `GlobalBatchSampler` for the trainer of sentence-transformers, as
    `SentenceTransformerTrainingArguments(multi_dataset_batch_sampler=for_sentence_transformers)`: then its processes
    have one data set in each step, each with `per_device_train_batch_size` samples of it."""
    place = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    sizes = {f"{number:06d}": len(part) for number, part in enumerate(dataset.datasets)}
    size = getattr(batch_samplers[0], "batch_size", 1) * place
    return GlobalBatchSampler(sizes, global_batch_size=size, seed=seed, rank="all", world_size=place)


def _plan(
    sizes: Mapping[str, int], global_batch_size: int | None, seed: int, weights: Mapping[str, float]
) -> BatchPlan:
    if global_batch_size is None:
        raise InputError("GlobalBatchSampler: global_batch_size is missing")
    if strangers := sorted(set(weights) - set(sizes)):
        raise InputError(f"weights: no data set {strangers[0]}; there are: {', '.join(sizes)}")
    sources = [PlanSource(name, size, str(size), weights.get(name, 1.0)) for name, size in sizes.items()]
    return BatchPlan(sources, seed=seed, global_batch_size=global_batch_size)

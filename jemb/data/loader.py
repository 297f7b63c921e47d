"""Batches of one rank, from any step on. Plan and readers decide everything; a worker is sent only a step number.

Lightning's own loader state is not used (it is lost or replaced by rank 0's on resume in several versions): the
position is the step in the checkpoint, and the loader is built to begin there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch.utils.data import DataLoader, Dataset

from jemb.core.errors import Failure
from jemb.core.records import Batch
from jemb.data.ahead import ReadAhead
from jemb.data.collate import Collate
from jemb.data.joined import rows_of, tokens_of
from jemb.data.plan import BatchPlan
from jemb.data.sampler import GlobalBatchSampler, StepRows
from jemb.data.verify import Verifier
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
        self.global_keys = global_keys
        self.ahead = ahead
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
        if self.global_keys and self.world_size > 1:
            keys = [reader.key(row) for row in self.plan.batch(step)[1].tolist()]
        if self.tokens:
            batch = self.collate.from_tokens(step, name, self.tokens[name], mine, own, keys)
        else:
            batch = self.collate(step, name, samples, keys)
        batch.share_sum, batch.batch_sum = rows.share_sum, rows.batch_sum
        return batch


class StepLoader:
    """Iterates over the batches of steps `start`, start + 1, …, `stop` - 1; `len` counts from step 0.

    verifier: asked with each batch whether what was read has changed on the disk.
    Deliberately no torch DataLoader: Lightning re-creates those with samplers of its own. The length makes Lightning's
    fetcher stop in time instead of reading one batch ahead, and counts from 0 as Lightning's own batch counter does.
    """

    def __init__(
        self, dataset: StepDataset, *, start: int, stop: int, workers: int, verifier: Verifier | None = None
    ) -> None:
        self.dataset, self.start, self.stop, self.workers = dataset, start, stop, workers
        self.verifier = verifier

    def __len__(self) -> int:
        return self.stop

    def verified(self, step: int) -> bool:
        """Whether what the steps before `step` read has been verified, as far as it is this process's part."""
        return self.verifier is None or self.verifier.verified(step)

    def __iter__(self) -> Iterator[Batch]:
        loader: DataLoader[Batch] = DataLoader(
            self.dataset,
            batch_size=None,
            sampler=range(self.start, self.stop),
            num_workers=self.workers,
            worker_init_fn=start_worker,
            # Where another method is the default, each worker would import torch and Lightning first.
            multiprocessing_context="fork" if self.workers and sys.platform == "linux" else None,
        )
        try:
            for batch in loader:
                if self.verifier:
                    self.verifier.check()
                yield batch
        finally:
            if self.dataset.ahead:
                self.dataset.ahead.close()


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

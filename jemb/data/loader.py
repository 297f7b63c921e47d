"""Batches of one rank, from any step on. Plan and readers decide everything; a worker is sent only a step number.

Lightning's own loader state is not used (it is lost or replaced by rank 0's on resume in several versions): the
position is the step in the checkpoint, and the loader is built to begin there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping

from torch.utils.data import DataLoader, Dataset

from jemb.data.collate import Collate
from jemb.data.plan import BatchPlan
from jemb.errors import InputError
from jemb.records import Batch
from jemb.shards import ShardReader


class StepDataset(Dataset[Batch | InputError]):
    """Step number -> this rank's batch. The rank's rows are its slice of the global batch, in plan order."""

    def __init__(
        self,
        plan: BatchPlan,
        readers: Mapping[str, ShardReader],
        collate: Collate,
        *,
        rank: int,
        world_size: int,
        global_keys: bool,
    ) -> None:
        if plan.global_batch_size % world_size:
            raise InputError(
                f"global_batch_size={plan.global_batch_size} cannot be divided among {world_size} processes: "
                f"use a multiple of {world_size}"
            )
        self.plan, self.readers, self.collate = plan, readers, collate
        self.global_keys = global_keys
        size = plan.global_batch_size // world_size
        self.slice = slice(rank * size, (rank + 1) * size)

    def __getitem__(self, step: int) -> Batch | InputError:
        """An error is returned, not raised: a loader process would wrap its message in a traceback."""
        try:
            name, rows = self.plan.batch(step)
            reader = self.readers[name]
            samples = [reader.read(int(row)) for row in rows[self.slice]]
            keys = [reader.key(int(row)) for row in rows] if self.global_keys else [s.key for s in samples]
            return self.collate(step, name, samples, keys)
        except InputError as error:
            return error


class StepLoader:
    """Iterates over the batches of steps `start`, start + 1, …, `stop` - 1; `len` counts from step 0.

    Deliberately no torch DataLoader: Lightning re-creates those with samplers of its own. The length makes Lightning's
    fetcher stop in time instead of reading one batch ahead, and counts from 0 as Lightning's own batch counter does.
    """

    def __init__(self, dataset: StepDataset, *, start: int, stop: int, workers: int) -> None:
        self.dataset, self.start, self.stop, self.workers = dataset, start, stop, workers

    def __len__(self) -> int:
        return self.stop

    def __iter__(self) -> Iterator[Batch]:
        loader: DataLoader[Batch | InputError] = DataLoader(
            self.dataset,
            batch_size=None,
            sampler=range(self.start, self.stop),
            num_workers=self.workers,
            worker_init_fn=_start_worker,
            # Where another method is the default, each worker would import torch and Lightning first.
            multiprocessing_context="fork" if self.workers and sys.platform == "linux" else None,
        )
        for batch in loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch


def _start_worker(number: int) -> None:
    # A signal to the whole process group (Ctrl-C, Slurm) is for the trainer, which still needs batches to stop well.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)
    # The tokenizer's threads do not survive a fork, and this process is one thread of many already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

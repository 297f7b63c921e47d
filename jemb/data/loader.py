"""Loader processes, and samples as dictionaries for those who make batches of them by themselves.

Before: `sampler.py` says which rows of which step this rank has, and makes batches of them. After: `module.py` gives
the loader to a Trainer, which keeps no position of it: that is the step, and a loader begins there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

from torch.utils.data import DataLoader, Dataset

from jemb.core.errors import Failure
from jemb.data.sampler import StepRows
from jemb.launch import obey_parent_alone
from jemb.shards import ShardReader


class RowDataset(Dataset[list[dict[str, Any]]]):
    """What a `GlobalBatchSampler` gives for a step -> this rank's samples as dictionaries."""

    def __init__(self, readers: Mapping[str, ShardReader]) -> None:
        self.readers = readers

    def __len__(self) -> int:
        return sum(map(len, self.readers.values()))

    def __getitems__(self, rows: StepRows) -> list[dict[str, Any]]:
        samples = map(self.readers[rows.dataset].read, rows.rows.tolist())
        return [
            {
                "key": sample.key,
                "dataset": rows.dataset,
                "query": sample.query,
                "positive": sample.positive,
                **({"positives": list(sample.positives)} if sample.more_positives else {}),
                **({"negatives": list(sample.negatives)} if sample.negatives else {}),
                **{name: value for name in ("score", "label") if (value := getattr(sample, name)) is not None},
                **({"scores": list(sample.scores)} if sample.scores else {}),
            }
            for sample in samples
        ]


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
    """One that is killed inside the block becomes a `Failure`: torch raises its own error wherever the trainer is, and
    multiprocessing another where the process dies while its batch is taken over."""
    try:
        yield
    except (RuntimeError, EOFError, OSError) as error:
        passed = [frame.f_globals.get("__name__") for frame, _ in walk_tb(error.__traceback__)]
        if "DataLoader worker" not in str(error) and "multiprocessing.resource_sharer" not in passed:
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

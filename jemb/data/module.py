"""Shards as a data module for a Lightning Trainer, or as a `DataLoader` for any other loop.

Before: the shards of `jemb prepare`. After: `EmbeddingModule` gets a `Batch` of token ids in each step.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import lightning
from torch.utils.data import DataLoader, Dataset

from jemb.core.errors import InputError
from jemb.data.collate import Collate
from jemb.data.joined import rows_of
from jemb.data.loader import StepDataset, start_worker
from jemb.data.plan import BatchPlan
from jemb.data.sampler import GlobalBatchSampler
from jemb.data.small import PlanSource, SmallDatasets
from jemb.registry import suggest
from jemb.shards import ShardCache, ShardReader, open_datasets
from jemb.tables.places import is_url, to_local

if TYPE_CHECKING:
    from jemb.model import Encoder


class PairData(lightning.LightningDataModule):
    """Shards for `Trainer.fit(module, PairData("shards", global_batch_size=64, seed=7))`.

    In each step all processes together have `global_batch_size` samples of one data set, the same ones whatever the
    number of processes. A fit that goes on from `ckpt_path` goes on with the sample after the last one. Without a
    Trainer, `train_dataloader()` serves any loop. Options are those of `jemb train` with these names, and:

    encoder: whose token ids the batches have; None: that of the module that is fitted (`module.encoder`).
    num_negatives: hard negatives of each sample; None: one where the module's objective takes them, else none.
    collate_fn: a function from the samples of a step (dictionaries with key, query, positive, negatives) to anything,
    in place of a `Batch` of token ids. rank, world_size, steps: as for `GlobalBatchSampler`.
    """

    def __init__(
        self,
        shards: str | os.PathLike[str],
        *,
        global_batch_size: int = 256,
        seed: int = 0,
        weights: Mapping[str, float] | None = None,
        small_datasets: SmallDatasets = "own_size",
        shuffle_shards: int | None = None,
        num_negatives: int | None = None,
        balance: bool = True,
        workers: int = 1,
        cache_dir: str | None = None,
        cache_gb: float | None = None,
        encoder: Encoder | None = None,
        collate_fn: Callable[[list[dict[str, Any]]], Any] | None = None,
        rank: int | Literal["all"] | None = None,
        world_size: int | None = None,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        self.place, self.global_batch_size, self.seed = os.fspath(shards), global_batch_size, seed
        self.weights, self.small_datasets, self.shuffle_shards = dict(weights or {}), small_datasets, shuffle_shards
        self.num_negatives, self.balance, self.workers = num_negatives, balance, workers
        self.cache_dir, self.cache_gb, self.encoder, self.collate_fn = cache_dir, cache_gb, encoder, collate_fn
        self.rank, self.world_size, self.steps = rank, world_size, steps

    @cached_property
    def readers(self) -> dict[str, ShardReader]:
        """The data sets by name."""
        remote = is_url(to_local(self.place))
        readers = open_datasets(self.place, ShardCache(self.cache_dir, self.cache_gb) if remote else None)
        if strangers := [name for name in self.weights if name not in readers]:
            raise InputError(
                f"weights.{strangers[0]}: no such data set in {self.place}{suggest(strangers[0], readers)}; "
                f"there are: {', '.join(readers)}"
            )
        return readers

    @cached_property
    def plan(self) -> BatchPlan:
        """Which samples are in which step."""
        sources = [
            PlanSource(
                name,
                len(reader),
                reader.manifest.fingerprint,
                self.weights.get(name, 1.0),
                tuple(shard.num_samples for shard in reader.manifest.shards),
                reader.manifest.kind,
            )
            for name, reader in self.readers.items()
        ]
        return BatchPlan(
            sources,
            seed=self.seed,
            global_batch_size=self.global_batch_size,
            shuffle_shards=self.shuffle_shards,
            small_datasets=self.small_datasets,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """This process's share of each step, beginning where the Trainer stands."""
        rows = RowDataset(self.plan, self.readers)
        sampler = GlobalBatchSampler(
            self.plan,
            rank=self.rank,
            world_size=self.world_size,
            start=self._next_step if self.trainer else 0,
            steps=self.steps,
            lengths={name: part.sizes for name, part in rows.parts.items()} if self.balance else None,
        )
        own = self.collate_fn is not None
        return DataLoader(
            rows if own else StepDataset(self.plan, self.readers, self._collate()),
            batch_sampler=sampler,
            collate_fn=self.collate_fn if own else _as_it_is,
            num_workers=self.workers,
            worker_init_fn=start_worker,
            # Where another method is the default, each worker would import torch and Lightning first.
            multiprocessing_context="fork" if self.workers and sys.platform == "linux" else None,
        )

    def _next_step(self) -> int:
        assert self.trainer is not None
        return self.trainer.global_step * self.trainer.accumulate_grad_batches

    def _collate(self) -> Collate:
        module = self.trainer.lightning_module if self.trainer else None
        encoder = self.encoder or getattr(module, "encoder", None)
        if encoder is None:
            raise InputError("PairData: give encoder=…, whose token ids the batches shall have, or collate_fn=…")
        takes = bool(getattr(getattr(module, "objective", None), "negatives", False))
        number = self.num_negatives if self.num_negatives is not None else int(takes)
        if number and (pairs := [name for name, reader in self.readers.items() if reader.manifest.kind == "pairs"]):
            raise InputError(
                f"the objective needs hard negatives, but {', '.join(pairs)} in {self.place} has pairs only: use "
                "another objective, or prepare these data sets from rows with `negatives`"
            )
        return Collate(
            tokenize=encoder.tokenize,
            num_negatives=number,
            seed=self.seed,
            query_prompt=encoder.prompt("query"),
            passage_prompt=encoder.prompt("document"),
            pad_id=encoder.tokenize.pad_id,
        )


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


def _as_it_is(batch: Any) -> Any:
    return batch

"""Shards as a data module for a Lightning Trainer, or as a `DataLoader` for any other loop.

Before: the shards of `jemb prepare`. After: `EmbeddingModule` gets a `Batch` of token ids in each step.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

import lightning
from torch.utils.data import DataLoader

from jemb.config import TrainConfig
from jemb.core.errors import InputError
from jemb.data.ahead import ReadAhead
from jemb.data.collate import Collate
from jemb.data.deal import PayloadSizes
from jemb.data.loader import RowDataset, make_loader
from jemb.data.plan import BatchPlan
from jemb.data.sampler import GlobalBatchSampler, StepDataset
from jemb.data.small import PlanSource, SmallDatasets, by_source
from jemb.data.verify import Verifier
from jemb.data.wanted import Wanted, needed_at_once, open_teachers, wanted_of
from jemb.launch import usable_cores
from jemb.registry import OBJECTIVES, suggest
from jemb.shards import ShardCache, ShardReader, TokenReader, open_datasets
from jemb.shards.teacher import TeacherVectors
from jemb.shards.tokens import open_tokens
from jemb.tables.places import is_url, to_local

if TYPE_CHECKING:
    from jemb.model import Encoder

log = logging.getLogger(__name__)

MOST_WORKERS = 4
"""Loader processes for a GPU where nobody says how many: each gives some 12,000 pairs a second
(`benchmarks/training.md`), a GPU of 2025 takes up to 45,000 of a small model, by arithmetic."""


class PairData(lightning.LightningDataModule):
    """Shards for `Trainer.fit(module, PairData("shards", global_batch_size=64, seed=7))`.

    In each step all processes together have `global_batch_size` samples of one data set, the same ones whatever the
    number of processes. A fit that goes on from a checkpoint goes on with the sample after the last one. Without a
    Trainer, `train_dataloader()` serves any loop. Options are those of `jemb train` with these names, and:

    encoder: whose token ids the batches have; None: that of the module that is fitted (`module.encoder`).
    num_negatives: hard negatives of each sample where its objective takes them; None: one. num_positives: of the right
    answers of a sample with several. objective, objectives: names as for the module, which has the last word; without
    either, num_negatives holds for all.
    collate_fn: a function from the samples of a step (dictionaries with key, dataset, query, positive, and what else
    they have: positives, negatives, score, label, scores) to anything, in place of a `Batch` of token ids. rank,
    world_size, steps: as for `GlobalBatchSampler`.
    Each shard that is read is compared with its checksum beside the training; what has changed ends the fit, and
    `Checkpoints` saves no step before all that it has read is verified.
    Raises InputError for shards, tokens or data sets that are not there or do not fit.
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
        num_positives: int = 1,
        objective: str | None = None,
        objectives: Mapping[str, str] | None = None,
        workers: int | None = None,
        cache_dir: str | None = None,
        cache_gb: float | None = None,
        read_ahead: int = 1000,
        tokens: str | None = None,
        encoder: Encoder | None = None,
        collate_fn: Callable[[list[dict[str, Any]]], Any] | None = None,
        rank: int | Literal["all"] | None = None,
        world_size: int | None = None,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        if collate_fn and tokens:
            raise InputError(
                f"PairData: tokens={tokens} has ids in place of texts, which collate_fn gets; leave out one"
            )
        TrainConfig(  # checks them
            shards=os.fspath(shards), output="-", global_batch_size=global_batch_size, seed=seed,
            weights=dict(weights or {}), small_datasets=small_datasets, shuffle_shards=shuffle_shards,
            num_negatives=num_negatives or 1, num_positives=num_positives, workers=workers, cache_gb=cache_gb,
            read_ahead=read_ahead,
        )  # fmt: skip
        self.place, self.global_batch_size, self.seed = os.fspath(shards), global_batch_size, seed
        self.weights, self.small_datasets, self.shuffle_shards = dict(weights or {}), small_datasets, shuffle_shards
        self.num_negatives, self.num_positives = num_negatives, num_positives
        self.workers = workers
        self.objective, self.objectives = objective, dict(objectives or {})
        self.cache_dir, self.cache_gb, self.read_ahead = cache_dir, cache_gb, read_ahead
        self.tokens, self.log_samples = tokens, False
        self.encoder, self.collate_fn = encoder, collate_fn
        self.rank, self.world_size, self.steps = rank, world_size, steps
        self.ahead: ReadAhead | None = None
        self.told = {""}
        self._teachers: dict[str, TeacherVectors] = {}
        self.verifier: Verifier | None = None

    @classmethod
    def of_run(cls, config: TrainConfig) -> PairData:
        """With the options of `jemb train` that have the names of those here."""
        shared = {item.name for item in fields(config)} & signature(cls).parameters.keys()
        values: dict[str, Any] = {name: getattr(config, name) for name in shared}
        return cls(**values | {"num_negatives": config.num_negatives if config.takes_negatives else 0})

    @cached_property
    def found(self) -> dict[str, ShardReader]:
        """All data sets by name, but for those of weight 0."""
        cache = ShardCache(self.cache_dir, self.cache_gb) if is_url(to_local(self.place)) else None
        readers = open_datasets(self.place, cache)
        if cache:
            cache.check(*needed_at_once(readers, self.shuffle_shards, self.global_batch_size))
        for option in ("weights", "objectives"):
            for name in getattr(self, option):
                if name not in readers:
                    raise InputError(
                        f"{option}.{name}: no such data set in {self.place}{suggest(name, readers)}; "
                        f"there are: {', '.join(readers)}"
                    )
        chosen = {name: reader for name, reader in readers.items() if self.weights.get(name) != 0}
        if not chosen:
            raise InputError(f"weights: all data sets in {self.place} have weight 0; wanted one above 0")
        return chosen

    def wanted(self, module: Any = None) -> dict[str, Wanted]:
        """What each data set that is found gives to a step. Raises InputError where one lacks what its objective needs.
        module: whose objectives count, if it has some."""
        choice = getattr(module, "objectives", None)
        found: dict[str, Wanted] = {}
        for name, reader in self.found.items():
            kind, objective = reader.manifest.kind, None
            if choice is not None:
                chosen, objective = choice.name_for(name, kind), choice[choice.name_for(name, kind)]
            else:
                chosen = self.objectives.get(name) or (kind if self.objective == "auto" else self.objective or "")
                objective = OBJECTIVES.find(chosen) if chosen else None
            number = self.num_negatives if self.num_negatives is not None else int(objective is not None)
            named = name in self.objectives or name in getattr(choice, "by_dataset", ())
            positives = self.num_positives
            found[name] = wanted_of(reader.manifest, self.place, chosen, objective, named, number, positives)
            if found[name].unused not in self.told:
                log.warning("%s", found[name].unused)
                self.told.add(found[name].unused)
        self._teachers = open_teachers(self.found, found)
        return found

    @property
    def teacher_width(self) -> int | None:
        """Numbers in the vectors that are learned from, once `wanted` was asked; None where none are."""
        return next((teacher.width for teacher in self._teachers.values()), None)

    @cached_property
    def plan(self) -> BatchPlan:
        """Which samples are in which step; what is done with small data sets is warned of."""
        sources = [
            PlanSource(
                name,
                len(reader),
                reader.manifest.fingerprint,
                self.weights.get(name, 1.0),
                tuple(shard.num_samples for shard in reader.manifest.shards),
                "-".join((reader.manifest.kind, *reader.manifest.fields, self.objectives.get(name, ""))).strip("-"),
            )
            for name, reader in self.found.items()
        ]
        plan = BatchPlan(
            sources,
            seed=self.seed,
            global_batch_size=self.global_batch_size,
            shuffle_shards=self.shuffle_shards,
            small_datasets=self.small_datasets,
        )
        if plan.note:
            log.warning("small_datasets=%s: %s", self.small_datasets, plan.note)
        return plan

    @cached_property
    def readers(self) -> dict[str, ShardReader]:
        """The data sets that the plan has not left out, by name."""
        return {name: self.found[name] for name in sorted(self.plan.dataset_shares)}

    @cached_property
    def rows(self) -> dict[str, ShardReader]:
        """The same by source of the plan, of which some may be joined data sets."""
        return by_source(self.plan.sources, self.found, ShardReader.joined)

    def open_tokens(self, encoder: Encoder) -> dict[str, TokenReader] | None:
        """The stored tokens. Raises InputError where they are not those of this encoder's tokenizer."""
        return open_tokens(self.tokens, self.readers, encoder) if self.tokens else None

    @property
    def num_workers(self) -> int:
        """`workers`, or what they are where nobody says."""
        if self.workers is not None:
            return self.workers
        if self.trainer is None or self.trainer.strategy.root_device.type != "cuda":
            return 1
        cores = usable_cores() // self.trainer.num_devices  # of which the training process has one
        return min(max(1, cores - 1), MOST_WORKERS)

    def train_dataloader(self) -> DataLoader[Any]:
        """This process's share of each step, beginning where the Trainer stands."""
        sampler = GlobalBatchSampler(
            self.plan,
            rank=self.rank,
            world_size=self.world_size,
            start=self.next_step if self.trainer else 0,
            steps=self.steps,
            lengths={name: PayloadSizes(reader) for name, reader in self.rows.items()},
        )
        if self.collate_fn:
            rows = RowDataset(self.rows)
            return make_loader(rows, self.num_workers, batch_sampler=sampler, collate_fn=self.collate_fn)
        return make_loader(self._batches(), self.num_workers, batch_sampler=sampler)

    def next_step(self) -> int:
        """The first batch that the weights have not learned; of a module that does not say, by the Trainer's steps."""
        assert self.trainer is not None
        by_steps = self.trainer.global_step * self.trainer.accumulate_grad_batches
        found: int = getattr(self.trainer.lightning_module, "batches", by_steps)
        return found

    @property
    def last_step(self) -> int:
        """How many steps there are when the fit ends; `sys.maxsize` where the Trainer does not say."""
        trainer, passed = self.trainer, self.steps or self.plan.steps_of_a_pass
        limits = [trainer.max_steps, (trainer.max_epochs or -1) * passed] if trainer else []
        return min((limit for limit in limits if limit > 0), default=sys.maxsize)

    def verified(self, step: int) -> bool:
        """Whether what the steps before `step` read has been verified, as far as it is this process's part."""
        return self.verifier is None or self.verifier.verified(step)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.verifier:
            self.verifier.check()  # here: its thread must not be there when loader processes are forked
        return batch

    def teardown(self, stage: str) -> None:
        if self.ahead:
            self.ahead.close()

    def on_exception(self, exception: BaseException) -> None:
        self.teardown("fit")

    def _batches(self) -> StepDataset:
        trainer = self.trainer
        module = trainer.lightning_module if trainer else None
        encoder = self.encoder or getattr(module, "encoder", None)
        if encoder is None:
            raise InputError("PairData: give encoder=…, whose token ids the batches shall have, or collate_fn=…")
        stored = self.open_tokens(encoder)
        tokens = by_source(self.plan.sources, stored, TokenReader.joined) if stored else None
        collate = self._collate(encoder, module)
        place = (trainer.local_rank, trainer.num_devices) if trainer else (0, 1)
        start, stop = (self.next_step() if trainer else 0), self.last_step
        if self.read_ahead and not place[0]:  # one process of each machine, for all of them
            lag = 2 * self.num_workers + 1  # batches that wait for the trainer in each process
            self.ahead = ReadAhead(self.plan, self.rows, steps=self.read_ahead, stop=stop, lag=lag)
        if trainer:
            self.verifier = Verifier(
                self.plan, self.rows, tokens, start=start, stop=stop, share=place, taught=collate.teachers
            )
        return StepDataset(
            self.plan,
            self.rows,
            collate,
            global_keys=self.log_samples and (trainer is None or trainer.is_global_zero),
            ahead=self.ahead,
            tokens=tokens,
        )

    def _collate(self, encoder: Encoder, module: Any) -> Collate:
        wanted, sources = self.wanted(module), self.plan.sources
        members = {source.name: [member.name for member in source.members or (source,)] for source in sources}
        prompts = {
            name: [(encoder.prompt("query", one), encoder.prompt("document", one)) for one in names]
            for name, names in members.items()
        }
        for name, found in prompts.items():
            if len(set(found)) > 1:
                raise InputError(
                    f"small_datasets=join: data sets in {name} have different prompts ({', '.join(members[name])}): "
                    "give them the same ones, or use small_datasets=own_size"
                )
        return Collate(
            tokenize=encoder.tokenize,
            num_negatives=self.num_negatives or 0,
            seed=self.seed,
            pad_id=encoder.tokenize.pad_id,
            dataset_prompts={name: found[0] for name, found in prompts.items()},
            wanted={name: wanted[names[0]] for name, names in members.items()},
            teachers=by_source(sources, self._teachers, TeacherVectors.joined),
        )

"""The batches of one process by the number of their step, without a sampler's order."""

from __future__ import annotations

from typing import Any

from jemb.core.records import Batch
from jemb.data import GlobalBatchSampler, StepDataset
from jemb.data.deal import PayloadSizes


class Steps(StepDataset):
    """balance: the rows are dealt by length, else rank r gets slice r."""

    def __init__(self, *arguments: Any, rank: int = 0, world_size: int = 1, balance: bool = True, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.sizes = {name: PayloadSizes(reader) for name, reader in self.readers.items()}
        self.rank, self.world_size = rank, world_size
        self.sampler = GlobalBatchSampler(self.plan, lengths=self.sizes if balance else None)

    def __getitem__(self, step: int) -> Batch:
        return self.__getitems__(self.sampler.share(step, self.rank, self.world_size))

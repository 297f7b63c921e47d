"""Loops of other libraries over shards, each as one of two processes; what each step's batch of this process holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import ConcatDataset, DataLoader

from jemb.data import GlobalBatchSampler, for_sentence_transformers
from jemb.data.module import PairData

SIZES = {"b": 40, "a": 56, "c": 32}
BATCH = 8
Seen = list[list[str]]
"""The samples of each step."""


def names(name: str) -> list[str]:
    return [f"{name}-{number}" for number in range(SIZES[name])]


def plain() -> Seen:
    """A loop of torch alone, over lists."""
    dist.init_process_group("gloo")
    data = {name: names(name) for name in SIZES}
    sampler = GlobalBatchSampler(data, global_batch_size=BATCH, seed=3)
    loader = DataLoader(ConcatDataset(list(data.values())), batch_sampler=sampler)
    return [list(batch) for _ in range(2) for batch in loader]


def accelerated() -> Seen:
    """Accelerate deals the batches out."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    data = {name: names(name) for name in SIZES}
    sampler = GlobalBatchSampler(data, global_batch_size=BATCH, seed=3, rank="all")
    loader = accelerator.prepare(DataLoader(ConcatDataset(list(data.values())), batch_sampler=sampler))
    return [list(batch) for _ in range(2) for batch in loader]


def sentence_transformers(model: Path, output: Path) -> Seen:
    """Two passes of the real trainer, which trains."""
    from datasets import Dataset, DatasetDict
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    data = DatasetDict({name: Dataset.from_dict({"anchor": names(name), "positive": names(name)}) for name in SIZES})
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=BATCH // 2,
        num_train_epochs=2,
        multi_dataset_batch_sampler=for_sentence_transformers,
        seed=3,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    encoder = SentenceTransformer(str(model), device="cpu")
    trainer = SentenceTransformerTrainer(
        encoder, args=arguments, train_dataset=data, loss=MultipleNegativesRankingLoss(encoder)
    )
    seen: Seen = []
    cls = type(trainer.data_collator)
    collate = cls.__call__

    def record(self: Any, features: list[dict[str, Any]]) -> Any:
        seen.append([feature["anchor"] for feature in features])
        return collate(self, features)

    cls.__call__ = record  # in this process alone
    trainer.train()
    return seen


def lightning(shards: Path, checkpoint: Path, save_at: int = -1) -> Seen:
    """A Trainer as anybody sets it up, with its own distributed sampler on: two passes. save_at: the step after which
    there shall be the checkpoint; -1: it goes on from there."""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.seen: Seen = []

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            self.seen.append(batch)
            return self.layer(torch.ones(1, 1)).sum()

        def on_train_batch_end(self, *_: Any) -> None:
            if self.trainer.global_step == save_at:
                self.trainer.save_checkpoint(checkpoint)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    trainer = L.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_epochs=2,
        default_root_dir=checkpoint.parent,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = PairData(shards, global_batch_size=BATCH, seed=3, workers=0, collate_fn=_keys)
    module = Module()
    trainer.fit(module, data, ckpt_path=checkpoint if save_at < 0 else None)
    return module.seen


def _keys(rows: list[dict[str, Any]]) -> list[str]:
    return [row["key"] for row in rows]

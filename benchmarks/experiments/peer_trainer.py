"""The same training with sentence-transformers' trainer, and, as far as it has them, the same settings."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jemb.config import TrainConfig
from jemb.core.folders import whole_folder


def train(
    start: Path,
    datasets: Mapping[str, Sequence[Mapping[str, Any]]],
    config: TrainConfig,
    output: Path,
    *,
    no_duplicates: bool,
    make_loss: Callable[[Any], Any] | None = None,
) -> None:
    """Write the trained model to `output`.

    start: sentence-transformers folder. config: whose steps, batch, rate, temperature, … to take.
    no_duplicates: no text twice in a batch, sentence-transformers' own remedy for false negatives. Several data sets
    are drawn in proportion to their sizes, a batch from one, both its defaults. make_loss: from the model, the loss
    for rows with just these columns; None: the ranking loss of pairs.
    """
    from datasets import Dataset, DatasetDict
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
        losses,
    )

    # jemb trains without dropout, so here too.
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = SentenceTransformer(str(start), device="cpu", config_kwargs=no_dropout)
    model.max_seq_length = config.max_length
    if make_loss is None:
        loss = losses.MultipleNegativesRankingLoss(
            model,
            scale=1 / config.temperature,
            directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction",
        )
    else:
        loss = make_loss(model)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=config.global_batch_size,
            max_steps=config.max_steps,
            learning_rate=config.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=config.warmup_steps,
            weight_decay=config.weight_decay,
            max_grad_norm=config.gradient_clip,
            optim="adamw_torch_fused",
            batch_sampler="no_duplicates" if no_duplicates else "batch_sampler",
            multi_dataset_batch_sampler="proportional",
            dataloader_drop_last=True,
            seed=config.seed,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=50,
        )
        columns = {name: Dataset.from_list([dict(row) for row in rows]) for name, rows in datasets.items()}
        data = DatasetDict(columns) if len(columns) > 1 else next(iter(columns.values()))
        SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss).train()
    with whole_folder(output) as new:
        model.save(str(new))

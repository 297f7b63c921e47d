"""Configuration to objects, by plain calls: data sets, plan, encoder, trainer."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from jemb.config import TrainConfig, suggest
from jemb.data import BatchPlan, PlanSource
from jemb.errors import InputError
from jemb.model import Encoder, load_encoder, make_tiny
from jemb.shards import ShardReader, open_datasets
from jemb.train.processes import Processes

TOKENIZER_SAMPLES = 20_000
"""Samples, over all data sets, that the tokenizer of a model made on the spot is trained on."""
DEFAULT_MAX_LENGTH = 512


def open_shards(config: TrainConfig) -> dict[str, ShardReader]:
    """The data sets to train on. Raises InputError where their kind does not fit the objective."""
    readers = open_datasets(Path(config.shards))
    for name in config.weights:
        if name not in readers:
            raise InputError(
                f"weights.{name}: no such data set in {config.shards}{suggest(name, readers)}; "
                f"there are: {', '.join(readers)}"
            )
    if config.objective == "triplets":
        pairs = [name for name, reader in readers.items() if reader.manifest.kind == "pairs"]
        if pairs:
            raise InputError(
                f"objective=triplets needs hard negatives, but {', '.join(pairs)} in {config.shards} has pairs "
                "only: use objective=pairs, or prepare these data sets from rows with `negatives`"
            )
    return readers


def make_plan(config: TrainConfig, readers: Mapping[str, ShardReader], num_processes: int) -> BatchPlan:
    """The batch plan. Raises InputError where the batch is larger than a data set or cannot be divided."""
    if config.global_batch_size % num_processes:
        raise InputError(
            f"global_batch_size={config.global_batch_size} cannot be divided among {num_processes} processes: "
            f"use a multiple of {num_processes}"
        )
    sources = [
        PlanSource(name, len(reader), reader.manifest.fingerprint, config.weights.get(name, 1.0))
        for name, reader in readers.items()
    ]
    return BatchPlan(sources, seed=config.seed, global_batch_size=config.global_batch_size)


def count_steps(config: TrainConfig, plan: BatchPlan) -> int:
    """`max_steps`, or one pass over the samples."""
    return config.max_steps or math.ceil(plan.num_samples / plan.global_batch_size)


def make_encoder(config: TrainConfig, readers: Mapping[str, ShardReader]) -> Encoder:
    """The encoder to start from: `init`, `model.path`, or one made on the spot."""
    source = config.init or config.model.path
    if source is None:
        texts = tokenizer_texts(readers)
        return make_tiny(texts, config.model, seed=config.seed, max_length=config.max_length or DEFAULT_MAX_LENGTH)
    return load_encoder(
        source, pooling=config.model.pooling, dropout=config.model.dropout, max_length=config.max_length
    )


def tokenizer_texts(readers: Mapping[str, ShardReader]) -> Iterator[str]:
    """Texts of evenly spaced samples, as many of each data set as its size gives it; the same on every machine."""
    total = sum(map(len, readers.values()))
    for name in sorted(readers):
        reader = readers[name]
        wanted = max(1, min(len(reader), TOKENIZER_SAMPLES * len(reader) // total))
        for i in range(wanted):
            sample = reader.read(i * len(reader) // wanted)
            yield sample.query
            yield sample.positive


def make_trainer(
    config: TrainConfig, processes: Processes, *, max_steps: int, callbacks: list[lightning.Callback]
) -> lightning.Trainer:
    """A Lightning trainer that only runs the loop: no samplers, loggers, bars or checkpoints of its own."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning's advice about worker counts, and its own uses of functions that torch renamed.
    warnings.filterwarnings("ignore", module="lightning.*")
    trainer = lightning.Trainer(
        accelerator="gpu" if processes.device.type == "cuda" else "cpu",
        devices=processes.per_node,
        num_nodes=processes.nodes,
        strategy=make_strategy(config, processes),
        precision=choose_precision(config.precision, processes.device),
        max_steps=max_steps,
        max_epochs=-1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    # Its own SIGTERM handler ends training without a checkpoint, and hangs where several processes train. There is no
    # public way to do without it.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def make_strategy(config: TrainConfig, processes: Processes) -> Strategy:
    """`auto`: one process needs nothing, several average gradients (DDP)."""
    num_processes = processes.per_node * processes.nodes
    if config.strategy == "single" and num_processes > 1:
        raise InputError(f"strategy=single, but {num_processes} processes were started: use strategy=ddp")
    if config.strategy == "single" or (config.strategy == "auto" and num_processes == 1):
        return SingleDeviceStrategy(device=processes.device)
    return DDPStrategy(
        cluster_environment=processes.environment,
        timeout=timedelta(minutes=config.timeout_minutes),
        gradient_as_bucket_view=True,
        broadcast_buffers=False,  # ours are constants
    )


def choose_precision(name: str, device: torch.device) -> Literal["32-true", "bf16-mixed"]:
    """Lightning's word for the precision; `auto` is bf16 on a GPU that computes in it, else fp32."""
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "bf16" and device.type == "cuda" and not has_bf16:
        raise InputError("precision=bf16: this GPU has no bf16 arithmetic; use precision=fp32")
    return "bf16-mixed" if name == "bf16" or (name == "auto" and has_bf16) else "32-true"

"""Configuration to objects, by plain calls: data sets, plan, encoder, loader, module, trainer."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers import Logger

from jemb.config import ModelConfig, TrainConfig, suggest
from jemb.core.errors import InputError
from jemb.data import BatchPlan, Collate, PlanSource, ReadAhead, StepDataset, StepLoader, Verifier
from jemb.data.permutation import mix
from jemb.distributed import rank, world_size
from jemb.loss import make_objective
from jemb.model import Encoder, load_encoder, make_tiny, probe
from jemb.model.load import DEFAULT_MAX_LENGTH
from jemb.pretokenize import check_prompts, open_tokens
from jemb.shards import ShardCache, ShardReader, TokenReader, open_datasets
from jemb.tables.places import is_url, to_local
from jemb.train.module import EmbeddingModule
from jemb.train.processes import Processes
from jemb.train.strategies import choose_strategy, make_strategy

log = logging.getLogger(__name__)

TOKENIZER_SAMPLES = 20_000
"""Samples, over all data sets, that the tokenizer of a model made on the spot is trained on."""
LOOKED_AT = 200_000
"""Samples of a data set whose negatives are counted before the first step."""
LOOKED_AT_REMOTE = 2_000
"""The same where each may be a request."""


@dataclass(frozen=True, slots=True)
class Job:
    """What all processes of a run agree on before anything is written."""

    config: TrainConfig
    readers: Mapping[str, ShardReader]
    plan: BatchPlan
    max_steps: int
    processes: Processes
    began: float = field(default_factory=time.perf_counter)


def open_job(config: TrainConfig, processes: Processes) -> Job:
    """Shards and plan, as this process sees them."""
    choose_strategy(config.strategy, world_size())
    readers = open_shards(config)
    plan = make_plan(config, readers, world_size())
    return Job(config, planned(plan, readers), plan, count_steps(config, plan), processes)


def open_shards(config: TrainConfig) -> dict[str, ShardReader]:
    """The data sets to train on. Raises InputError where their kind does not fit the objective."""
    cache = ShardCache(config.cache_dir, config.cache_gb) if is_url(to_local(config.shards)) else None
    readers = open_datasets(config.shards, cache)
    if cache:
        cache.check(*_needed_at_once(config, readers))
    for name in config.weights:
        if name not in readers:
            raise InputError(
                f"weights.{name}: no such data set in {config.shards}{suggest(name, readers)}; "
                f"there are: {', '.join(readers)}"
            )
    if config.takes_negatives:
        pairs = [name for name, reader in readers.items() if reader.manifest.kind == "pairs"]
        if pairs:
            raise InputError(
                f"objective={config.objective} needs hard negatives, but {', '.join(pairs)} in {config.shards} has "
                "pairs only: use objective=pairs, or prepare these data sets from rows with `negatives`"
            )
    elif wasted := [name for name, reader in readers.items() if reader.manifest.kind == "triplets"]:
        log.warning(
            "objective=%s: the hard negatives of %s are not used; triplets uses them",
            config.objective,
            ", ".join(wasted),
        )
    return readers


def _needed_at_once(config: TrainConfig, readers: Mapping[str, ShardReader]) -> tuple[int, str]:
    """(bytes of the shards that a batch of any data set may need, at most; what to do where that is too much)."""
    number = config.shuffle_shards
    total = 0
    for reader in readers.values():
        sizes = sorted((shard.bytes for shard in reader.manifest.shards), reverse=True)
        if number:
            # At the border of two passes: the window that ends, and those among whose first samples some change places.
            window = number * len(reader) / len(sizes)
            sizes = sizes[: number * (2 + math.ceil(2 * config.global_batch_size / window))]
        total += sum(sizes)
    if number:
        return total, f"give more, or use a smaller shuffle_shards than {number}, or smaller shards"
    return total, (
        "without shuffle_shards that is all of them, since any sample may come next: give more, or use "
        "shuffle_shards=N, with which about 3 N of each data set are enough"
    )


def check_negatives(config: TrainConfig, readers: Mapping[str, ShardReader]) -> None:
    """Raises InputError for a data set without negatives, warns of samples that have fewer than the objective takes.

    Looks at up to `LOOKED_AT` evenly spaced samples of each data set, which takes a second or two.
    """
    if not config.takes_negatives:
        return
    for name, reader in readers.items():
        count = min(len(reader), LOOKED_AT if reader.tars is None else LOOKED_AT_REMOTE)
        samples = reader.spread(count)  # a damaged one is left to the step that needs it
        numbers = [len(sample.negatives) for sample in samples if not isinstance(sample, InputError)]
        if numbers and not any(numbers):
            raise InputError(
                f"data set {name}: none of the {count} samples looked at has negatives, and objective=triplets needs "
                "some; prepare it with negatives, or use objective=pairs"
            )
        short = sum(number < config.num_negatives for number in numbers)
        if short:
            log.warning(
                "data set %s: %d of the %d samples looked at have fewer than num_negatives=%d negatives (the fewest: "
                "%d); some of theirs come more than once in a step (negatives_short in metrics.jsonl)",
                name, short, count, config.num_negatives, min(numbers),
            )  # fmt: skip


def make_plan(config: TrainConfig, readers: Mapping[str, ShardReader], num_processes: int) -> BatchPlan:
    """The batch plan; warns of what is done with small data sets. Raises InputError where one is refused, or a batch
    cannot be divided."""
    sources = [
        PlanSource(
            name,
            len(reader),
            reader.manifest.fingerprint,
            config.weights.get(name, 1.0),
            tuple(shard.num_samples for shard in reader.manifest.shards),
            reader.manifest.kind,
        )
        for name, reader in readers.items()
    ]
    plan = BatchPlan(
        sources,
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        shuffle_shards=config.shuffle_shards,
        small_datasets=config.small_datasets,
    )
    plan.check_processes(num_processes)
    for note in plan.notes:
        log.warning("small_datasets=%s: %s", config.small_datasets, note)
    return plan


def planned(plan: BatchPlan, readers: Mapping[str, ShardReader]) -> dict[str, ShardReader]:
    """Those of the data sets that the plan has not left out."""
    return {name: readers[name] for name in sorted(plan.dataset_shares)}


def count_steps(config: TrainConfig, plan: BatchPlan) -> int:
    """`max_steps`, or those of `max_epochs` passes over the samples."""
    return config.max_steps or math.ceil((config.max_epochs or 1) * plan.steps_of_a_pass)


def make_encoder(config: TrainConfig, readers: Mapping[str, ShardReader]) -> Encoder:
    """The encoder to start from: `init`, `model.path`, or one made on the spot; with the prompts to train with."""
    encoder = _load_or_make(config, readers)
    if wide := [width for width in config.matryoshka_widths if width > encoder.dim]:
        raise InputError(f"matryoshka_widths: got {wide[0]}; a vector of this model has {encoder.dim} numbers")
    check_prompts(config.prompts, readers)
    encoder.prompts |= config.prompts.given
    if encoder.default_prompt:
        log.warning(
            "the default prompt of %s is not used in training, only those called query and document",
            config.init or config.model.path,
        )
    probe(encoder, config.init or config.model.path or "the model made on the spot")
    return encoder


def _load_or_make(config: TrainConfig, readers: Mapping[str, ShardReader]) -> Encoder:
    source = config.init or config.model.path
    model, plain = config.model, ModelConfig()
    if config.init and model.path:
        log.info("init=%s takes the place of model.path=%s", config.init, model.path)
    shape = ("vocab_size", "hidden_size", "num_layers", "num_heads")
    if source and (unused := [name for name in shape if getattr(model, name) != getattr(plain, name)]):
        given = " ".join(f"model.{name}={getattr(model, name)}" for name in unused)
        log.warning("%s has a shape of its own: %s is not used", source, given)
    if source is None:
        texts = tokenizer_texts(readers)
        return make_tiny(texts, config.model, seed=config.seed, max_length=config.max_length or DEFAULT_MAX_LENGTH)
    return load_encoder(
        source,
        pooling=model.pooling,
        dropout=model.dropout,
        max_length=config.max_length,
        attention=model.attention,
        trust_remote_code=model.trust_remote_code,
    )


def lora_options(config: TrainConfig) -> dict[str, Any] | None:
    """Of `add_lora`, where adapters are trained."""
    lora, base = config.model.lora, config.init or config.model.path or ""
    return {**asdict(lora), "seed": mix("lora", config.seed), "base": base} if lora.rank else None


def tokenizer_texts(readers: Mapping[str, ShardReader]) -> Iterator[str]:
    """Texts of evenly spaced samples, as many of each data set as its size gives it; the same on every machine."""
    total = sum(map(len, readers.values()))
    for name in sorted(readers):
        reader = readers[name]
        wanted = max(1, min(len(reader), TOKENIZER_SAMPLES * len(reader) // total))
        for sample in reader.spread(wanted):
            if isinstance(sample, InputError):
                raise sample
            yield sample.query
            yield sample.positive


def open_job_tokens(job: Job, encoder: Encoder) -> dict[str, TokenReader] | None:
    return open_tokens(job.config.tokens, job.readers, encoder) if job.config.tokens else None


def make_loader(job: Job, encoder: Encoder, start: int) -> StepLoader:
    """This rank's batches of the steps from `start` on."""
    config = job.config
    ahead = None
    if config.read_ahead and not job.processes.info.local_rank:  # one process of each machine, for all of them
        lag = 2 * config.workers + 1  # batches that wait for the trainer in each process
        ahead = ReadAhead(job.plan, job.readers, steps=config.read_ahead, stop=job.max_steps, lag=lag)
    collate = Collate(
        tokenize=encoder.tokenize,
        num_negatives=config.num_negatives if config.takes_negatives else 0,
        seed=config.seed,
        query_prompt=encoder.prompt("query"),
        passage_prompt=encoder.prompt("document"),
        pad_id=encoder.tokenize.pad_id,
        dataset_prompts={
            name: (encoder.prompt("query", name), encoder.prompt("document", name)) for name in job.readers
        },
    )
    tokens = open_job_tokens(job, encoder)
    dataset = StepDataset(
        job.plan,
        job.readers,
        collate,
        rank=rank(),
        world_size=world_size(),
        global_keys=config.log_samples and rank() == 0,
        balance=config.balance,
        ahead=ahead,
        tokens=tokens,
    )
    share = (job.processes.info.local_rank, job.processes.info.local_world_size)
    verifier = Verifier(job.plan, job.readers, tokens, start=start, stop=job.max_steps, share=share)
    return StepLoader(dataset, start=start, stop=job.max_steps, workers=config.workers, verifier=verifier)


def make_module(
    config: TrainConfig, encoder: Encoder, device: torch.device, *, max_steps: int, first_step: int = 0
) -> EmbeddingModule:
    """The module with the options of the run."""
    return EmbeddingModule(
        encoder,
        objective=make_objective(config.objective, config.objective_options, **config.loss_options),
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        schedule=config.schedule,
        max_steps=max_steps,
        first_step=first_step,
        weight_decay=config.weight_decay,
        micro_batch_size=config.micro_batch_size,
        micro_batch_tokens=config.micro_batch_tokens,
        seed=config.seed,
        bf16=choose_bf16(config.precision, device),
    )


def make_trainer(
    config: TrainConfig,
    processes: Processes,
    *,
    max_steps: int,
    callbacks: Sequence[lightning.Callback],
    loggers: Sequence[Logger] = (),
) -> lightning.Trainer:
    """A Lightning trainer that only runs the loop, for `max_steps` steps from here on: no samplers, bars or checkpoints
    of its own, but those among the callbacks."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning's advice about worker counts, and uses of functions that torch renamed, its own and DeepSpeed's.
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    return lightning.Trainer(
        accelerator="gpu" if processes.device.type == "cuda" else "cpu",
        devices=1,  # what Lightning looks at; the strategy knows them all
        num_nodes=processes.nodes,
        strategy=make_strategy(config, processes),
        plugins=[processes.environment],
        max_steps=max_steps,
        max_epochs=-1,
        gradient_clip_val=config.gradient_clip,
        callbacks=list(callbacks),
        logger=list(loggers) or False,
        log_every_n_steps=1,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def choose_bf16(name: str, device: torch.device) -> bool:
    """Whether the encoder computes in bf16; `auto`: on a GPU that has it."""
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "bf16" and device.type == "cuda" and not has_bf16:
        raise InputError("precision=bf16: this GPU has no bf16 arithmetic; use precision=fp32")
    return name == "bf16" or (name == "auto" and has_bf16)

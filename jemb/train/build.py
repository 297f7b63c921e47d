"""Configuration to objects, by plain calls: data sets, plan, encoder, module, trainer."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from inspect import signature
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import MixedPrecision

from jemb.config import ModelConfig, TrainConfig
from jemb.core.errors import InputError
from jemb.data import BatchPlan
from jemb.data.permutation import mix
from jemb.distributed.processes import Processes
from jemb.loss import Objectives
from jemb.model import Encoder, load_encoder, make_tiny, probe
from jemb.model.load import DEFAULT_MAX_LENGTH
from jemb.pretokenize import check_prompts
from jemb.run_folder import RunFolder, is_run
from jemb.shards import ShardReader
from jemb.train.module import EmbeddingModule
from jemb.train.strategies.choice import JoinedEnvironment, make_strategy

log = logging.getLogger(__name__)

TOKENIZER_SAMPLES = 20_000
"""Samples, over all data sets, that the tokenizer of a model made on the spot is trained on."""


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
    encoder.packed, encoder.compiled = config.model.packing == "on", config.model.compile
    used = {encoder.prompt(role, dataset) for role in ("query", "document") for dataset in readers}
    if unused := [name for name, text in encoder.prompts.items() if text not in used]:
        log.warning(
            "prompts of %s that are not used in training: %s; queries get %r, documents %r",
            config.init or config.model.path,
            ", ".join(unused),
            encoder.prompt("query"),
            encoder.prompt("document"),
        )
    probe(encoder, config.init or config.model.path or "the model made on the spot")
    return encoder


def _load_or_make(config: TrainConfig, readers: Mapping[str, ShardReader]) -> Encoder:
    source, model = config.init or config.model.path, config.model
    if config.init and model.path:
        log.warning("init=%s takes the place of model.path=%s, which is not used", config.init, model.path)
    if source is None:
        texts = tokenizer_texts(readers)
        return make_tiny(texts, model, seed=config.seed, max_length=config.max_length or DEFAULT_MAX_LENGTH)
    given = {name: getattr(model, name) for name in ("vocab_size", "hidden_size", "num_layers", "num_heads")}
    if unused := [f"model.{name}={value}" for name, value in given.items() if value != getattr(ModelConfig(), name)]:
        log.warning("%s has a shape of its own: %s is not used", source, " ".join(unused))
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
    if base and is_run(run := Path(base).expanduser()):
        base = str(RunFolder(run).model)
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


def make_module(
    config: TrainConfig,
    encoder: Encoder,
    device: torch.device,
    *,
    max_steps: int,
    first_step: int = 0,
    teacher_width: int | None = None,
) -> EmbeddingModule:
    """The module with the options of the run. teacher_width: of the vectors that are learned from, where there are
    some."""
    shared = {item.name for item in fields(config)} & signature(EmbeddingModule).parameters.keys()
    options: dict[str, Any] = {name: getattr(config, name) for name in shared - {"objectives", "max_steps"}}
    options["objective"] = Objectives(
        config.objective,
        config.objectives,
        config.objective_options,
        mix("objective", config.seed),
        student_width=encoder.dim,
        teacher_width=teacher_width,
        **config.loss_options,
    )
    bf16 = choose_precision(config.precision, device) == "bf16"
    return EmbeddingModule(encoder, max_steps=max_steps, first_step=first_step, bf16=bf16, **options)


def make_trainer(
    config: TrainConfig,
    processes: Processes,
    *,
    max_steps: int,
    callbacks: Sequence[lightning.Callback],
    loggers: Sequence[Logger] = (),
) -> lightning.Trainer:
    """A Lightning trainer that only runs the loop, which `Checkpoints` ends after `max_steps` in all: no samplers, bars
    or checkpoints of its own, but those among the callbacks."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning's advice about worker counts, and uses of functions that torch renamed, its own and DeepSpeed's.
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    return lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(processes.device.type, processes.device.type),
        devices=1,  # what Lightning looks at; the strategy knows them all
        num_nodes=processes.nodes,
        strategy=make_strategy(config, processes),
        plugins=[JoinedEnvironment(processes.info), *make_scaling(config, processes.device, processes.info.world_size)],
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


def choose_precision(name: str, device: torch.device) -> str:
    """What the encoder computes in: fp32, tf32, bf16 or fp16; `auto`: bf16 on a GPU that has it, else fp32."""
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "bf16" and device.type == "cuda" and not has_bf16:
        raise InputError("precision=bf16: this GPU has no bf16 arithmetic; use precision=fp16 or precision=fp32")
    if name == "tf32" and not _has_tf32(device):
        raise InputError("precision=tf32: only GPUs of NVIDIA from A100 on have it; use precision=fp32")
    if name == "auto":
        return "bf16" if has_bf16 else "fp32"
    return name


def _has_tf32(device: torch.device) -> bool:
    of_nvidia = device.type == "cuda" and torch.version.cuda is not None
    return of_nvidia and torch.cuda.get_device_capability(device) >= (8, 0)


def make_scaling(config: TrainConfig, device: torch.device, num_processes: int) -> list[MixedPrecision]:
    """Lightning's plugin for fp16, whose small numbers are 0: the gradients are those of the loss times a factor, which
    is halved, and the step left out, where one of them is too large. Raises InputError for strategies that shard.

    What a process adds to the gradient grows with their number, because the strategy takes the mean, so the factor
    starts lower: then no number of processes leaves out steps that another does.
    """
    if config.precision != "fp16":
        return []
    if config.strategy.startswith(("deepspeed", "fsdp")):
        raise InputError(f"precision=fp16 with strategy={config.strategy}: use strategy=ddp, or precision=fp32 or bf16")
    return [
        MixedPrecision("16-mixed", device.type, torch.amp.GradScaler(device.type, init_scale=2.0**16 / num_processes))
    ]

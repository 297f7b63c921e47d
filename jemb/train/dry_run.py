"""`jemb train … dry_run=true`: what the run would do and how much memory it would take, without starting any of it."""

from __future__ import annotations

import math
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jemb.config import TrainConfig
from jemb.core.records import Tokens
from jemb.data import BatchPlan, check_data
from jemb.data.module import PairData
from jemb.launch import planned_world_size
from jemb.model import Encoder, add_lora
from jemb.model.load import DEFAULT_MAX_LENGTH
from jemb.public import without_secrets
from jemb.run_folder import RunFolder
from jemb.tables.places import to_local
from jemb.train.build import choose_precision, count_steps, lora_options, make_encoder, make_scaling
from jemb.train.evaluation import EvaluateInLoop
from jemb.train.logs.record import check_resumable
from jemb.train.logs.trackers import check_installed
from jemb.train.strategies.choice import choose_strategy


def dry_run(config: TrainConfig) -> str:
    """Batch arithmetic, the plan's shares, memory and command, as text. Reads shards, model and tasks; writes nothing.

    The number of processes is what the launcher says, or WORLD_SIZE alone; else 1. Raises InputError where training
    would.
    """
    processes = planned_world_size()
    strategy = choose_strategy(config.strategy, processes)
    check_installed(config.trackers)
    data = PairData.of_run(config)
    data.plan.check_processes(processes)
    check_data(config, data.readers, data.wanted())
    steps = count_steps(config, data.plan)
    run, done = RunFolder(Path(to_local(config.output))), 0
    if run.path.exists():  # of a URL nothing is known
        check_resumable(run, config)
        done = max(dict(run.checkpoints()), default=0)
    device = "cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu"
    encoder = make_encoder(config, data.readers).train()
    if lora := lora_options(config):
        add_lora(encoder, **lora)
    data.open_tokens(encoder)
    EvaluateInLoop(run, config.evaluation, every=1, stop=steps).read_tasks()
    precision = choose_precision(config.precision, torch.device(device))
    make_scaling(config, torch.device(device), processes)
    kept = sum(p.numel() for p in encoder.parameters() if p.requires_grad or not encoder.lora)
    of_done = f", of which {done} are done" if done else ""
    sections = {
        "batch": batch_lines(config, processes),
        "plan": [*plan_lines(data.plan, steps), f"{steps} steps{of_done}; run folder {config.output}"],
        f"memory of one process, estimated for strategy {strategy} in {precision} on {device}": memory_lines(
            config, encoder, strategy, processes, half=precision in ("bf16", "fp16")
        ),
    }
    lines = [line for title, found in sections.items() for line in (title, *(f"  {text}" for text in found))]
    lines += [
        f"disk: a checkpoint has {size(12 * kept)}; {config.keep_checkpoints} are kept while one more is written",
        f"command: {command()}",
        "nothing was started",
    ]
    return without_secrets("\n".join(lines))


def batch_lines(config: TrainConfig, processes: int) -> list[str]:
    """The samples of a step, over all processes, in one, and how many texts a process encodes at once."""
    share = config.global_batch_size // processes
    texts = share * texts_of_sample(config)
    cut = "none (micro_batch_size=N lowers the memory, not the result)"
    if config.micro_batch_size:
        at_once = min(config.micro_batch_size, texts)
        cut = f"{at_once} texts at once, in {math.ceil(texts / at_once)} calls of the encoder"
    elif config.micro_batch_tokens:
        cut = f"texts of {config.micro_batch_tokens} tokens at once, padding included"
    return [
        f"global batch of {config.global_batch_size}: {processes} processes with {share} samples each",
        f"per process: {texts} texts a step",
        f"micro batch: {cut}",
    ]


def plan_lines(plan: BatchPlan, steps: int) -> list[str]:
    """What each data set gives to a run of so many steps."""
    passes, sizes = plan.passes(steps), plan.batch_sizes
    return [
        f"data set {source.name}: {source.num_samples} samples, {100 * plan.shares[source.name]:.1f} % of the batches, "
        f"{passes[source.name]:.2f} passes"
        + (f", batches of {size}" if (size := sizes[source.name]) < plan.global_batch_size else "")
        for source in plan.sources
    ]


def texts_of_sample(config: TrainConfig) -> int:
    """Of one that has as many as may be taken."""
    return 1 + config.num_positives + (config.num_negatives if config.takes_negatives else 0)


def memory_lines(config: TrainConfig, encoder: Encoder, strategy: str, processes: int, *, half: bool) -> Iterator[str]:
    """What one process holds at the worst moment of a step, by what it is for, with the formula of each part, if every
    text has `max_length` tokens. What the libraries themselves take is not in it.

    Weights, gradients and AdamW's two moments are fp32 under every strategy; ZeRO keeps another fp32 copy of its share
    of the weights. Activations: what autograd keeps of one call of the encoder, counted, for as many texts as are
    encoded at once. Loss: the vectors of the whole batch, gathered, with their gradients.
    """
    every = sum(p.numel() for p in encoder.parameters())
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    zero = strategy.startswith("deepspeed")
    stage = int(strategy[-1]) if zero else 3 if strategy == "fsdp" else 0
    texts = config.global_batch_size // processes * texts_of_sample(config)
    length = encoder.max_length or DEFAULT_MAX_LENGTH
    wanted = config.micro_batch_tokens // length if config.micro_batch_tokens else config.micro_batch_size or texts
    one, two = (kept_for_backward(encoder, rows, length, half=half) for rows in (1, 2))
    activations = one + (min(texts, max(1, wanted)) - 1) * (two - one)
    vectors = config.global_batch_size * texts_of_sample(config) * encoder.dim * 4
    moments = "8 bytes, and 4 for ZeRO's copy of the weights" if zero else "8 bytes"
    total = 0
    for name, held, shared, words in (
        ("weights", 4 * every, 3, f"4 bytes x {every:,} numbers"),
        ("gradients", 4 * trained, 2, "4 bytes"),
        ("AdamW", (12 if zero else 8) * trained, 1, moments),
        ("activations", activations, 9, f"of the texts encoded at once, each of {length} tokens"),
        ("loss", 2 * vectors, 9, "vectors of the global batch and their gradients"),
    ):  # the stage from which on it is shared out
        mine, by = (held // processes, f" / {processes} processes") if stage >= shared else (held, "")
        total += mine
        yield f"{name:<11}  {size(mine)}   {words}{by}"
    yield f"together     {size(total)}   and what torch, CUDA and the loader take"


def kept_for_backward(encoder: Encoder, rows: int, length: int, *, half: bool) -> int:
    """Bytes that autograd keeps from one call of the encoder with so many texts of `length` tokens, weights apart."""
    own = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    kept: dict[int, Tensor] = {}  # alive, so that no address comes twice

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.full((rows, length), len(encoder.embeddings) - 1, dtype=torch.int32)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=half),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        encoder(Tokens(ids, np.full(rows, length)))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def size(num_bytes: int) -> str:
    """`12.3 GB`, or MB below one."""
    return f"{num_bytes / 1e9:6.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:6.1f} MB"


def command() -> str:
    """What starts this run: the launch script's line, or this command itself."""
    given = sys.argv[2:] if sys.argv[1:2] == ["train"] else sys.argv[1:]
    line = os.environ.get("JEMB_COMMAND") or shlex.join(["jemb", "train", *given])
    return re.sub(r" (--)?dry_run(=\S*)?(?!\S)", "", line).strip()

"""Our training step against a bare PyTorch loop of the same mathematics: DDP, one and two processes, CPU.

python -m benchmarks.step_overhead

Same model, same batches (tokenised before, every text of the same length), same loss, clipping and optimiser. Ours is
the whole of it: Lightning's loop, gathering, masks, measurements, metrics.jsonl, metrics.csv, TensorBoard. The two
take turns in the same processes; what counts is the median step of each, by the clock on a quiet machine, by processor
time of the first process on a busy one. Efficiency: time of one process / time of two, the work of each the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

TURNS, STEPS, WARM = 5, 20, 3
SHARE, TOKENS = 128, 32
"""Samples of each process, and tokens of each text."""
ROWS = 32
"""Texts the bare loop encodes at once, as ours does on a CPU."""
LIMIT = 1.05
LARGEST_DIFFERENCE = 1e-4
"""Between the losses of the two loops in 20 steps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.result:
        work(arguments.result)
        return
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
    print(
        f"median of {TURNS * (STEPS - WARM - 1)} steps, {SHARE} samples a process, {TOKENS} tokens a text, tiny model\n"
    )
    print("| processes | | ours, ms | bare loop, ms | ratio |\n|---:|---|---:|---:|---:|")
    found: dict[int, dict[str, list[float]]] = {}
    for processes in arguments.processes:
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result.json"
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node", str(processes), "-m", "benchmarks.step_overhead", "--result", str(result)]
            subprocess.run(command, env=environment, check=True)
            found[processes] = json.loads(result.read_text())
        for kind, ours, bare in zip(("by the clock", "processor time"), *found[processes].values(), strict=True):
            print(
                f"| {processes} | {kind} | {ours:.1f} | {bare:.1f} | {ours / bare:.3f} (wanted at most {LIMIT}) |",
                flush=True,
            )
    first, last = found[min(found)], found[max(found)]
    ours, bare = (first[name][0] / last[name][0] for name in ("ours", "bare"))
    print(
        f"\nefficiency from {min(found)} to {max(found)}: "
        f"ours {ours:.3f}, bare loop {bare:.3f}, ratio {ours / bare:.3f} (wanted at least 0.9)"
    )


def work(result: Path) -> None:
    """One process of torchrun; the first writes {"ours", "bare": [clock, processor time], median ms of a step}."""
    import torch.distributed as dist

    from jemb.config import TrainConfig
    from jemb.distributed import rank, world_size
    from jemb.distributed.processes import joined_processes
    from jemb.model import make_tiny

    config = TrainConfig(shards="s", output="o", global_batch_size=SHARE * world_size(), max_length=TOKENS)
    with joined_processes("cpu", 5) as processes, tempfile.TemporaryDirectory() as folder:
        if not dist.is_initialized():  # one process alone
            dist.init_process_group("gloo")
        encoder = make_tiny(["words of no matter"], config.model, seed=0, max_length=TOKENS)
        start = {name: value.clone() for name, value in encoder.state_dict().items()}
        found: dict[str, list[list[float]]] = {"ours": [], "bare": []}
        losses: dict[str, list[float]] = {}
        for turn in range(TURNS):
            for name, loop in (("ours", our_steps), ("bare", bare_steps)):
                encoder.load_state_dict(start)
                ends, losses[name] = loop(encoder, config, processes, Path(folder) / f"{name}-{turn}")
                ends = ends[WARM:]
                found[name] += [
                    [1000 * (after - before) for before, after in zip(*two, strict=True)]
                    for two in itertools.pairwise(ends)
                ]
        if rank() == 0:
            off = max(abs(one - other) for one, other in zip(losses["ours"], losses["bare"], strict=True))
            if off > LARGEST_DIFFERENCE:
                raise SystemExit(f"the losses of the two loops differ by {off:.1e}")
            medians = {
                name: [statistics.median(kind) for kind in zip(*rows, strict=True)] for name, rows in found.items()
            }
            result.write_text(json.dumps(medians))


def batches(rank: int, world_size: int, vocab_size: int) -> list[Any]:
    """This rank's share of each global batch; no two texts are equal, so that no candidate is hidden."""
    import numpy as np
    import torch

    from jemb.core.records import Batch, Tokens

    made = []
    for step in range(STEPS):
        draw = torch.Generator().manual_seed(step)
        size = SHARE * world_size
        ids = torch.randint(5, vocab_size, (2, size, TOKENS), generator=draw)
        hashes = torch.randint(-(2**62), 2**62, (2, size), generator=draw)
        mine = slice(rank * SHARE, (rank + 1) * SHARE)
        query, positive = (Tokens(side[mine], np.full(SHARE, TOKENS)) for side in ids)
        keys = tuple(str(number) for number in range(SHARE))
        made.append(
                Batch(
                    step=step, dataset="drawn", keys=keys, query=query, positive=positive, negatives=None,
                    query_hash=hashes[0, mine], positive_hash=hashes[1, mine], negative_hash=None,
                )
            )  # fmt: skip
    return made


class Batches:
    """What Lightning is given; no torch DataLoader, as ours."""

    def __init__(self, made: Sequence[Any]) -> None:
        self.made = made

    def __len__(self) -> int:
        return len(self.made)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.made)


def our_steps(encoder: Any, config: Any, processes: Any, folder: Path) -> tuple[list[tuple[float, float]], list[float]]:
    """((clock, processor time) at the end of each step, losses)."""
    import lightning

    from jemb.distributed import rank, world_size
    from jemb.run_folder import RunFolder
    from jemb.train.build import make_module, make_trainer
    from jemb.train.checkpoints import Checkpoints
    from jemb.train.logs.run_log import RunLog

    ends: list[tuple[float, float]] = []
    losses: list[float] = []

    class Clock(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            ends.append((time.perf_counter(), time.process_time()))
            losses.append(pl_module.facts.loss)

    run = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    module = make_module(config, encoder, processes.device, max_steps=STEPS)
    run_log = RunLog(run.path, log_samples=world_size() == 1)
    checkpoints = Checkpoints(run.path, start=(0, None), every=10**9, keep=1)
    trainer = make_trainer(config, processes, max_steps=STEPS, callbacks=[run_log, checkpoints, Clock()])
    encoder.train()
    trainer.fit(module, Batches(batches(rank(), world_size(), len(encoder.embeddings))))
    return ends, losses


def bare_steps(
    encoder: Any, config: Any, processes: Any, folder: Path
) -> tuple[list[tuple[float, float]], list[float]]:
    """The same of the loop that one would write by hand."""
    import torch
    import torch.distributed as dist
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel

    from jemb.core.records import Tokens

    class Gather(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.rows = len(x)
            parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, x.contiguous())
            return torch.cat(parts)

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            grad = grad.clone()
            dist.all_reduce(grad)
            return grad[dist.get_rank() * ctx.rows : (dist.get_rank() + 1) * ctx.rows]

    class Step(torch.nn.Module):
        """DDP wants what is differentiated to be a module's forward."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def encode(self, tokens: Tokens) -> torch.Tensor:
            starts = range(0, len(tokens.lengths), ROWS)
            return torch.cat([self.encoder(tokens.rows(slice(start, start + ROWS))) for start in starts])

        def forward(self, batch: Any) -> torch.Tensor:
            q, p = self.encode(batch.query), self.encode(batch.positive)
            targets = torch.arange(len(q)) + dist.get_rank() * len(q)
            loss = cross_entropy(q @ Gather.apply(p).T / config.temperature, targets)
            return loss + cross_entropy(p @ Gather.apply(q).T / config.temperature, targets)

    encoder.train()
    model = DistributedDataParallel(Step(), gradient_as_bucket_view=True, broadcast_buffers=False)
    trained = [p for p in encoder.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    warmup = STEPS // 10
    ends: list[tuple[float, float]] = []
    losses: list[float] = []
    for step, batch in enumerate(batches(dist.get_rank(), dist.get_world_size(), len(encoder.embeddings))):
        share = (step + 1) / warmup if step < warmup else (STEPS - step) / (STEPS - warmup)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * share
        optimizer.zero_grad()
        loss = model(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.gradient_clip)
        optimizer.step()
        # The one number that every loop shows.
        shown = loss.detach().clone()
        dist.all_reduce(shown)
        losses.append(shown.item() / dist.get_world_size())
        ends.append((time.perf_counter(), time.process_time()))
    return ends, losses


if __name__ == "__main__":
    main()

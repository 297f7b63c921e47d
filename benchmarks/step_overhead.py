"""Our training step against a bare PyTorch loop of the same mathematics: DDP, two processes, CPU.

python -m benchmarks.step_overhead

Same model, same batches (tokenised before, every text of the same length), same loss, clipping and optimiser. Ours is
the whole of it: Lightning's loop, gathering, masks, measurements, metrics.jsonl, metrics.csv, TensorBoard. The two
take turns in the same processes; what counts is the median step of each, by the clock on a quiet machine, by processor
time of the first process on a busy one.
"""

from __future__ import annotations

import argparse
import itertools
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
BATCH, TOKENS = 256, 32
"""Samples over both processes, and tokens of each text."""
ROWS = 32
"""Texts the bare loop encodes at once, as ours does on a CPU."""
LIMIT = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().worker:
        work()
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "benchmarks.step_overhead", "--worker"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
    sys.exit(subprocess.run(command, env=environment).returncode)


def work() -> None:
    from jemb.config import TrainConfig
    from jemb.distributed import rank
    from jemb.model import make_tiny
    from jemb.train.processes import joined_processes

    config = TrainConfig(shards="", output="", global_batch_size=BATCH, max_length=TOKENS)
    with joined_processes("cpu", 5) as processes, tempfile.TemporaryDirectory() as folder:
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
            print(f"median of {len(found['ours'])} steps, global batch {BATCH}, texts of {TOKENS} tokens, tiny model")
            for number, kind in enumerate(("by the clock", "processor time")):
                ours, bare = (statistics.median(row[number] for row in found[name]) for name in ("ours", "bare"))
                print(
                    f"  {kind:16s}ours {ours:7.1f} ms   bare {bare:7.1f} ms   ratio {ours / bare:.3f} (limit {LIMIT})"
                )
            print(f"  largest difference of the losses of {STEPS} steps: {off:.1e}")


def batches(rank: int, world_size: int, vocab_size: int) -> list[Any]:
    """This rank's share of each global batch; no two texts are equal, so that no candidate is hidden."""
    import torch

    from jemb.records import Batch, Tokens

    made = []
    for step in range(STEPS):
        draw = torch.Generator().manual_seed(step)
        ids = torch.randint(5, vocab_size, (2, BATCH, TOKENS), generator=draw)
        hashes = torch.randint(-(2**62), 2**62, (2, BATCH), generator=draw)
        size = BATCH // world_size
        mine = slice(rank * size, (rank + 1) * size)
        query, positive = (Tokens(side[mine], torch.ones_like(side[mine])) for side in ids)
        keys = tuple(str(number) for number in range(size))
        made.append(Batch(step, "drawn", keys, query, positive, None, hashes[0, mine], hashes[1, mine], None))
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
    from jemb.train.build import make_trainer
    from jemb.train.checkpoints import Checkpoints
    from jemb.train.module import EmbeddingModule
    from jemb.train.run_log import RunLog

    ends: list[tuple[float, float]] = []
    losses: list[float] = []

    class Clock(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            ends.append((time.perf_counter(), time.process_time()))
            losses.append(pl_module.facts.loss)

    run = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    module = EmbeddingModule(encoder, config, max_steps=STEPS, wants_to_stop=lambda: False)
    run_log = RunLog(run, start=0, stop=STEPS, log_samples=True, write=rank() == 0)
    checkpoints = Checkpoints(run, start=(0, None), plan="", every=10**9, keep=1, stop=10**9)
    trainer = make_trainer(config, processes, max_steps=STEPS, callbacks=[run_log, checkpoints, Clock()])
    encoder.train()
    trainer.fit(module, Batches(batches(rank(), world_size(), encoder.backbone.config.vocab_size)))
    return ends, losses


def bare_steps(
    encoder: Any, config: Any, processes: Any, folder: Path
) -> tuple[list[tuple[float, float]], list[float]]:
    """The same of the loop that one would write by hand."""
    import torch
    import torch.distributed as dist
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel

    from jemb.records import Tokens

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
            parts = zip(tokens.input_ids.split(ROWS), tokens.attention_mask.split(ROWS), strict=True)
            return torch.cat([self.encoder(Tokens(ids, mask)) for ids, mask in parts])

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
    for step, batch in enumerate(batches(dist.get_rank(), dist.get_world_size(), encoder.backbone.config.vocab_size)):
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

"""Memory and CPU time of a step: adapters (LoRA) against all weights.

    python -m benchmarks.lora [--rank 16] [--steps 4] [--micro-batch ROWS]

Each measurement is a process of its own with one thread: a BERT with 8 layers of 512, 32 texts of 32 tokens, forward,
backward and AdamW. Memory is what is resident after the last step, less what was before the model was made; CPU time
is the least of the steps after the first, as other programs on the machine can only add to it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import time

TEXTS, TOKENS = 32, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--micro-batch", type=int, metavar="ROWS")
    parser.add_argument("--measure", choices=["all", "lora"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(*measure(arguments.rank if arguments.measure == "lora" else 0, arguments.steps, arguments.micro_batch))
        return
    print("| trained | numbers | resident, MB | CPU s a step |\n|---|---:|---:|---:|")
    for name, words in {"all": "all weights", "lora": f"adapters of rank {arguments.rank}"}.items():
        command = [sys.executable, "-m", "benchmarks.lora", *sys.argv[1:], "--measure", name]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-3:]
        print(f"| {words} | {int(found[0]):,} | {int(found[1]) / 1e6:,.0f} | {float(found[2]):.2f} |")


def measure(rank: int, steps: int, micro_batch: int | None) -> tuple[int, int, float]:
    """(numbers that are trained, bytes, seconds)."""
    import numpy as np
    import torch

    from benchmarks.measure import resident
    from jemb.config import ModelConfig
    from jemb.core.records import Tokens
    from jemb.model import add_lora, encode_together, make_tiny
    from jemb.train.optim import make_optimizer

    torch.set_num_threads(1)
    import peft  # noqa: F401 - both with the libraries that one of them needs

    before = resident(os.getpid())
    config = ModelConfig(hidden_size=512, num_layers=8, num_heads=8, vocab_size=1000)
    encoder = make_tiny(["some words to learn"], config, seed=0, max_length=TOKENS).train()
    if rank:
        add_lora(encoder, rank=rank, alpha=None, targets=[], dropout=0.0, seed=0, base="")
    optimizer = make_optimizer(encoder, learning_rate=1e-4, weight_decay=0.01)
    ids = torch.randint(5, len(encoder.embeddings), (TEXTS, TOKENS))
    times = []
    for _ in range(steps):
        began = time.process_time()
        vectors, _ = encode_together(encoder, [Tokens(ids, np.full(TEXTS, TOKENS))], micro_batch)
        (vectors[0] @ vectors[0].T).logsumexp(1).mean().backward()
        optimizer.step()
        times.append(time.process_time() - began)
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is freed does not count
        held = resident(os.getpid()) - before  # with the gradients
        optimizer.zero_grad()
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    return trained, held, min(times[1:])


if __name__ == "__main__":
    main()

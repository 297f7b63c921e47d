"""Peak memory of encoding with gradient caching: 16 times the batch in the memory of the base batch.

python -m benchmarks.caching_memory [--device cuda]

Each measurement is a process of its own: forward and backward of a BERT over so many texts, with dropout. On the CPU
its highest resident set (libraries and model included), on a GPU the most that torch allocated.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

BASE, FACTOR, TOKENS = 64, 16, 64
LIMIT = 1.25
WAYS = {
    "base batch, plain": (BASE, {}),
    "16 x, plain": (BASE * FACTOR, {}),
    "16 x, micro_batch_size": (BASE * FACTOR, {"micro_batch_size": BASE}),
    "16 x, micro_batch_tokens": (BASE * FACTOR, {"micro_batch_tokens": BASE * TOKENS}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--measure", choices=["nothing", *WAYS], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(measure(arguments.measure, arguments.device))
        return
    found = {name: run(name, arguments.device) for name in ("nothing", *WAYS)}
    base = found["base batch, plain"]
    print(f"peak memory, {arguments.device}, texts of {TOKENS} tokens, BERT with 4 layers of 256, MiB")
    for name, size in found.items():
        above = size - found["nothing"]
        print(f"  {name:26s}{size / 2**20:9.0f}, of which texts {above / 2**20:9.0f}   {size / base:5.2f} x base")
    worst = max(size for name, size in found.items() if "micro" in name) / base
    print(f"largest with caching: {worst:.2f} x the base batch (limit {LIMIT})")
    sys.exit(worst > LIMIT)


def run(name: str, device: str) -> int:
    command = [sys.executable, "-m", "benchmarks.caching_memory", "--device", device, "--measure", name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure(name: str, device: str) -> int:
    """Peak bytes."""
    import numpy as np
    import torch

    from jemb.config import ModelConfig
    from jemb.core.records import Tokens
    from jemb.model import encode_together, make_tiny

    config = ModelConfig(hidden_size=256, num_layers=4, num_heads=4, vocab_size=1000, dropout=0.1)
    encoder = make_tiny(["some words to learn"], config, seed=0, max_length=TOKENS).to(device).train()
    for p in encoder.parameters():
        p.grad = torch.zeros_like(p)
    if name != "nothing":
        size, way = WAYS[name]
        ids = torch.randint(5, len(encoder.embeddings), (size, TOKENS), device=device)
        vectors, _ = encode_together(encoder, [Tokens(ids, np.full(size, TOKENS))], **way)
        (vectors[0] @ vectors[0].T).logsumexp(1).mean().backward()
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()

"""Embedding for the consistency filter: all-MiniLM-L6-v2 on the CPU, against SentenceTransformer.encode at its best.

    python -m benchmarks.encode [--texts 1000] [--threads 1 2] [--files PAIRS.jsonl.gz …]

The same model, texts and threads, in float32. Both run in this process, one after the other in each round; of
sentence-transformers the batch size with the best median counts. Texts are paragraphs and sentences of Python's own
documentation, or the strings in the given JSON lines. The floor is the arithmetic without padding, at the rate of a
matrix product measured here.
"""

from __future__ import annotations

import argparse
import gzip
import json
import pydoc_data.topics
import random
import re
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from benchmarks.consistency import peak
from benchmarks.measure import median_range
from jemb.model import Encoder, encode, find_folder, load_encoder
from jemb.model.encode import BATCH_TOKENS, batches

BATCH_SIZES = (16, 32, 64, 128)
OURS = "jemb"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--files", type=Path, nargs="*", default=[])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    folder = str(find_folder("all-MiniLM-L6-v2"))
    theirs, ours = SentenceTransformer(folder, device="cpu"), load_encoder(folder)
    found = read_texts(arguments.files) if arguments.files else documentation()
    texts = random.Random(0).sample(found, min(arguments.texts, len(found)))
    tokens = ours.tokenize(texts).lengths
    slots = sum(len(batch) * tokens[batch[0]] for batch in batches(tokens, BATCH_TOKENS["cpu"], len(texts)))
    print(
        f"{len(texts):,} texts, {tokens.sum():,} tokens, {np.percentile(tokens, 10):.0f} to "
        f"{np.percentile(tokens, 90):.0f} a text (10th to 90th percentile); "
        f"padding of jemb {slots / tokens.sum() - 1:.1%}"
    )
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        compare(ours, theirs, texts, tokens, threads, arguments.repeats)


def compare(
    ours: Encoder, theirs: SentenceTransformer, texts: Sequence[str], tokens: np.ndarray, threads: int, repeats: int
) -> None:
    ways: dict[str, Callable[[], np.ndarray]] = {OURS: partial(encode, ours, texts)}
    for size in BATCH_SIZES:
        ways[f"sentence-transformers, batch_size={size}"] = partial(theirs.encode, list(texts), batch_size=size)
    encode(ours, texts[:50])
    theirs.encode(list(texts[:50]))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    vectors: dict[str, np.ndarray] = {}
    for _ in range(repeats):
        for name, run in ways.items():
            began = time.perf_counter()
            vectors[name] = run()
            seconds[name].append(time.perf_counter() - began)
    best = min(statistics.median(values) for name, values in seconds.items() if name != OURS)
    print(
        f"\n| {threads} threads | seconds, median (range) | tokens/s | times faster than the best of theirs | off by |"
    )
    print("|---|---:|---:|---:|---:|")
    for name, values in seconds.items():
        median = statistics.median(values)
        off = float(np.abs(vectors[name] - vectors[OURS]).max())
        print(
            f"| {name} | {median_range(values, 2)} | {tokens.sum() / median:,.0f} | {best / median:.2f} | {off:.0e} |"
        )
    rate = peak(torch.float32, 384, columns=1536)
    floor = operations(ours, tokens) / rate
    print(f"| floor at {rate / 1e9:.0f} GFLOP/s | {floor:.2f} | {tokens.sum() / floor:,.0f} | {best / floor:.2f} | |")


def operations(encoder: Encoder, tokens: np.ndarray) -> float:
    """Floating-point operations of the matrix products in all layers, for texts of so many tokens each."""
    config = encoder.backbone.config
    width, layers = config.hidden_size, config.num_hidden_layers
    inner = config.d_ff if config.model_type == "t5" else config.intermediate_size
    linear = 2 * (4 * width * width + 2 * width * inner) * tokens.sum()
    attention = 4 * width * (tokens.astype(float) ** 2).sum()
    return float(layers * (linear + attention))


def documentation() -> list[str]:
    """Paragraphs of Python's language reference, and their sentences: 1 to some hundred words, each once."""
    paragraphs = [
        " ".join(part.split()) for topic in pydoc_data.topics.topics.values() for part in re.split(r"\n\s*\n", topic)
    ]
    sentences = [part for paragraph in paragraphs for part in re.split(r"(?<=[.:?])\s+", paragraph)]
    return list(dict.fromkeys(text for text in [*paragraphs, *sentences] if len(text) > 3))


def read_texts(files: Sequence[Path]) -> list[str]:
    """Every string field of every line, each once."""
    found: dict[str, None] = {}
    for path in files:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            for line in lines:
                found |= dict.fromkeys(value for value in json.loads(line).values() if isinstance(value, str))
    return list(found)


if __name__ == "__main__":
    main()

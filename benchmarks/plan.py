"""What the batch plan costs, whether it keeps its promises, and how evenly batches are dealt to processes.

python -m benchmarks.plan [FOLDER]     FOLDER: data sets of `jemb prepare` whose lengths to deal by
"""

from __future__ import annotations

import argparse
import math
import resource
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jemb.data import BatchPlan, PlanSource
from jemb.data.deal import PayloadSizes, deal

BATCH = 16_384
LARGE = {f"set-{number}": 5_000_000 * (1 + number % 3) for number in range(100)}
WORLDS = (2, 4, 8, 64)
MAX_LENGTH = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", nargs="?", type=Path)
    arguments = parser.parse_args()
    cost()
    shares()
    deal_drawn_lengths()
    if arguments.shards:
        deal_real_lengths(arguments.shards)


def cost() -> None:
    before = _resident()
    began = time.perf_counter()
    plan = _plan(LARGE, BATCH)
    made = time.perf_counter() - began
    whole = _median(plan.batch)
    far = _median(lambda step: plan.batch(step * 7_919_993), count=40)
    print(f"plan over {plan.num_samples:,} samples in {len(LARGE)} data sets, global batches of {BATCH:,}")
    print(f"  made in                          {1e3 * made:8.2f} ms")
    print(f"  a global batch, median           {1e3 * whole:8.2f} ms   (promised:  2.0)")
    print(f"  a global batch anywhere, median  {1e3 * far:8.2f} ms")
    print(f"  highest memory over that before  {(_resident() - before) / 2**20:8.1f} MiB  (promised: 50)")


def shares(steps: int = 100_000) -> None:
    """Batches of each data set over many steps against P(i), and passes against repeats."""
    sizes = {"a": 40, "b": 1_000, "c": 333, "d": 64, "e": 5_000}
    weights = {"a": 2.0, "b": 0.5, "d": 3.7}
    plan = _plan(sizes, 16, weights)
    counts: Counter[str] = Counter()
    rows: dict[str, list[np.ndarray]] = {name: [] for name in sizes}
    for step in range(steps):
        name, batch = plan.batch(step)
        counts[name] += 1
        rows[name].append(batch)
    print(f"shares of data sets over {steps:,} steps")
    for name, share in plan.shares.items():
        sigma = math.sqrt(steps * share * (1 - share))
        repeats = _repeats(np.concatenate(rows[name]), sizes[name])
        off = abs(counts[name] - steps * share) / sigma
        print(
            f"  {name}: P = {share:.5f}, drawn {counts[name] / steps:.5f}, {off:.3f} binomial standard deviations off; "
            f"{repeats} repeats within {len(rows[name]) * 16 // sizes[name]} passes"
        )


def deal_drawn_lengths(batches: int = 10) -> None:
    """Log-normal lengths, dealt by the very number of tokens: what dealing by bytes cannot beat."""
    draw = np.random.default_rng(0)
    drawn = [np.clip(draw.lognormal(4, 1, BATCH), 2, MAX_LENGTH).astype(np.int64) for _ in range(batches)]
    print("tokens of the fullest process / mean of all, in plan order -> dealt")
    _report("log-normal, 16,384, exact", [_imbalance(lengths, lengths) for lengths in drawn])
    print(f"  dealing 16,384 samples, one rank's share: {1e3 * _median(lambda _: deal(drawn[0], 3, 64)):.2f} ms")


def deal_real_lengths(folder: Path, batches: int = 4) -> None:
    """Dealt by bytes, judged by tokens of a tokenizer that was trained on the same texts."""
    from jemb.config import ModelConfig
    from jemb.model import make_tiny
    from jemb.shards import open_datasets

    readers = open_datasets(folder)
    texts = (
        text
        for reader in readers.values()
        for row in range(0, len(reader), max(1, len(reader) // 1000))
        for text in (reader.read(row).query, reader.read(row).positive)
    )
    tokenize = make_tiny(texts, ModelConfig(vocab_size=8192), seed=0, max_length=MAX_LENGTH).tokenize
    for size in (2048, BATCH):
        every = []
        for name, reader in readers.items():
            if len(reader) < size:
                continue
            plan = _plan({name: len(reader)}, size)
            for step in range(batches):
                rows = plan.batch(step)[1]
                samples = [reader.read(row) for row in rows.tolist()]
                sides = [[sample.query for sample in samples], [sample.positive for sample in samples]]
                lengths = sum(tokenize(side).lengths for side in sides)
                every.append(_imbalance(lengths, PayloadSizes(reader)(rows)))
            _report(f"{name}, {size:,}", every[-batches:])
        _report(f"all, {size:,}", every)


def _imbalance(lengths: np.ndarray, sizes: np.ndarray) -> list[tuple[float, float]]:
    """(in plan order, dealt) for each number of processes; lengths: tokens [B], sizes: what is dealt by [B]."""
    found = []
    for world in WORLDS:
        dealt = np.stack([deal(sizes, rank, world) for rank in range(world)])
        sums = [lengths[positions].sum(1) for positions in (np.arange(len(sizes)).reshape(world, -1), dealt)]
        found.append((sums[0].max() / sums[0].mean(), sums[1].max() / sums[1].mean()))
    return found


def _report(name: str, found: list[list[tuple[float, float]]]) -> None:
    """Means over batches."""
    cells = [f"W={world}: {b:.3f} -> {a:.4f}" for world, (b, a) in zip(WORLDS, np.mean(found, axis=0), strict=True)]
    print(f"  {name:34s}" + "   ".join(cells))


def _repeats(rows: np.ndarray, size: int) -> int:
    whole = rows[: len(rows) // size * size].reshape(-1, size)
    return int(whole.size - sum(len(np.unique(one_pass)) for one_pass in whole))


def _plan(sizes: dict[str, int], batch: int, weights: dict[str, float] | None = None) -> BatchPlan:
    sources = [PlanSource(name, size, name, (weights or {}).get(name, 1.0)) for name, size in sizes.items()]
    return BatchPlan(sources, seed=0, global_batch_size=batch)


def _median(work: Callable[[int], object], count: int = 400) -> float:
    """Seconds of CPU, so that other processes of the machine do not count."""
    times = []
    for step in range(count):
        began = time.process_time()
        work(step)
        times.append(time.process_time() - began)
    return statistics.median(times)


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()

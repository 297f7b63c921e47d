"""Consistency scoring with the vectors given: passages above the own one are counted, against faiss's flat top-2.

    python -m benchmarks.consistency [--queries 10_000] [--pool 100_000] [--dim 384] [--threads 2]

Both run in this process, one after the other in each round, on all cores; the median of the rounds counts. Not one
decision may differ. The floor is the matrix product alone, at the rate measured here. Needs faiss-cpu.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.measure import median_range
from jemb.prepare.stages.consistency import MOST, TOLERANCE
from jemb.prepare.vectors.scoring import ScoringBackend, choose_backend, count_better, exact_scores

TOP_K = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--pool", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    import faiss  # here: others want `peak` where it is not installed

    threads = arguments.threads
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    queries, own, pool = make_vectors(arguments.queries, arguments.pool, arguments.dim)
    index = faiss.IndexFlatIP(arguments.dim)
    index.add(pool)
    own_scores = exact_scores(queries, pool[own])
    limits = own_scores + TOLERANCE

    def ours(backend: ScoringBackend) -> np.ndarray:
        return count_better(queries, limits, own, pool, most=MOST, backend=backend) >= TOP_K

    def theirs() -> np.ndarray:
        scores, _ = index.search(queries, TOP_K)
        return scores[:, TOP_K - 1] > limits

    ways: dict[str, Callable[[], np.ndarray]] = {"faiss IndexFlatIP, top 2": theirs}
    fast = choose_backend(threads)
    if fast.dtype != "float32":
        ways[f"jemb, {fast.dtype} and exact near the line"] = lambda: ours(fast)
    ways["jemb, float32 and exact near the line"] = lambda: ours(ScoringBackend("float32", threads=threads))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    dropped: dict[str, np.ndarray] = {}
    for round_ in range(arguments.repeats + 1):  # the first warms up
        for name, run in ways.items():
            began = time.perf_counter()
            dropped[name] = run()
            if round_:
                seconds[name].append(time.perf_counter() - began)
    reference = dropped["faiss IndexFlatIP, top 2"]
    print(
        f"{arguments.queries:,} queries x {arguments.pool:,} passages of {arguments.dim} numbers, {threads} threads; "
        f"{reference.mean():.1%} of the queries dropped, own cosine {np.percentile(own_scores, 10):.2f} to "
        f"{np.percentile(own_scores, 90):.2f} (10th to 90th percentile)\n"
    )
    print("| | seconds, median (range) | times faster than faiss | other decisions |\n|---|---:|---:|---:|")
    base = statistics.median(seconds["faiss IndexFlatIP, top 2"])
    for name, values in seconds.items():
        median = statistics.median(values)
        differ = int((dropped[name] != reference).sum())
        print(f"| {name} | {median_range(values, 3)} | {base / median:.2f} | {differ} |")
    for dtype in dict.fromkeys(["float32", fast.dtype]):
        rate = peak(getattr(torch, dtype), arguments.dim)
        floor = 2 * arguments.queries * arguments.pool * arguments.dim / rate
        print(f"| floor: {dtype} product at {rate / 1e12:.2f} TFLOP/s | {floor:.3f} | {base / floor:.2f} | |")


def make_vectors(queries: int, pool: int, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(queries [Q, dim], rows of their own passages [Q], pool [P, dim]), unit float32 rows.

    Passages lie in clusters, as those on one subject do; queries at distances from their own that leave some among
    many nearer ones.
    """
    chosen = np.random.default_rng(0)
    subjects = chosen.standard_normal((max(1, pool // 50), dim), np.float32)
    passages = unit(
        subjects[chosen.integers(0, len(subjects), pool)] + chosen.standard_normal((pool, dim), np.float32) + 0.3
    )
    own = chosen.choice(pool, queries, replace=queries > pool)
    distance = chosen.choice(np.array([0.7, 1.2, 2.0, 3.0, 5.0], np.float32), (queries, 1))
    return (
        unit(passages[own] + distance * unit(chosen.standard_normal((queries, dim), np.float32))),
        own.astype(np.int64),
        passages,
    )


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def peak(dtype: torch.dtype, dim: int, rows: int = 1024, columns: int = 8192) -> float:
    """FLOP/s of the best of 20 matrix products."""
    a, b = torch.randn(rows, dim).to(dtype), torch.randn(columns, dim).to(dtype)
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        a @ b.T
        best = min(best, time.perf_counter() - began)
    return 2 * rows * columns * dim / best


if __name__ == "__main__":
    main()

"""Near duplicates: jemb beside its peers on the same texts, one core, with recall and precision against the truth.

    python -m benchmarks.near_duplicates [--texts 200000] [--repeats 3] [--peers daft,rensa] [--python OTHER/bin/python]
    python -m benchmarks.near_duplicates --growth 100000,1000000,10000000

The texts are words of Python's documentation in Zipf's proportions, 210 bytes on average; 15 % are copies of an earlier
one in which each word was replaced with a probability of 0 to 5 %. The truth is the Jaccard similarity of the sets of
five-word runs of all pairs, from one sparse matrix product. `--growth` runs the stage itself, from pieces on disk to
the rows it drops, with pairs and the default options.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from benchmarks import near_duplicates_peers as peers
from benchmarks.texts import pairs, vocabulary

RATES = (0.0, 0.01, 0.02, 0.03, 0.05)
COPIES = 0.15
MEAN_WORDS, LEAST_WORDS = 37, 5
PIECE_ROWS = 50_000
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def make_texts(count: int, seed: int = 0) -> list[str]:
    """The same texts for the same count, seed and Python version."""
    words, shares = vocabulary()
    chosen = np.random.default_rng(seed)
    lengths = np.maximum(LEAST_WORDS, chosen.gamma(4, MEAN_WORDS / 4, count).astype(int))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    drawn = chosen.choice(len(words), starts[-1], p=shares)
    copies = np.flatnonzero(chosen.random(count) < COPIES)
    copies = copies[copies > 0]
    origins = (chosen.random(len(copies)) * copies).astype(int)
    rates = chosen.choice(RATES, len(copies))
    rows = [drawn[start:stop] for start, stop in pairwise(starts)]
    for row, origin, rate in zip(copies.tolist(), origins.tolist(), rates, strict=True):
        changed = chosen.random(len(rows[origin])) < rate
        rows[row] = np.where(changed, chosen.choice(len(words), len(changed), p=shares), rows[origin])
    table = np.array(words, dtype=object)
    return [" ".join(table[row]) for row in rows]


def true_pairs(texts: Sequence[str]) -> np.ndarray:
    """[P, 2] of all pairs at or above the threshold."""
    sets = [set(peers.runs(text)) for text in texts]
    numbers: dict[str, int] = {}
    columns = [numbers.setdefault(run, len(numbers)) for one in sets for run in one]
    sizes = np.array([len(one) for one in sets])
    matrix = sparse.csr_array(
        (np.ones(len(columns), np.int32), columns, np.concatenate([[0], np.cumsum(sizes)])), (len(sets), len(numbers))
    )
    common = sparse.triu(matrix @ matrix.T, 1).tocoo()
    near = common.data >= peers.THRESHOLD * (sizes[common.row] + sizes[common.col] - common.data)
    return np.stack([common.row[near], common.col[near]], axis=1)


def compare(names: Sequence[str], texts: Sequence[str], repeats: int, python: str) -> None:
    """Prints a table: each tool in turn, and that `repeats` times; medians."""
    truth = true_pairs(texts)
    partners = np.zeros(len(texts), bool)
    partners[truth] = True
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "texts.txt")
        source.write_text("\n".join(texts) + "\n")
        for _ in range(repeats):
            for name in list(runs):
                try:
                    runs[name].append(_run_one(name, sys.executable if name == "jemb" else python, source))
                except subprocess.CalledProcessError as error:
                    print(f"{name} fails, left out: {error.stderr.strip().splitlines()[-1]}\n")
                    del runs[name]
    size = sum(map(len, texts)) / len(texts)
    print(f"{len(texts):,} texts of {size:.0f} bytes, {len(truth):,} true pairs; one core, median of {repeats}\n")
    print(
        "| tool | seconds | times jemb | CPU seconds | memory, MB | removed | recall of pairs | precision of removals |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    middle = {name: [statistics.median(run[key] for run in runs[name]) for key in ("seconds", "cpu")] for name in runs}
    for name, (seconds, cpu) in middle.items():
        last = runs[name][-1]
        gone = np.zeros(len(texts), bool)
        gone[last["removed"]] = True
        recall, precision = gone[truth].any(axis=1).mean(), partners[gone].mean()
        print(
            f"| {name} {last['version']} | {seconds:.2f} | {seconds / middle['jemb'][0]:.1f} | {cpu:.2f} | "
            f"{last['peak'] >> 20:,} | {gone.sum():,} | {recall:.4f} | {precision:.4f} |"
        )
    print(
        "\nRecall: of the pairs at or above the threshold, those of which not both stay. "
        "Precision: of the rows removed, those that are in such a pair."
    )


def _run_one(name: str, python: str, source: Path) -> dict[str, Any]:
    target = source.with_suffix(".npy")
    result: dict[str, Any] = json.loads(_on_one_core([python, peers.__file__, name, str(source), str(target)]))
    return result | {"removed": np.load(target)}


def grow(counts: Sequence[int], folder: Path) -> None:
    """Prints time and memory of the stage on 1 core for each number of pairs, in a fresh process each."""
    print("| pairs | seconds | CPU seconds | microseconds a pair | to the first | peak resident, MB | dropped |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    first = 0.0
    for count in counts:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = _write_pieces(count, Path(work))
            command = [sys.executable, "-m", "benchmarks.near_duplicates", "--stage", work, "--pieces", str(made)]
            result = json.loads(_on_one_core(command))
        each = result["seconds"] / count * 1e6
        first = first or each
        print(
            f"| {count:,} | {result['seconds']:.1f} | {result['cpu']:.1f} | {each:.2f} | {each / first:.2f} | "
            f"{result['peak'] >> 20:,} | {result['dropped']:,} |",
            flush=True,
        )


def run_stage(folder: Path, num_pieces: int) -> None:
    """What a process of `grow` does."""
    from jemb.prepare.engine.executor import LocalExecutor
    from jemb.prepare.engine.job import Job
    from jemb.prepare.engine.table import Piece, Table
    from jemb.prepare.near.join import find_near_duplicates, join
    from jemb.prepare.stages.near_duplicates import NearDuplicatesConfig

    find_near_duplicates(
        ["to compile", "what is used"] * 100 + [f"the same text {n}" for n in range(100)], NearDuplicatesConfig(), 0
    )
    pieces = []
    for number in range(num_pieces):
        with pa.memory_map(str(folder / f"{number}.arrow")) as file:
            rows = pa.ipc.open_file(file).get_batch(0).num_rows
        pieces.append(Piece(folder / f"{number}.arrow", number * PIECE_ROWS, PIECE_ROWS, rows))
    (folder / "work").mkdir()
    began, cpu = time.perf_counter(), time.process_time()
    with LocalExecutor(1) as executor:
        dropped = join(Table(tuple(pieces)), Job(folder / "work", executor, "growth"), NearDuplicatesConfig(), 0)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak, "dropped": len(dropped.ids)}))


def _write_pieces(count: int, folder: Path) -> int:
    from jemb.prepare.engine.table import PIECE_SCHEMA, write_table
    from jemb.prepare.source.record_fields import Row

    rows, number = pairs(count), 0
    while part := list(islice(rows, PIECE_ROWS)):
        records = [Row(place, row["query"], row["positive"], (), "") for place, row in enumerate(part)]
        write_table(
            folder / f"{number}.arrow", pa.table(list(map(list, zip(*records, strict=True))), schema=PIECE_SCHEMA)
        )
        number += 1
    return number


def _on_one_core(command: Sequence[str]) -> str:
    """The last line of what it prints."""
    core = {max(os.sched_getaffinity(0))}
    done = subprocess.run(
        command, env=os.environ | ONE_CORE, capture_output=True, text=True, check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, core),
    )  # fmt: skip
    return done.stdout.strip().splitlines()[-1]


def _installed(name: str, python: str) -> bool:
    package = peers.PACKAGES.get(name, name).replace("-", "_")
    if python == sys.executable:
        return importlib.util.find_spec(package) is not None
    probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return not subprocess.run([python, "-c", probe], check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", default=",".join(name for name in peers.PEERS if name != "jemb"))
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environment with the peers")
    parser.add_argument("--growth", help="numbers of pairs, with commas between; nothing else is measured")
    parser.add_argument("--folder", type=Path, help="where --growth keeps its files, 1.2 GB a million pairs")
    parser.add_argument("--stage", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pieces", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        run_stage(options.stage, options.pieces)
    elif options.growth:
        grow([int(count) for count in options.growth.split(",")], options.folder)
    else:
        asked = [name for name in options.peers.split(",") if name]
        there = [name for name in asked if _installed(name, options.python)]
        if missing := sorted(set(asked) - set(there)):
            print(f"not installed for {options.python}, left out: {', '.join(missing)}\n")
        compare(["jemb", *there], make_texts(options.texts), options.repeats, options.python)


if __name__ == "__main__":
    main()

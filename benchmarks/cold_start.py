"""From nothing to the first batch when the manifest has 10^8 samples: time and memory, against the peers' samplers.

    python -m benchmarks.cold_start [--samples 100_000_000]

One shard of 25,000 pairs is written and linked 4,000 times, so the files are real and the disk is not full of them.
Each way runs in a process of its own, libraries imported before the clock starts: open the data, decide the order, give
the first 256 pairs (`jemb`, mosaicml-streaming) or their numbers (the sampler of sentence-transformers' trainer, which
is torch's). Memory is what the process has more at its peak than before. Then the same for a run that goes on at step
100,000, at most half way through the samples. mosaicml-streaming is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.measure import forget, highest, median_range, resident

BATCH, SHARD, LATER = 256, 25_000, 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(WAYS[arguments.way](arguments.folder, arguments.samples, arguments.step)))
        return
    ways = [name for name in WAYS if name != "mosaicml-streaming" or importlib.util.find_spec("streaming")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_jemb(folder / "jemb", arguments.samples)
        if "mosaicml-streaming" in ways:
            write_streaming(folder / "streaming", arguments.samples)
        print(f"| {arguments.samples:,} samples | first step | seconds, median (range) | MB |\n|---|---:|---:|---:|")
        for way in ways:
            for step in (0, min(LATER, arguments.samples // BATCH // 2)):
                runs = [measure(way, folder, arguments.samples, step) for _ in range(arguments.repeats)]
                seconds = [run["seconds"] for run in runs]
                print(
                    f"| {way} | {step:,} | {median_range(seconds, 2)} | "
                    f"{statistics.median(run['bytes'] for run in runs) / 1e6:,.0f} |",
                    flush=True,
                )


def measure(way: str, folder: Path, samples: int, step: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.cold_start", "--way", way, "--folder", str(folder)]
    command += ["--samples", str(samples), "--step", str(step)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(f"{way}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


class Clock:
    """Time, and the highest resident memory above what there is now."""

    def __init__(self) -> None:
        forget()  # the highest so far is what there is now
        self.memory = resident(os.getpid())
        self.began = time.perf_counter()

    def read(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.began
        return {"seconds": seconds, "bytes": highest() - self.memory}


def jemb(folder: Path, samples: int, step: int) -> dict[str, float]:
    from jemb.data import BatchPlan, PlanSource
    from jemb.shards import open_datasets

    clock = Clock()
    readers = open_datasets(folder / "jemb")
    sources = [PlanSource(name, len(reader), reader.manifest.fingerprint, 1.0) for name, reader in readers.items()]
    name, rows = BatchPlan(sources, seed=0, global_batch_size=BATCH).batch(step)
    found = [readers[name].read(row) for row in rows.tolist()]
    assert len({id(sample) for sample in found}) == BATCH
    return clock.read()


def sampler(folder: Path, samples: int, step: int) -> dict[str, float]:
    import torch
    from torch.utils.data import BatchSampler, RandomSampler

    generator = torch.Generator()
    clock = Clock()
    batches = iter(BatchSampler(RandomSampler(range(samples), generator=generator), BATCH, drop_last=True))
    for _ in range(step + 1):  # transformers' trainer skips what a run has had already
        batch = next(batches)
    assert len(batch) == BATCH
    return clock.read()


def streaming(folder: Path, samples: int, step: int) -> dict[str, float]:
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    clock = Clock()
    data = StreamingDataset(local=str(folder / "streaming"), batch_size=BATCH, shuffle=True)
    loader = DataLoader(data, batch_size=BATCH, collate_fn=list)
    if step:
        data.load_state_dict(
            {
                "epoch": 0,
                "sample_in_epoch": step * BATCH,
                "num_canonical_nodes": 64,
                "shuffle_seed": 9176,
                "initial_physical_nodes": 1,
            }
        )
    assert len(next(iter(loader))) == BATCH
    found = clock.read()
    os._exit(print(json.dumps(found), flush=True) or 0)  # its threads do not end with the first batch


WAYS = {"jemb": jemb, "sampler of sentence-transformers": sampler, "mosaicml-streaming": streaming}


def write_jemb(folder: Path, samples: int) -> None:
    from benchmarks.texts import pairs, write_shards
    from jemb.shards.manifest import write_manifest

    manifest = write_shards(folder, pairs(SHARD), SHARD)
    (first,) = manifest.shards
    linked = [replace(first, file=f"shard-{number:06d}.tar") for number in range(samples // SHARD)]
    for info in linked[1:]:
        os.link(folder / first.file, folder / info.file)
        os.link(folder / first.index_file, folder / info.index_file)
    write_manifest(folder, replace(manifest, shards=tuple(linked)))


def write_streaming(folder: Path, samples: int) -> None:
    from streaming import MDSWriter

    from benchmarks.texts import pairs

    with MDSWriter(out=str(folder), columns={"query": "str", "positive": "str"}, size_limit=1 << 30) as writer:
        for row in pairs(SHARD):
            writer.write(row)
    index = json.loads((folder / "index.json").read_text())
    (first,) = index["shards"]
    index["shards"] = []
    for number in range(samples // SHARD):
        name = f"shard.{number:05d}.mds"
        if number:
            os.link(folder / first["raw_data"]["basename"], folder / name)
        index["shards"].append({**first, "raw_data": {**first["raw_data"], "basename": name}})
    (folder / "index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    main()

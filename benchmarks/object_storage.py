"""Shards behind s3:// against the same shards in a folder: with a warm cache, with a cold one, and with one too small.

    python -m benchmarks.object_storage [--pairs 60000] [--rounds 5]

The S3 server is moto's, a Python process on this machine: it takes CPU from the readers while it serves and gives less
than any real one, so download speeds are to be held against the bare download of the same files. All ways take turns,
each round in a process of its own; the median counts. The readers are compared by the CPU time of all their processes,
which other jobs of the machine hardly touch; downloads and training by the clock, which needs a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.measure import print_rates
from benchmarks.texts import pairs, write_shards
from tests.helpers.object_store import BUCKET, CREDENTIALS, put_folder, s3_server

BATCH, SHARD, WINDOW = 256, 2_500, 4
os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="of training")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, s3_server() as port:
        root = Path(name)
        os.environ |= {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "JEMB_CACHE": str(root / "cache")}
        folder = root / "shards"
        write_shards(folder, pairs(arguments.pairs), SHARD)
        put_folder(port, folder, "shards")
        url = f"s3://{BUCKET}/shards"
        size = sum(path.stat().st_size for path in folder.glob("*.tar"))
        print(f"{arguments.pairs:,} pairs, {len(list(folder.glob('*.tar')))} shards, {size / 1e6:.0f} MB")
        rows: dict[str, Way] = {"folder": lambda: read(str(folder)), "s3, warm cache": lambda: read(url)}
        batches: dict[str, Way] = {
            "folder": lambda: load(str(folder)),
            "s3, warm cache": lambda: load(url),
            "s3, cold cache": lambda: cold(root, lambda: load(url)),
            "folder, shuffle_shards=4": lambda: load(str(folder), WINDOW),
            "s3, cold cache of half the data, shuffle_shards=4": lambda: cold(
                root, lambda: load(url, WINDOW, size / 2)
            ),
        }
        for title, ways in {
            "reading alone, pairs per second of CPU": rows,
            "reading and tokenising, pairs per second of CPU": batches,
        }.items():
            in_a_process(lambda: read(url))  # warms the cache, and the page cache
            apart = {name: partial(in_a_process, way) for name, way in ways.items()}
            print_rates(title, apart, arguments.rounds, "folder")
        speeds = [in_a_process(lambda: cold(root, lambda: bare(url))) / 1e6 for _ in range(arguments.rounds)]
        print(f"\nbare download with s3fs, 4 at a time: {statistics.median(speeds):.0f} MB/s")
        speeds = [in_a_process(lambda: cold(root, lambda: fetch(url))) / 1e6 for _ in range(arguments.rounds)]
        print(f"into the cache (checksum, fsync), 4 at a time: {statistics.median(speeds):.0f} MB/s")
        in_a_process(lambda: read(url))
        places = {"folder": str(folder), "s3, warm cache": url}
        train = {where: partial(training, root, place, arguments.steps) for where, place in places.items()}
        print_rates("jemb train model=tiny, tokens/s", train, min(3, arguments.rounds), "folder")


Way = Callable[[], float]


def in_a_process(work: Way) -> float:
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    process = context.Process(target=lambda: answer.put(work()))
    process.start()
    process.join()
    assert process.exitcode == 0
    return float(answer.get())


def cold(root: Path, work: Way) -> float:
    """With no cache before, and the caller's one back after it."""
    cache, aside = root / "cache", root / "aside"
    if cache.exists():
        cache.rename(aside)
    try:
        return work()
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        if aside.exists():
            aside.rename(cache)


def read(place: str) -> float:
    """Every row once, in an order that touches all shards all the time. Opening the data set is not counted. By CPU
    time: what differs is system calls, and other jobs of the machine do not count."""
    from jemb.data.permutation import shuffled
    from jemb.shards import open_datasets

    (reader,) = open_datasets(place).values()
    rows = shuffled(len(reader), 7).tolist()
    began = cpu()
    for row in rows:
        reader.read(row)
    return len(rows) / (cpu() - began)


def load(place: str, window: int | None = None, limit: float | None = None) -> float:
    """One pass of batches of the loader with one process, by CPU time of both, read-ahead and downloads included."""
    import torch

    from jemb.config import ModelConfig
    from jemb.data import BatchPlan, Collate, GlobalBatchSampler, PlanSource, ReadAhead, StepDataset, make_loader
    from jemb.model import make_tiny
    from jemb.shards import ShardCache, open_datasets

    torch.set_num_threads(1)
    readers = open_datasets(place, ShardCache(None, limit / 1e9 if limit else None))
    (reader,) = readers.values()
    texts = [text for sample in reader.spread(500) if not isinstance(sample, Exception) for text in (sample.query,)]
    encoder = make_tiny(texts, ModelConfig(vocab_size=2000), seed=0, max_length=64)
    sizes = tuple(shard.num_samples for shard in reader.manifest.shards)
    source = PlanSource("pairs", len(reader), reader.manifest.fingerprint, 1.0, sizes)
    plan = BatchPlan([source], seed=0, global_batch_size=BATCH, shuffle_shards=window)
    stop = len(reader) // BATCH
    data = StepDataset(
        plan,
        readers,
        Collate(encoder.tokenize, 0, seed=0),
        ahead=ReadAhead(plan, readers, steps=1000, stop=stop, lag=3),
    )
    began = cpu()
    count = sum(len(batch.keys) for batch in make_loader(data, 1, batch_sampler=GlobalBatchSampler(plan, steps=stop)))
    return count / (cpu() - began)


def cpu() -> float:
    """Seconds of CPU of this process and those it has started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def bare(url: str) -> float:
    """Bytes a second of the tars, to /dev/null."""
    import fsspec

    files, path = fsspec.core.url_to_fs(url)
    names = files.glob(f"{path}/*.tar")
    began = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        total = sum(pool.map(lambda name: len(files.cat_file(name)), names))
    return total / (time.perf_counter() - began)


def fetch(url: str) -> float:
    from jemb.shards import open_datasets

    (reader,) = open_datasets(url).values()
    tars = reader.tars
    assert tars is not None
    began = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(tars.fetch, reader.manifest.shards))
    return reader.manifest.bytes / (time.perf_counter() - began)


def training(root: Path, place: str, steps: int) -> float:
    """Median tokens a second of the steps after the first ten."""
    shutil.rmtree(root / "run", ignore_errors=True)
    options = [f"shards={place}", f"output={root / 'run'}", f"max_steps={steps}", f"global_batch_size={BATCH}"]
    more = ["max_length=64", "model.vocab_size=2000", "trackers=[]"]
    subprocess.run([sys.executable, "-m", "jemb.app.train", *options, *more], check=True, stderr=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (root / "run" / "metrics.jsonl").read_text().splitlines()]
    waited = sum(line["loader_wait_seconds"] for line in lines[10:]) / (lines[-1]["time"] - lines[9]["time"])
    print(f"  {place}: waited for the loader {100 * waited:.1f} % of the time", flush=True)
    return statistics.median(line["tokens_per_second"] for line in lines[10:])


if __name__ == "__main__":
    main()

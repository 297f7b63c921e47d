"""The loader on one core, stage by stage: read, then read and tokenise, against the peers' ways to do the same.

    python -m benchmarks.loader [--pairs 100_000]

Reading: our random access (the plan's rows, one `pread` and one JSON parse each) against webdataset's stream of the
same tars with its shuffle buffer, without tokenising. Tokenising: our whole loader (plan, read, tokenise, hash, pad)
against the bare tokenizer on the same texts, the same from the ids of `jemb tokenize`, and sentence-transformers'
loader (memory-mapped Arrow rows and its collator). Everything is in this one process, one after the other in each
round; the median counts. Files are in the page cache. Floor of reading: the JSON parse alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import print_rates

os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

BATCH = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_data(folder, arguments.pairs)
        read = {"json.loads alone": json_alone(rows), "jemb": our_rows(folder), "webdataset": webdataset_rows(folder)}
        rates = {name: partial(rate_of, way) for name, way in read.items()}
        print_rates("reading, pairs/s", rates, arguments.repeats, against="webdataset")
        few = max(BATCH, arguments.pairs // 10 // BATCH * BATCH)
        batches = {
            "the bare tokenizer": bare_tokenizer(rows[:few]),
            "jemb": our_batches(folder, few),
            "jemb, ids of `jemb tokenize`": our_batches(folder, few, stored=True),
            "sentence-transformers": peer_batches(folder, few),
        }
        rates = {name: partial(rate_of, way) for name, way in batches.items()}
        print_rates("reading and tokenising, pairs/s", rates, arguments.repeats, against="the bare tokenizer")


def rate_of(way: Callable[[], int]) -> float:
    began = time.perf_counter()
    return way() / (time.perf_counter() - began)


def write_data(folder: Path, count: int) -> list[dict[str, str]]:
    from benchmarks.texts import pairs, write_shards

    rows = list(pairs(count))
    write_shards(folder / "shards", rows)
    with (folder / "pairs.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return rows


def json_alone(rows: list[dict[str, str]]) -> Callable[[], int]:
    payloads = [json.dumps(row).encode() for row in rows]

    def run() -> int:
        for payload in payloads:
            json.loads(payload)
        return len(payloads)

    return run


def make_plan(folder: Path) -> tuple[Any, dict[str, Any]]:
    from jemb.data import BatchPlan, PlanSource
    from jemb.shards import open_datasets

    readers = open_datasets(folder / "shards")
    sources = [PlanSource(name, len(reader), reader.manifest.fingerprint, 1.0) for name, reader in readers.items()]
    return BatchPlan(sources, seed=0, global_batch_size=BATCH), readers


def our_rows(folder: Path) -> Callable[[], int]:
    plan, readers = make_plan(folder)
    steps = min(map(len, readers.values())) // BATCH

    def run() -> int:
        for step in range(steps):
            name, rows = plan.batch(step)
            for row in rows.tolist():
                readers[name].read(row)
        return steps * BATCH

    return run


def webdataset_rows(folder: Path) -> Callable[[], int]:
    import webdataset

    urls = [str(path) for path in sorted((folder / "shards").glob("*.tar"))]

    def run() -> int:
        stream = webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(10_000).decode()
        return sum(1 for _ in stream)

    return run


def bare_tokenizer(rows: list[dict[str, str]]) -> Callable[[], int]:
    from tokenizers import Tokenizer

    from jemb.model import find_folder

    tokenizer = Tokenizer.from_file(str(find_folder("all-MiniLM-L6-v2") / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    sides = [
        [row[side] for row in rows[start : start + BATCH]]
        for start in range(0, len(rows), BATCH)
        for side in ("query", "positive")
    ]

    def run() -> int:
        for texts in sides:
            tokenizer.encode_batch_fast(texts)
        return len(rows)

    return run


def our_batches(folder: Path, count: int, stored: bool = False) -> Callable[[], int]:
    from jemb.config import TokenizeConfig
    from jemb.data import Collate, GlobalBatchSampler, StepDataset
    from jemb.data.deal import PayloadSizes
    from jemb.model import find_folder, load_encoder
    from jemb.pretokenize import pretokenize
    from jemb.shards.tokens import open_tokens

    plan, readers = make_plan(folder)
    model = str(find_folder("all-MiniLM-L6-v2"))
    encoder = load_encoder(model, max_length=256)
    collate = Collate(tokenize=encoder.tokenize, num_negatives=0, seed=0, pad_id=encoder.tokenize.pad_id)
    tokens = None
    if stored:
        shards, output = str(folder / "shards"), str(folder / "tokens")
        pretokenize(TokenizeConfig(shards=shards, model=model, output=output, max_length=256))
        tokens = open_tokens(output, readers, encoder)
    dataset = StepDataset(plan, readers, collate, tokens=tokens)
    lengths = {name: PayloadSizes(reader) for name, reader in readers.items()}
    sampler = GlobalBatchSampler(plan, lengths=lengths)

    def run() -> int:
        for step in range(count // BATCH):
            dataset.__getitems__(sampler.share(step, 0, 1))
        return count

    return run


def peer_batches(folder: Path, count: int) -> Callable[[], int]:
    from datasets import load_dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
    from torch.utils.data import DataLoader

    from jemb.model import find_folder

    model = SentenceTransformer(str(find_folder("all-MiniLM-L6-v2")), device="cpu")
    rows = load_dataset("json", data_files=str(folder / "pairs.jsonl"), split="train", cache_dir=str(folder / "cache"))
    rows = rows.select_columns(["query", "positive"])
    collate = SentenceTransformerDataCollator(preprocess_fn=model.preprocess)

    def run() -> int:
        loader = DataLoader(rows, batch_size=BATCH, shuffle=True, collate_fn=collate)
        for _ in itertools.islice(loader, count // BATCH):
            pass
        return count

    return run


if __name__ == "__main__":
    main()

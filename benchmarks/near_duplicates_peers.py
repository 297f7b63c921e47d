"""Near-duplicate tools, each with its fastest documented way and the same shingles: runs of five words.

`python near_duplicates_peers.py NAME TEXTS.txt OUT.npy` runs one on the lines of a file (lower-case words, one space
between), prints `{"seconds", "cpu", "version", "peak"}`, and saves which rows it removes. It needs no jemb, so that
peers can live in another environment.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

THRESHOLD, HASHES, WORDS, SEED = 0.8, 128, 5, 1
WARM = 300
"""Texts of a first run, which does not count: imports, compilation, caches."""


def jemb(texts: Sequence[str]) -> list[int]:
    from jemb.prepare.near.join import find_near_duplicates
    from jemb.prepare.stages.near_duplicates import NearDuplicatesConfig

    config = NearDuplicatesConfig(shingle="word", ngram=WORDS, threshold=THRESHOLD, num_perm=HASHES)
    names = find_near_duplicates(texts, config, SEED)
    return [row for row, name in enumerate(names.tolist()) if name != row]


def datasketch(texts: Sequence[str]) -> list[int]:
    """Bands as it computes them for the threshold."""
    import xxhash
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=HASHES)
    made = MinHash.generator(
        ([run.encode() for run in runs(text)] for text in texts),
        num_perm=HASHES,
        seed=SEED,
        hashfunc=xxhash.xxh32_intdigest,
    )
    hashes = list(made)
    with lsh.insertion_session(buffer_size=len(texts)) as session:
        for row, one in enumerate(hashes):
            session.insert(row, one, check_duplication=False)
    return connected(len(texts), ((row, other) for row, one in enumerate(hashes) for other in lsh.query(one)))


def rensa(texts: Sequence[str]) -> list[int]:
    """R-MinHash of all shingles, candidates checked by their signatures."""
    from rensa import RMinHashDeduplicator

    found = RMinHashDeduplicator(THRESHOLD, HASHES, True)
    kept = found.add_pairs((str(row), runs(text)) for row, text in enumerate(texts))
    return [row for row, keep in enumerate(kept) if not keep]


def rensa_rho(texts: Sequence[str]) -> list[int]:
    """Rho: a sample of the shingles, bands of 16. It only says which rows have a duplicate, not of which."""
    from rensa import RMinHash, RMinHashLSH

    matrix = RMinHash.digest_matrix_from_token_sets_rho([runs(text) for text in texts], HASHES, SEED)
    flags = RMinHashLSH(THRESHOLD, HASHES, 8).query_duplicate_flags_matrix_one_shot(matrix)
    return [row for row, flag in enumerate(flags) if flag]


def gaoya(texts: Sequence[str]) -> list[int]:
    """16 bands of 8, candidates checked by their signatures."""
    from gaoya.minhash import MinHashStringIndex

    index = MinHashStringIndex(
        hash_size=32, jaccard_threshold=THRESHOLD, num_bands=16, band_size=8, analyzer="word", lowercase=False,
        ngram_range=(WORDS, WORDS), id_container="smallvec",
    )  # fmt: skip
    index.par_bulk_insert_docs(list(range(len(texts))), list(texts))
    found = index.par_bulk_query(list(texts))
    return connected(len(texts), ((row, other) for row, others in enumerate(found) for other in others))


def daft(texts: Sequence[str]) -> list[int]:
    """9 bands of 13, as its guide takes them from datasketch."""
    import daft
    from daft import col

    rows, bands = 13, 9
    frame = daft.from_pydict({"id": list(range(len(texts))), "text": list(texts)})
    hashes = col("text").minhash(num_hashes=rows * bands, ngram_size=WORDS, seed=SEED, hash_function="xxhash3_64")
    frame = frame.select(col("id"), daft.functions.chunk(hashes, rows).alias("band"))
    frame = frame.with_column("number", daft.lit(list(range(bands)))).explode("band", "number")
    frame = frame.groupby("number", "band").agg(col("id").list_agg().alias("ids"))
    frame = frame.where(daft.functions.list_count(col("ids")) > 1).select("ids")
    groups = frame.to_pydict()["ids"]
    return connected(len(texts), ((group[0], other) for group in groups for other in group[1:]))


def text_dedup(texts: Sequence[str]) -> list[int]:
    import click
    import datasets
    from text_dedup import minhash
    from text_dedup.utils import IOArgs, MetaArgs, MinHashArgs

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        datasets.Dataset.from_dict({"text": list(texts)}).save_to_disk(f"{folder}/in")
        with click.Context(minhash.main) as context:
            context.invoke(
                minhash.main,
                io_args=IOArgs(
                    path=f"{folder}/in", local=True, output=f"{folder}/out", cache_dir=f"{folder}/cache", num_proc=1
                ),
                meta_args=MetaArgs(column="text"),
                minhash_args=MinHashArgs(
                    ngram=WORDS, min_length=1, num_perm=HASHES, threshold=THRESHOLD, hash_func="xxh3", hash_bits=32
                ),
            )
    return [row for row in range(len(texts)) if minhash.uf.find(row) != row]


def datatrove(texts: Sequence[str]) -> list[int]:
    """16 bands of 8."""
    import struct

    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.utils.hashing import HashConfig

    config = MinhashConfig(
        n_grams=WORDS, num_buckets=16, hashes_per_bucket=8, hash_config=HashConfig(precision=64, hash_fc="xxhash")
    )
    with tempfile.TemporaryDirectory() as folder:
        lines = "".join(json.dumps({"id": str(row), "text": text}) + "\n" for row, text in enumerate(texts))
        Path(folder, "in").mkdir()
        Path(folder, "in", "texts.jsonl").write_text(lines)
        steps = [
            ([JsonlReader(f"{folder}/in"), MinhashDedupSignature(f"{folder}/signatures", config)], 1),
            ([MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)], 16),
            ([MinhashDedupCluster(f"{folder}/buckets", f"{folder}/removed", config=config)], 1),
        ]
        for number, (pipeline, tasks) in enumerate(steps):
            LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=f"{folder}/log-{number}").run()
        data = b"".join(path.read_bytes() for path in Path(folder, "removed").glob("*.remove"))
        return [row for (row,) in struct.iter_unpack("<I", data)]


PEERS: dict[str, Callable[[Sequence[str]], list[int]]] = {
    "jemb": jemb,
    "daft": daft,
    "rensa": rensa,
    "rensa_rho": rensa_rho,
    "gaoya": gaoya,
    "datasketch": datasketch,
    "text_dedup": text_dedup,
    "datatrove": datatrove,
}
PACKAGES = {"rensa_rho": "rensa", "text_dedup": "text-dedup"}


def runs(text: str) -> list[str]:
    """Its runs of five words; the text itself when it is shorter."""
    words = text.split(" ")
    return [" ".join(words[start : start + WORDS]) for start in range(max(1, len(words) - WORDS + 1))]


def connected(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Rows that are not the lowest of their component."""
    parents = list(range(count))

    def find(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for one, other in pairs:
        one, other = find(one), find(other)
        if one != other:
            parents[max(one, other)] = min(one, other)
    return [row for row in range(count) if find(row) != row]


def main(name: str, source: str, target: str) -> None:
    import numpy as np

    texts = Path(source).read_text().splitlines()
    run = PEERS[name]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run(texts[:WARM])
        began, cpu = time.perf_counter(), time.process_time()
        removed = run(texts)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    np.save(target, np.array(removed, np.int64))
    version = importlib.metadata.version(PACKAGES.get(name, name))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(json.dumps({"seconds": seconds, "cpu": cpu, "version": version, "peak": peak}), flush=True)
    os._exit(0)  # some leave threads behind


if __name__ == "__main__":
    main(*sys.argv[1:])

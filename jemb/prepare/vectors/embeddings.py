"""Vectors of texts: each distinct one is encoded once, and kept in files.

Before: any stage. After: `consistency.py` and `mine.py` take the vectors of the texts they compare.

    texts -> `number_texts` -> a number for each distinct text
          -> embed          -> a file of vectors for each block of numbers; with a cache, found there if made before

A block holds the same texts whatever runs beside it, and on the CPU is encoded by one thread. So the same bits come
out, however many workers there are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from jemb.core.errors import Failure
from jemb.core.files import link_file, write_array
from jemb.prepare.engine.executor import LocalExecutor
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Table
from jemb.prepare.equal import Numbers, digest
from jemb.prepare.registry import Encode
from jemb.prepare.vectors.numbering import (
    NUMBERS,
    FileTexts,
    JoinedTexts,
    PairTexts,
    Prompts,
    Texts,
    number_texts,
    read_texts,
)
from jemb.prepare.vectors.stored import whole_array

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]

BLOCK = 2048
"""Texts of a task: on one core some five seconds of all-MiniLM-L6. More where there would be over `MOST_BLOCKS`."""
MOST_BLOCKS = 4096
SERIAL_BELOW = 4000
"""Texts that are encoded in this process: before another one has loaded a model, these are done."""
TRIED = 64
"""Texts that are encoded to tell beforehand how long all will take."""
COPIED = 65_536
"""Vectors copied at once."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The vectors of T texts, U of them distinct: of M documents, then of query and positive of N rows, where a table
    was given. Picklable; holds none of them.

    folder: of `numbers.npy`, int64 [T]: numbers of the texts, in their order; and of the blocks, float32 [block, dim]
    each: unit vectors of texts 0, 1, … in order of first appearance. rows: N. texts: U. documents: M.
    """

    folder: Path
    rows: int
    texts: int
    block: int
    dim: int
    documents: int = 0

    def numbers(self, start: int = 0, stop: int | None = None) -> tuple[Numbers, Numbers]:
        """Numbers of the queries and of the positives of live rows start to stop."""
        stop = self.rows if stop is None else stop
        first = np.load(self.folder / NUMBERS, mmap_mode="r")[self.documents + 2 * start : self.documents + 2 * stop]
        return np.array(first[0::2]), np.array(first[1::2])

    def document_numbers(self) -> Numbers:
        """Numbers of the documents."""
        return np.array(np.load(self.folder / NUMBERS, mmap_mode="r")[: self.documents])

    def take(self, numbers: Numbers) -> Vectors:
        """Vectors of the texts of these numbers, [len(numbers), dim]. Fastest where neighbours are near each other."""
        vectors = np.empty((len(numbers), self.dim), np.float32)
        order = np.argsort(numbers, kind="stable")
        blocks, first = np.unique(numbers[order] // self.block, return_index=True)
        for block, places in zip(blocks.tolist(), np.split(order, first[1:]), strict=True):
            stored = np.load(_block_file(self.folder, block), mmap_mode="r")
            vectors[places] = stored[numbers[places] - block * self.block]
        return vectors

    def write(self, numbers: Numbers, path: Path) -> None:
        """Write the vectors of the texts of these numbers to one file, to be read as `StoredVectors`."""
        with whole_array(path, np.dtype(np.float32), (len(numbers), self.dim)) as vectors:
            for start in range(0, len(numbers), COPIED):
                vectors[start : start + COPIED] = self.take(numbers[start : start + COPIED])


def embed(
    table: Table,
    job: Job,
    name: str,
    make_encoder: Callable[[str], Encode],
    cache: str | None = None,
    corpus: FileTexts | None = None,
) -> Embeddings:
    """Encode the documents of a corpus, if there is one, and the queries and positives of the live rows of `table`.

    As `embed_texts`, with what belongs before queries and before passages: the encoder's own, by the attribute
    `prompts` of `make_encoder`, a function of the name. The corpus comes first, so that a cache has the same blocks of
    it whatever the table.
    """
    prompts = encoder_prompts(make_encoder, name)
    pairs = PairTexts(table, prompts)
    texts = JoinedTexts((replace(corpus, prompt=prompts[1]), pairs)) if corpus else pairs
    made = embed_texts(texts, job, name, make_encoder, cache)
    return replace(made, rows=sum(table.counts()), documents=sum(corpus.counts()) if corpus else 0)


def encoder_prompts(make_encoder: Callable[[str], Encode], name: str) -> Prompts:
    """What the encoder wants before queries and before passages."""
    return make_encoder.prompts(name) if hasattr(make_encoder, "prompts") else ("", "")


def embed_texts(
    texts: Texts, job: Job, name: str, make_encoder: Callable[[str], Encode], cache: str | None = None
) -> Embeddings:
    """Encode each distinct text once.

    make_encoder: name of the encoder -> texts to unit vectors. Called once in each worker, so equal ones must be equal
    after pickling too (a function, a frozen dataclass). cache: folder in which vectors are kept for later jobs, under
    the digest of their texts and the `identity` that the encoder has as an attribute; without that they are not kept.
    Memory of this process: that of `number_texts`. Disk: 4 * dim bytes a text, in the job's folder.
    Raises `Failure` when an encoder gives another shape or numbers that are not finite.
    """
    distinct = number_texts(texts, job)
    block = BLOCK
    while block * MOST_BLOCKS < distinct:
        block *= 2
    work = _Work(texts, job.folder, block, name, make_encoder, cache)
    sizes = [min(block, distinct - start) for start in range(0, distinct, block)]
    blocks = range(len(sizes))
    if distinct >= SERIAL_BELOW and isinstance(job.executor, LocalExecutor) and not job.is_done("embed", blocks[0]):
        _say_estimate(work, distinct, job)
    results = job.map(
        "embed", partial(_embed, work), blocks, sizes=sizes, unit="text", gpu=True, serial_below=SERIAL_BELOW
    )
    if found := sum(size for size, result in zip(sizes, results, strict=True) if result["found"]):
        log.info("%s: %d of %d vectors were in the cache", job.label, found, distinct)
    return Embeddings(job.folder, 0, distinct, block, results[0]["dim"] if results else 0)


@dataclass(frozen=True, slots=True)
class _Work:
    """What every task of `embed` needs."""

    texts: Texts
    folder: Path
    block: int
    name: str
    make_encoder: Callable[[str], Encode]
    cache: str | None


def _say_estimate(work: _Work, texts: int, job: Job) -> None:
    """How long it will take, from the first texts, before hours may have begun."""
    sample = read_texts(work.texts, work.folder, 0, TRIED)
    encode = _encoder(work.make_encoder, work.name)
    encode(sample[:2])  # what only the first call costs
    began = time.monotonic()
    encode(sample)
    seconds = max(time.monotonic() - began, 1e-3)
    log.info(
        "%s: %s distinct texts to encode with %s, about %s on %d processes (%.3g texts a second on one); those in the "
        "cache of vectors take no time",
        job.label,
        f"{texts:,}",
        work.name,
        tqdm.format_interval(seconds / len(sample) * texts / job.executor.workers),
        job.executor.workers,
        len(sample) / seconds,
    )


def _embed(work: _Work, block: int) -> dict[str, Any]:
    """Leave the vectors of a block; {"dim": their length, "found": whether the cache had them}."""
    path = _block_file(work.folder, block)
    texts = read_texts(work.texts, work.folder, block * work.block, (block + 1) * work.block)
    encode = _encoder(work.make_encoder, work.name)
    identity = getattr(encode, "identity", None)
    if work.cache is None or identity is None:
        vectors = _encode(encode, texts)
        write_array(path, vectors)
        return {"dim": vectors.shape[1], "found": False}
    kept = Path(work.cache).expanduser() / f"{digest((identity, *texts)).hex()}.npy"
    found = _is_kept(kept, len(texts))
    if not found:
        write_array(kept, _encode(encode, texts))
    link_file(kept, path)  # so that the job does not need the cache again
    return {"dim": np.load(path, mmap_mode="r").shape[1], "found": found}


@lru_cache(maxsize=1)
def _encoder(make_encoder: Callable[[str], Encode], name: str) -> Encode:
    return make_encoder(name)


def _encode(encode: Encode, texts: Sequence[str]) -> Vectors:
    vectors = np.asarray(encode(texts), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise Failure(f"the auxiliary encoder gave {vectors.shape} for {len(texts)} texts; wanted a row for each")
    if not np.isfinite(vectors).all():
        bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise Failure(f"the auxiliary encoder gave numbers that are not finite for {texts[bad][:80]!r}")
    return vectors


# Files.


def _is_kept(path: Path, texts: int) -> bool:
    """Whether the cache has vectors of so many texts there; a damaged file counts as none."""
    try:
        kept = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return bool(kept.ndim == 2 and len(kept) == texts and kept.dtype == np.float32)


def _block_file(folder: Path, block: int) -> Path:
    return folder / f"vectors-{block:06d}.npy"

"""Vectors of texts: each distinct one is encoded once, and kept in files.

Before: any stage. After: `consistency.py`, `mine.py` and `teacher.py` take the vectors of their texts.

    texts -> `number_texts` -> a number for each distinct text
          -> embed          -> a file of vectors for each block of numbers; with a cache, found there if made before

A block holds the same texts whatever runs beside it, and on the CPU is encoded by one thread. So the same bits come
out, however many workers there are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from jemb.prepare.vectors.numbering import NUMBERS, Texts, number_texts, read_texts, whole_array

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
    """The vectors of T texts, U of them distinct; M of them documents, which come first. Picklable; holds none of them.

    folder: of `numbers.npy`, int64 [T]: numbers of the texts, in their order; and of the blocks, float32 [block, dim]
    each: unit vectors of texts 0, 1, … in order of first appearance. texts: U. documents: M.
    """

    folder: Path
    texts: int
    block: int
    dim: int
    documents: int

    def numbers(self, start: int = 0, stop: int | None = None) -> tuple[Numbers, Numbers]:
        """Numbers of the queries and of the positives of live rows start to stop, where no other texts were taken."""
        rows = np.load(self.folder / NUMBERS, mmap_mode="r")[self.documents :].reshape(-1, 2)[start:stop]
        return np.array(rows[:, 0]), np.array(rows[:, 1])

    def document_numbers(self) -> Numbers:
        """Numbers of the documents."""
        return np.array(np.load(self.folder / NUMBERS, mmap_mode="r")[: self.documents])

    def take(self, numbers: Numbers) -> Vectors:
        """Vectors of the texts of these numbers, [len(numbers), dim]. Fastest where neighbours are near each other."""
        vectors = np.empty((len(numbers), self.dim), np.float32)
        order = np.argsort(numbers, kind="stable")
        blocks, first = np.unique(numbers[order] // self.block, return_index=True)
        for block, places in zip(blocks.tolist(), np.split(order, first[1:]), strict=False):
            stored = np.load(_block_file(self.folder, block), mmap_mode="r")
            vectors[places] = stored[numbers[places] - block * self.block]
        return vectors

    def write(self, numbers: Numbers, path: Path, dtype: type[np.floating[Any]] = np.float32) -> None:
        """Write the vectors of the texts of these numbers to one file, to be read as `StoredVectors`."""
        with whole_array(path, np.dtype(dtype), (len(numbers), self.dim)) as vectors:
            for start in range(0, len(numbers), COPIED):
                vectors[start : start + COPIED] = self.take(numbers[start : start + COPIED])


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """The vectors in a `.npy` file, float32 [P, D], read slice by slice: mapped only while a slice is copied, so that
    what was read does not count as memory of this process."""

    path: Path

    @property
    def shape(self) -> tuple[int, ...]:
        return np.load(self.path, mmap_mode="r").shape

    def __getitem__(self, rows: slice) -> Vectors:
        return np.array(np.load(self.path, mmap_mode="r")[rows])


def embed(
    table: Table,
    job: Job,
    name: str,
    make_encoder: Callable[[str], Encode],
    cache: str | None = None,
    documents: tuple[tuple[Path, int], ...] = (),
    every: bool = False,
) -> Embeddings:
    """Encode each distinct text once: the documents, if there are any, then query and positive, or with `every` all
    texts, of the live rows of `table`. Documents come first, so that a cache has the same blocks of them whatever the
    table.

    make_encoder: name of the encoder -> texts to unit vectors. Called once in each worker, so equal ones must be equal
    after pickling too (a function, a frozen dataclass). Its attribute `prompts`, a function of the name, gives what
    belongs before queries and before passages. documents: as of `Texts`. cache: folder in which vectors are kept for
    later jobs, under the digest of their texts and the `identity` that the encoder has as an attribute; without that
    they are not kept.
    Memory of this process: that of `number_texts`. Disk: 4 * dim bytes a text, in the job's folder.
    Raises `Failure` when an encoder gives another shape or numbers that are not finite.
    """
    prompts = make_encoder.prompts(name) if hasattr(make_encoder, "prompts") else ("", "")
    texts = Texts(table, prompts, documents, every)
    distinct = number_texts(texts, job)
    block = BLOCK
    while block * MOST_BLOCKS < distinct:
        block *= 2
    sizes = [min(block, distinct - start) for start in range(0, distinct, block)]
    if distinct >= SERIAL_BELOW and isinstance(job.executor, LocalExecutor) and not job.is_done("embed", 0):
        _say_estimate(read_texts(texts, job.folder, 0, TRIED), distinct, job, name, _encoder(make_encoder, name))
    function = partial(_embed, texts, job.folder, block, name, make_encoder, cache)
    results = job.map(
        "embed", function, range(len(sizes)), sizes=sizes, unit="text", gpu=True, serial_below=SERIAL_BELOW
    )
    if found := sum(size for size, result in zip(sizes, results, strict=True) if result["found"]):
        log.info("%s: %d of %d vectors were in the cache", job.label, found, distinct)
    dim = results[0]["dim"] if results else 0
    return Embeddings(job.folder, distinct, block, dim, sum(rows for _, rows in documents))


def _say_estimate(sample: list[str], distinct: int, job: Job, name: str, encode: Encode) -> None:
    """How long it will take, from the first texts, before hours may have begun."""
    encode(sample[:2])  # what only the first call costs
    began = time.monotonic()
    encode(sample)
    rate, workers = len(sample) / max(time.monotonic() - began, 1e-3), job.executor.workers
    log.info(
        "%s: %s distinct texts to encode with %s, about %s on %d processes (%.3g texts a second on one); those in the "
        "cache of vectors take no time",
        job.label, f"{distinct:,}", name, tqdm.format_interval(distinct / rate / workers), workers, rate,
    )  # fmt: skip


def _embed(
    texts: Texts,
    folder: Path,
    size: int,
    name: str,
    make_encoder: Callable[[str], Encode],
    cache: str | None,
    block: int,
) -> dict[str, Any]:
    """Leave the vectors of a block of `size` texts; {"dim": their length, "found": whether the cache had them}."""
    path = _block_file(folder, block)
    of_block = read_texts(texts, folder, block * size, (block + 1) * size)
    encode = _encoder(make_encoder, name)
    identity = getattr(encode, "identity", None)
    if cache is None or identity is None:
        vectors = _encode(encode, of_block)
        write_array(path, vectors)
        return {"dim": vectors.shape[1], "found": False}
    kept = Path(cache).expanduser() / f"{digest((identity, *of_block)).hex()}.npy"
    found = _is_kept(kept, len(of_block))
    if not found:
        write_array(kept, _encode(encode, of_block))
    link_file(kept, path)  # so that the job does not need the cache again
    return {"dim": np.load(path, mmap_mode="r").shape[1], "found": found}


@lru_cache(maxsize=1)
def _encoder(make_encoder: Callable[[str], Encode], name: str) -> Encode:
    return make_encoder(name)


def _encode(encode: Encode, texts: Sequence[str]) -> Vectors:
    vectors = np.asarray(encode(texts), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise Failure(f"the auxiliary encoder gave {vectors.shape} for {len(texts)} texts; wanted a row for each")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        text = texts[int(np.argmin(finite))]
        raise Failure(f"the auxiliary encoder gave numbers that are not finite for {text[:80]!r}")
    return vectors


def _is_kept(path: Path, texts: int) -> bool:
    """Whether the cache has vectors of so many texts there; a damaged file counts as none."""
    try:
        kept = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return bool(kept.ndim == 2 and len(kept) == texts and kept.dtype == np.float32)


def _block_file(folder: Path, block: int) -> Path:
    return folder / f"vectors-{block:06d}.npy"

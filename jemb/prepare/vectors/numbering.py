"""Numbers for the texts of a data set: equal queries and positives have one, in order of first appearance.

Before: any stage. After: `embeddings.py` encodes each number's text once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from jemb.core.files import sync_folder, write_array
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Table
from jemb.prepare.equal import digest, ends, find_equal, write_digests

NUMBERS, STARTS, OFFSETS = "numbers.npy", "starts.npy", "offsets.npy"

Prompts = tuple[str, str]
"""Put before a query and before a positive."""


def number_texts(table: Table, job: Job, prompts: Prompts = ("", "")) -> int:
    """Number the queries and positives, with their prompts, of the live rows of `table`; how many distinct there are.

    Leaves in the job's folder `numbers.npy`, int64 [2, N]: numbers of the queries and of the positives, in the order of
    the rows; and `starts.npy`, int64 [U], for `read_texts`. Memory: about 64 bytes a row at its peak.
    """
    counts = table.counts()
    job.map("digest texts", partial(_digest_piece, table, job.folder, prompts), range(table.num_pieces), sizes=counts)
    if not (job.folder / OFFSETS).exists():
        paths = [_digest_file(job.folder, piece) for piece in range(table.num_pieces)]
        # For each place (2 * row for a query, one more for its positive) the first place of an equal text.
        first = np.arange(2 * sum(counts))
        is_first = np.ones(len(first), np.bool_)
        pairs = find_equal(job, paths, [2 * count for count in counts])
        first[pairs[:, 0]], is_first[pairs[:, 0]] = pairs[:, 1], False
        del pairs
        write_array(job.folder / STARTS, np.flatnonzero(is_first))
        rank = np.cumsum(is_first, dtype=np.int64)
        rank -= 1  # in place, as what follows: three of these arrays would be the peak of memory
        np.take(rank, first, out=first, mode="clip")
        with whole_array(job.folder / NUMBERS, np.dtype(np.int64), (2, sum(counts))) as numbers:
            numbers[:] = first.reshape(-1, 2).T
        write_array(job.folder / OFFSETS, ends(np.array(counts, np.int64)))
    return len(np.load(job.folder / STARTS, mmap_mode="r"))


def read_texts(table: Table, folder: Path, start: int, stop: int, prompts: Prompts = ("", "")) -> list[str]:
    """The texts of numbers start to stop. folder: where `number_texts` left its files."""
    rows, sides = np.divmod(np.load(folder / STARTS, mmap_mode="r")[start:stop], 2)
    offsets = np.load(folder / OFFSETS)
    pieces = np.searchsorted(offsets, rows, side="right") - 1
    texts: list[str] = []
    for piece in np.unique(pieces).tolist():
        columns = _columns(table, piece)
        inside = pieces == piece
        for row, side in zip((rows[inside] - offsets[piece]).tolist(), sides[inside].tolist(), strict=True):
            texts.append(prompts[side] + columns[side][row])
    return texts


@lru_cache(maxsize=2)
def _columns(table: Table, piece: int) -> tuple[list[str], list[str]]:
    """Queries and positives of a piece: the blocks that a worker is given one after the other often come from one."""
    rows = table.read(piece, ("query", "positive"))
    return rows.query, rows.positive


def _digest_piece(table: Table, folder: Path, prompts: Prompts, piece: int) -> dict[str, Any]:
    rows = table.read(piece, ("query", "positive"))
    texts = chain.from_iterable(zip(rows.query, rows.positive, strict=True))
    digests = (digest((prompts[place % 2] + text,)) for place, text in enumerate(texts))
    return write_digests(_digest_file(folder, piece), digests)


@contextmanager
def whole_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """A `.npy` file to be filled place by place, whole or absent."""
    if 0 in shape:  # nothing can be mapped
        yield (nothing := np.empty(shape, dtype))
        write_array(path, nothing)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        array = np.lib.format.open_memmap(temporary, "w+", dtype, shape)
        yield array
        array.flush()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _digest_file(folder: Path, piece: int) -> Path:
    return folder / f"digests-{piece:06d}.npy"

"""Numbers for the texts of a data set: equal queries and positives have one, in order of first appearance.

Before: any stage. After: `embeddings.py` encodes each number's text once.

    pieces -> digest  -> two 128-bit digests a row, sorted, a file for each piece
           -> number  -> the number of each text (`numbers.npy`), and where each number first appears (`starts.npy`)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jemb.core.files import sync_folder, write_array
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Table

Numbers = npt.NDArray[np.int64]

RANGE_TEXTS = 4_000_000
"""Digests sorted at once, about 300 MB."""
DIGEST = np.dtype([("high", "<u8"), ("low", "<u8"), ("place", "<i4")])

NUMBERS, STARTS, OFFSETS = "numbers.npy", "starts.npy", "offsets.npy"


Prompts = tuple[str, str]
"""Put before a query and before a positive."""


def number_texts(table: Table, job: Job, prompts: Prompts = ("", "")) -> int:
    """Number the queries and positives, with their prompts, of the live rows of `table`; how many distinct there are.

    Leaves in the job's folder `numbers.npy`, int64 [2, N]: numbers of the queries and of the positives, in the order of
    the rows; and `starts.npy`, int64 [U], for `read_texts`. Memory: 32 bytes a row at its peak, 3 GB for 10^8 rows.
    """
    counts = table.counts()
    job.map("digest texts", partial(_digest_piece, table, job.folder, prompts), range(table.num_pieces), sizes=counts)
    if not (job.folder / STARTS).exists():
        # First live row of each piece, and their number.
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        write_array(job.folder / OFFSETS, offsets)
        _number(job.folder, offsets)
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
    """The digests of a piece's texts, sorted. place: 2 * row for its query, one more for its positive."""
    rows = table.read(piece, ("query", "positive"))
    digests = b"".join(
        hashlib.blake2b((prompt + text).encode(), digest_size=16).digest()
        for pair in zip(rows.query, rows.positive, strict=True)
        for prompt, text in zip(prompts, pair, strict=True)
    )
    found = np.empty(2 * len(rows), DIGEST)
    words = np.frombuffer(digests, "<u8").reshape(-1, 2)
    found["high"], found["low"], found["place"] = words[:, 0], words[:, 1], np.arange(len(found))
    write_array(_digest_file(folder, piece), found[np.lexsort((found["low"], found["high"]))])
    return {}


def _number(folder: Path, offsets: Numbers) -> None:
    """Write the number of every text, and the place at which each number first appears (2 * row, + 1: positive).

    Digests of 128 bits: among 10^10 texts the chance that any two different ones agree is below 10^-18.
    """
    total = 2 * int(offsets[-1])
    # For each place, the first place of an equal text.
    first = np.empty(total, np.int64)
    num_ranges = 1 + total // RANGE_TEXTS
    bounds = [(number << 64) // num_ranges for number in range(1, num_ranges)]
    cuts = [_cut(folder, piece, bounds) for piece in range(len(offsets) - 1)]
    for number in range(num_ranges):
        parts = [np.empty(0, DIGEST)]
        places = [np.empty(0, np.int64)]
        for piece, cut in enumerate(cuts):
            part = np.array(np.load(_digest_file(folder, piece), mmap_mode="r")[cut[number] : cut[number + 1]])
            parts.append(part)
            places.append(part["place"] + 2 * offsets[piece])
        digests, place = np.concatenate(parts), np.concatenate(places)
        order = np.lexsort((place, digests["low"], digests["high"]))
        digests, place = digests[order], place[order]
        new = np.ones(len(digests), bool)
        new[1:] = (digests["high"][1:] != digests["high"][:-1]) | (digests["low"][1:] != digests["low"][:-1])
        first[place] = place[new][np.cumsum(new) - 1]
    starts = np.flatnonzero(first == np.arange(total))
    with whole_array(folder / NUMBERS, np.dtype(np.int64), (2, total // 2)) as numbers:
        for start in range(0, total, RANGE_TEXTS):
            part = np.searchsorted(starts, first[start : start + RANGE_TEXTS])
            numbers[:, start // 2 : (start + len(part)) // 2] = part.reshape(-1, 2).T
    write_array(folder / STARTS, starts)


def _cut(folder: Path, piece: int, bounds: Sequence[int]) -> list[int]:
    """Where the sorted digests of a piece are to be cut into ranges, both ends included."""
    high = np.load(_digest_file(folder, piece), mmap_mode="r")["high"]
    return [0, *np.searchsorted(high, np.array(bounds, np.uint64)).tolist(), len(high)]


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

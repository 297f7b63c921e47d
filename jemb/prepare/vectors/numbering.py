"""Numbers for texts: equal ones have one, in order of first appearance.

Before: a stage says what its texts are. After: `embeddings.py` encodes each number's text once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from jemb.core.files import sync_folder, write_array
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Rows, Table, load_table
from jemb.prepare.equal import digest, ends, find_equal, write_digests

NUMBERS, STARTS, OFFSETS = "numbers.npy", "starts.npy", "offsets.npy"
ALL_COLUMNS = ("query", "positive", "more_positives", "negatives", "label")


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts in an order, piece by piece: documents, then those of the live rows of a table. Picklable and hashable;
    holds none of them.

    prompts: put before a query and before a passage. documents: Arrow files with a column `text`, and their rows.
    every: of each row all texts (`all_texts`), not query and positive alone.
    """

    table: Table
    prompts: tuple[str, str] = ("", "")
    documents: tuple[tuple[Path, int], ...] = ()
    every: bool = False

    def rows(self) -> list[int]:
        """Documents or rows of each piece."""
        return [*(rows for _, rows in self.documents), *self.table.counts()]

    def read(self, piece: int) -> list[str]:
        """Those of a piece, with prompts, as they are encoded."""
        before_query, before_passage = self.prompts
        if piece < len(self.documents):
            documents = load_table(self.documents[piece][0], ["text"])["text"].to_pylist()
            return [before_passage + text for text in documents]
        piece -= len(self.documents)
        if self.every:
            texts = all_texts(self.table.read(piece, ALL_COLUMNS))
            return [(before_query if asks else before_passage) + text for asks, text in texts]
        rows = self.table.read(piece, ("query", "positive"))
        return [
            text
            for query, positive in zip(rows.query, rows.positive, strict=True)
            for text in (before_query + query, before_passage + positive)
        ]


def all_texts(rows: Rows) -> Iterator[tuple[bool, str]]:
    """(whether it is a query, text) of each row's query, positives and negatives. A labelled text that stands alone is
    a query. rows: of `ALL_COLUMNS`."""
    for row, (query, positive) in enumerate(zip(rows.query, rows.positive, strict=True)):
        yield True, query
        alone = positive == query and rows.label[row] is not None
        for text in (*(() if alone else (positive,)), *rows.more_positives[row], *rows.negatives[row]):
            yield False, text


def number_texts(texts: Texts, job: Job) -> int:
    """Number `texts`; how many distinct there are.

    Leaves in the job's folder `numbers.npy`, int64 [T]: the number of each text, in their order; and `starts.npy`,
    int64 [U]: where each number comes first, for `read_texts`. Memory: about 32 bytes a text at its peak.
    """
    rows = texts.rows()
    results = job.map("digest texts", partial(_digest_piece, texts, job.folder), range(len(rows)), sizes=rows)
    if not (job.folder / OFFSETS).exists():
        paths = [_digest_file(job.folder, piece) for piece in range(len(rows))]
        counts = [result["texts"] for result in results]
        # For each text the place of the first one that is equal.
        first = np.arange(sum(counts))
        is_first = np.ones(len(first), np.bool_)
        pairs = find_equal(job, paths, counts)
        first[pairs[:, 0]], is_first[pairs[:, 0]] = pairs[:, 1], False
        del pairs
        write_array(job.folder / STARTS, np.flatnonzero(is_first))
        rank = np.cumsum(is_first, dtype=np.int64)
        rank -= 1  # in place, as what follows: three of these arrays would be the peak of memory
        np.take(rank, first, out=first, mode="clip")
        with whole_array(job.folder / NUMBERS, np.dtype(np.int64), first.shape) as numbers:
            numbers[:] = first
        write_array(job.folder / OFFSETS, ends(np.array(counts, np.int64)))
    return len(np.load(job.folder / STARTS, mmap_mode="r"))


def read_texts(texts: Texts, folder: Path, start: int, stop: int) -> list[str]:
    """The texts of numbers start to stop. folder: where `number_texts` left its files."""
    places = np.load(folder / STARTS, mmap_mode="r")[start:stop]
    offsets = np.load(folder / OFFSETS)
    pieces = np.searchsorted(offsets, places, side="right") - 1
    found: list[str] = []
    for piece in np.unique(pieces).tolist():
        of_piece = _read(texts, piece)
        found += [of_piece[place] for place in (places[pieces == piece] - offsets[piece]).tolist()]
    return found


@contextmanager
def whole_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """A `.npy` file to be filled place by place, whole or absent: an array may be larger than memory."""
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


@lru_cache(maxsize=2)
def _read(texts: Texts, piece: int) -> list[str]:
    """The blocks that a worker is given one after the other often come from one piece."""
    return texts.read(piece)


def _digest_piece(texts: Texts, folder: Path, piece: int) -> dict[str, Any]:
    found = texts.read(piece)
    write_digests(_digest_file(folder, piece), (digest((text,)) for text in found))
    return {"texts": len(found)}


def _digest_file(folder: Path, piece: int) -> Path:
    return folder / f"digests-{piece:06d}.npy"

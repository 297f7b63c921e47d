"""Numbers for texts: equal ones have one, in order of first appearance.

Before: any stage, which says what its texts are. After: `embeddings.py` encodes each number's text once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jemb.core.files import write_array
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Table, load_table
from jemb.prepare.equal import digest, ends, find_equal, write_digests
from jemb.prepare.vectors.stored import whole_array

NUMBERS, STARTS, OFFSETS = "numbers.npy", "starts.npy", "offsets.npy"

Prompts = tuple[str, str]
"""Put before a query and before a passage."""


class Texts(Protocol):
    """Texts in an order, piece by piece. Picklable and hashable; holds none of them."""

    def __hash__(self) -> int: ...

    def counts(self) -> list[int]:
        """How many there are in each piece."""

    def read(self, piece: int) -> list[str]:
        """Those of a piece, with prompts, as they are encoded."""


@dataclass(frozen=True, slots=True)
class PairTexts:
    """Query and positive of each live row of a table: two texts a row."""

    table: Table
    prompts: Prompts = ("", "")

    def counts(self) -> list[int]:
        return [2 * count for count in self.table.counts()]

    def read(self, piece: int) -> list[str]:
        rows = self.table.read(piece, ("query", "positive"))
        before_query, before_positive = self.prompts
        return [
            text
            for query, positive in zip(rows.query, rows.positive, strict=True)
            for text in (before_query + query, before_positive + positive)
        ]


@dataclass(frozen=True, slots=True)
class FileTexts:
    """The column `text` of Arrow files, one a piece. sizes: rows of each."""

    paths: tuple[Path, ...]
    sizes: tuple[int, ...]
    prompt: str = ""

    def counts(self) -> list[int]:
        return list(self.sizes)

    def read(self, piece: int) -> list[str]:
        return [self.prompt + text for text in load_table(self.paths[piece], ["text"])["text"].to_pylist()]


@dataclass(frozen=True, slots=True)
class JoinedTexts:
    """Some texts, and after them others."""

    parts: tuple[Texts, ...]

    def counts(self) -> list[int]:
        return [count for part in self.parts for count in part.counts()]

    def read(self, piece: int) -> list[str]:
        for part in self.parts:
            pieces = len(part.counts())
            if piece < pieces:
                return part.read(piece)
            piece -= pieces
        raise IndexError(piece)


def number_texts(texts: Texts, job: Job) -> int:
    """Number `texts`; how many distinct there are.

    Leaves in the job's folder `numbers.npy`, int64 [T]: the number of each text, in their order; and `starts.npy`,
    int64 [U]: where each number comes first, for `read_texts`. Memory: about 32 bytes a text at its peak.
    """
    counts = texts.counts()
    job.map("digest texts", partial(_digest_piece, texts, job.folder), range(len(counts)), sizes=counts, unit="text")
    if not (job.folder / OFFSETS).exists():
        paths = [_digest_file(job.folder, piece) for piece in range(len(counts))]
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


@lru_cache(maxsize=2)
def _read(texts: Texts, piece: int) -> list[str]:
    """The blocks that a worker is given one after the other often come from one piece."""
    return texts.read(piece)


def _digest_piece(texts: Texts, folder: Path, piece: int) -> dict[str, Any]:
    return write_digests(_digest_file(folder, piece), (digest((text,)) for text in texts.read(piece)))


def _digest_file(folder: Path, piece: int) -> Path:
    return folder / f"digests-{piece:06d}.npy"

"""The pool that hard negatives are chosen from: positives of the data set and documents of a corpus, each text once.

Before: `stages/mine.py` has read the corpus and has the vectors. After: `hard_negatives.py` chooses among the passages.

    table     -> hash -> which passage says what a query says, or answers it
    positives -> draw -> passages, with those documents that say something else -> ids, hashes, vectors

Texts stay where they are, in the pieces and in the files of the documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jemb.core.files import write_array
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Piece, Table, load_table
from jemb.prepare.equal import Numbers, all_ids, draw
from jemb.prepare.source.corpus import Documents
from jemb.prepare.vectors.embeddings import Embeddings, StoredVectors
from jemb.prepare.vectors.hard_negatives import Hashes, Passages, hashes, pair_keys

IDS, HASHES, KNOWN, VECTORS = "ids.npy", "hashes.npy", "known.npy", "pool.npy"


@dataclass(frozen=True, slots=True)
class Pool:
    """Picklable; holds none of the passages. folder: of the job."""

    table: Table
    folder: Path
    documents: Documents | None = None

    def make(self, job: Job, embeddings: Embeddings, pool_size: int, seed: int) -> None:
        """Leave its files in the job's folder. pool_size: positives to be drawn; 0: documents alone.

        Of equal texts that with the lowest id is in it. A document has its place in the corpus after all ids of rows.
        """
        pieces = range(self.table.num_pieces)
        job.map("hash", partial(_hash_piece, self), pieces, sizes=self.table.counts())
        if (self.folder / VECTORS).exists():
            return
        queries, positives = np.concatenate([np.load(self.hash_file(piece)) for piece in pieces], axis=1)
        further = [np.load(self.further_file(piece)) for piece in pieces]
        write_array(self.folder / KNOWN, np.unique(np.concatenate([pair_keys(queries, positives), *further])))
        of_rows = all_ids(self.table)
        rows = draw(of_rows, pool_size, seed, "mine pool") if pool_size else np.empty(0, np.int64)
        files = self.documents.hash_files() if self.documents else []
        ids = np.concatenate([of_rows[rows], self.table.end + np.arange(embeddings.documents)])
        texts = np.concatenate([positives[rows], *map(np.load, files)])
        numbers = np.concatenate([embeddings.numbers()[1][rows], embeddings.document_numbers()])
        first = np.sort(np.unique(texts, return_index=True)[1])
        write_array(self.folder / IDS, ids[first])
        write_array(self.folder / HASHES, texts[first])
        embeddings.write(numbers[first], self.folder / VECTORS)

    def passages(self) -> Passages:
        ids, texts = (np.load(self.folder / name, mmap_mode="r") for name in (IDS, HASHES))
        return Passages(StoredVectors(self.folder / VECTORS), ids, texts)

    def known(self) -> Hashes:
        """`pair_keys` of every row of the data set, sorted."""
        found: Hashes = np.load(self.folder / KNOWN, mmap_mode="r")
        return found

    def are_documents(self, passages: Numbers) -> npt.NDArray[np.bool_]:
        """Which of these passages come from the corpus."""
        return np.asarray(np.load(self.folder / IDS, mmap_mode="r")[passages] >= self.table.end)

    def read_texts(self, passages: Numbers) -> dict[int, str]:
        """The texts of these passages, which ascend."""
        ids = np.load(self.folder / IDS, mmap_mode="r")[passages]
        files = [("positive", piece) for piece in self.table.pieces]
        start = self.table.end
        for path, rows in self.documents.files if self.documents else ():
            files.append(("text", Piece(path, start, rows, rows)))
            start += rows
        texts: dict[int, str] = {}
        for column, piece in files:
            low, high = np.searchsorted(ids, [piece.start, piece.start + piece.span])
            if low < high:
                places = ids[low:high] - piece.start
                if column == "positive":  # records that could not be read leave gaps
                    places = np.searchsorted(load_table(piece.path, ["number"])["number"].to_numpy(), places)
                found = load_table(piece.path, [column])[column].take(pa.array(places)).to_pylist()
                texts.update(zip(passages[low:high].tolist(), found, strict=True))
        return texts

    def hash_file(self, piece: int) -> Path:
        """Hashes of the queries and of the positives of a piece, [2, N]."""
        return self.folder / f"hashes-{piece:06d}.npy"

    def further_file(self, piece: int) -> Path:
        """`pair_keys` of the queries of a piece with the right answers beyond the first."""
        return self.folder / f"further-{piece:06d}.npy"


def _hash_piece(pool: Pool, piece: int) -> dict[str, Any]:
    rows = pool.table.read(piece, ("query", "positive", "more_positives"))
    queries = hashes(rows.query)
    each = [len(texts) for texts in rows.more_positives]
    further = hashes([text for texts in rows.more_positives for text in texts])
    write_array(pool.further_file(piece), pair_keys(np.repeat(queries, each), further))
    write_array(pool.hash_file(piece), np.stack([queries, hashes(rows.positive)]))
    return {}

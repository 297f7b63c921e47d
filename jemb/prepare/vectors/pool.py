"""The pool that hard negatives are chosen from: positives of the data set and documents of a corpus, each text once.

Before: `stages/mine.py` has read the corpus and has the vectors. After: `hard_negatives.py` chooses among the passages.

    table     -> hash -> which passage says what a query says, or answers it
    positives -> draw -> members, with those documents that say something else -> vectors in one file
              -> texts of the members, beside each piece; documents lie in files already
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jemb.core.files import write_array
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Table, load_table, write_table
from jemb.prepare.equal import Numbers, all_ids, draw, ends
from jemb.prepare.source.corpus import Documents
from jemb.prepare.vectors.embeddings import Embeddings
from jemb.prepare.vectors.hard_negatives import Hashes, Passages, hashes, pair_keys
from jemb.prepare.vectors.stored import StoredVectors

MEMBER = np.dtype([("id", "<i8"), ("row", "<i8"), ("number", "<i8"), ("hash", "<u8")])

Members = npt.NDArray[np.void]
"""[P] in order of id. id: of the row whose positive a passage is; a document has its place in the corpus after all ids
of rows. row: place among live rows, and after them among documents. number: of the text among the embeddings; hash."""

MEMBERS, FIRSTS, KNOWN, VECTORS = "members.npy", "firsts.npy", "known.npy", "pool.npy"


@dataclass(frozen=True, slots=True)
class Pool:
    """Picklable; holds none of the passages. folder: of the job. counts: live rows of each piece of the table."""

    table: Table
    folder: Path
    counts: tuple[int, ...]
    documents: Documents | None = None

    @property
    def offsets(self) -> Numbers:
        """Where the rows of each piece begin, and after them the documents of each file."""
        return ends(np.array([*self.counts, *(self.documents.texts.sizes if self.documents else ())], np.int64))

    def make(self, job: Job, embeddings: Embeddings, pool_size: int, seed: int) -> None:
        """Leave its files in the job's folder. pool_size: positives to be drawn; 0: documents alone."""
        pieces = range(self.table.num_pieces)
        job.map("hash", partial(_hash_piece, self), pieces, sizes=self.counts)
        if not (self.folder / VECTORS).exists():
            texts = np.concatenate([np.load(self.hash_file(piece)) for piece in pieces], axis=1)
            further = [np.load(self.further_file(piece)) for piece in pieces]
            write_array(self.folder / KNOWN, np.unique(np.concatenate([pair_keys(*texts), *further])))
            members = self._members(embeddings, texts[1], pool_size, seed)
            write_array(self.folder / MEMBERS, members)
            write_array(self.folder / FIRSTS, np.searchsorted(members["row"], self.offsets))
            embeddings.write(members["number"], self.folder / VECTORS)
        job.map("texts", partial(_write_texts, self), pieces, sizes=self.counts)

    def passages(self) -> Passages:
        members = np.load(self.folder / MEMBERS, mmap_mode="r")
        return Passages(StoredVectors.open(self.folder / VECTORS), members["id"], members["hash"])

    def known(self) -> Hashes:
        """`pair_keys` of every row of the data set, sorted."""
        found: Hashes = np.load(self.folder / KNOWN, mmap_mode="r")
        return found

    def are_documents(self, passages: Numbers) -> npt.NDArray[np.bool_]:
        """Which of these passages come from the corpus."""
        rows = np.load(self.folder / MEMBERS, mmap_mode="r")["row"]
        return np.asarray(rows[passages] >= sum(self.counts))

    def read_texts(self, passages: Numbers) -> dict[int, str]:
        """The texts of these passages, which ascend."""
        rows = np.load(self.folder / MEMBERS, mmap_mode="r")["row"]
        offsets = self.offsets
        texts: dict[int, str] = {}
        for piece, (first, last) in enumerate(pairwise(np.load(self.folder / FIRSTS).tolist())):
            low, high = np.searchsorted(passages, [first, last])
            if low < high:
                of_document = piece >= len(self.counts)
                path = self._document_file(piece) if of_document else self.text_file(piece)
                places = rows[passages[low:high]] - offsets[piece] if of_document else passages[low:high] - first
                found = load_table(path, ["text"])["text"].take(pa.array(places)).to_pylist()
                texts.update(zip(passages[low:high].tolist(), found, strict=True))
        return texts

    def hash_file(self, piece: int) -> Path:
        """Hashes of the queries and of the positives of a piece, [2, N]."""
        return self.folder / f"hashes-{piece:06d}.npy"

    def further_file(self, piece: int) -> Path:
        """`pair_keys` of the queries of a piece with the right answers beyond the first."""
        return self.folder / f"further-{piece:06d}.npy"

    def text_file(self, piece: int) -> Path:
        """The positives of a piece that are in the pool, in its order."""
        return self.folder / f"texts-{piece:06d}.arrow"

    def _document_file(self, piece: int) -> Path:
        assert self.documents is not None
        return self.documents.texts.paths[piece - len(self.counts)]

    def _members(self, embeddings: Embeddings, texts: Hashes, pool_size: int, seed: int) -> Members:
        """The positives of `pool_size` rows, and all documents; of equal texts the one with the lowest id.

        texts: [N], hashes of the positives of the live rows.
        """
        ids = all_ids(self.table)
        rows = draw(ids, pool_size, seed, "mine pool") if pool_size else np.empty(0, np.int64)
        members = np.empty(len(rows) + embeddings.documents, MEMBER)
        own, documents = members[: len(rows)], members[len(rows) :]
        own["id"], own["row"], own["hash"] = ids[rows], rows, texts[rows]
        own["number"] = embeddings.numbers()[1][rows]
        if self.documents is not None:
            places = np.arange(embeddings.documents)
            documents["id"], documents["row"] = self.table.end + places, len(ids) + places
            documents["number"] = embeddings.document_numbers()
            documents["hash"] = np.concatenate([np.load(path) for path in self.documents.hash_files()])
        _, first = np.unique(members["hash"], return_index=True)
        return members[np.sort(first)]


def _hash_piece(pool: Pool, piece: int) -> dict[str, Any]:
    rows = pool.table.read(piece, ("query", "positive", "more_positives"))
    queries = hashes(rows.query)
    each = [len(texts) for texts in rows.more_positives]
    further = hashes([text for texts in rows.more_positives for text in texts])
    write_array(pool.further_file(piece), pair_keys(np.repeat(queries, each), further))
    write_array(pool.hash_file(piece), np.stack([queries, hashes(rows.positive)]))
    return {}


def _write_texts(pool: Pool, piece: int) -> dict[str, Any]:
    """The texts of the pool that come from a piece, in the order of the pool."""
    first, last = np.load(pool.folder / FIRSTS)[piece : piece + 2]
    places = np.load(pool.folder / MEMBERS, mmap_mode="r")["row"][first:last] - pool.offsets[piece]
    texts = pool.table.read(piece, ("positive",)).positive if first < last else []
    chosen = [texts[place] for place in places.tolist()]
    write_table(pool.text_file(piece), pa.table({"text": pa.array(chosen, pa.large_string())}))
    return {}

"""Drop training pairs that hold a text of an evaluation task, or nearly one: scores on it would mean nothing.

Before: `near_duplicates.py`, whose kernels compare the texts. The evaluation texts are indexed once in each worker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from jemb.config import DecontaminateConfig
from jemb.files import write_array
from jemb.prepare.job import Job
from jemb.prepare.table import Dropped, Table, load_table, write_table
from jemb.text import count_words, normalise

if TYPE_CHECKING:
    from jemb.prepare.near.index import Index

Shingle = Literal["char", "word"]


def decontaminate(
    table: Table, job: Job, texts: Sequence[str], config: DecontaminateConfig, seed: int
) -> list[Dropped]:
    """Drop a row when a text on one of `config.sides` is one of `texts`, or has that Jaccard similarity with one.

    texts: of the evaluation, as `choose_texts` gives them. Reason: `evaluation_text`; the note names its number among
    them. Texts are compared without case, punctuation and white space.
    """
    path = job.folder / "texts.arrow"
    if not path.exists():
        write_table(path, pa.table({"text": pa.array(texts, pa.large_string())}))
    function = partial(_match_piece, table, job.folder, config, seed)
    job.map("decontaminate", function, range(table.num_pieces), sizes=table.counts())
    parts = [np.load(_found_file(job.folder, piece)) for piece in range(table.num_pieces)]
    found = np.concatenate([np.empty((0, 2), np.int64), *parts])
    statistics = {"evaluation_texts": len(texts)}
    return [Dropped(found[:, 0], found[:, 1], "evaluation_text", "evaluation text {value}", statistics)]


def choose_texts(texts: Iterable[str], min_words: int) -> list[str]:
    """Each text once, in order, without those of fewer than `min_words` words."""
    folded = {normalise(text): text for text in texts}
    return [text for text in folded.values() if count_words(text) >= min_words]


def digest(texts: Iterable[str]) -> str:
    """Names the texts: other evaluation texts make another data set."""
    total = hashlib.sha256()
    for text in texts:
        total.update(hashlib.sha256(text.encode(errors="replace")).digest())
    return total.hexdigest()


def _match_piece(table: Table, folder: Path, config: DecontaminateConfig, seed: int, piece: int) -> dict[str, Any]:
    rows = table.read(piece, ("query", "positive"))
    index = _index(folder / "texts.arrow", config.shingle, config.ngram, config.threshold, seed)
    best = np.full(len(rows), -1, np.int64)
    for side in ("query", "positive") if config.sides == "both" else (config.sides,):
        match = index.match(getattr(rows, side))
        best = np.where(best < 0, match, best)
    hit = best >= 0
    write_array(_found_file(folder, piece), np.stack([rows.ids[hit], best[hit]], axis=1))
    return {}


@lru_cache(maxsize=2)
def _index(path: Path, shingle: Shingle, ngram: int, threshold: float, seed: int) -> Index:
    from jemb.prepare.near.index import Index

    texts = load_table(path, ["text"])["text"].to_pylist()
    return Index(texts, shingle=shingle, ngram=ngram, threshold=threshold, seed=seed)


def _found_file(folder: Path, piece: int) -> Path:
    return folder / f"found-{piece:06d}.npy"

"""Exact nearest neighbours: those of `prepare/vectors/scoring.py`, on all cores or a GPU, with a bar.

Before: `vectors.py`. After: `retrieval.py`, and `bm25.py`, which shares the order of ties.
"""

from __future__ import annotations

import numpy as np

from jemb.core.progress import track
from jemb.prepare.engine.executor import usable_cores
from jemb.prepare.vectors.scoring import fastest, top_candidates

QUERIES = 4096
"""Of one pass over the corpus."""


def best(scores: np.ndarray, columns: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k (or all M) highest of `scores` [M] with their `columns`, highest first, ties by lower column.

    Exact at the border too: among equal scores the lower columns stay.
    """
    if len(scores) > k:
        near = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
        scores, columns = scores[near], columns[near]
    order = np.lexsort((columns, -scores))[:k]
    return scores[order], columns[order]


def top_k(
    query_QD: np.ndarray, corpus_ND: np.ndarray, k: int, *, progress: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(scores float32, rows of the corpus int64), both [Q, min(k, N)]: each query's k highest inner products.

    Highest first, ties by lower row; the same on every machine. progress: name of a bar on stderr; None: no bar.
    """
    way, starts = fastest(usable_cores()), range(0, max(len(query_QD), 1), QUERIES)
    bar = track(starts, progress, len(starts), "block")
    found = [top_candidates(query_QD[start : start + QUERIES], corpus_ND, k, way=way) for start in bar]
    scores, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return scores, rows

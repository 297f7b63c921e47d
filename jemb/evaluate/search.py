"""Exact nearest neighbours in blocks: the queries x corpus score matrix never exists as a whole.

Before: `vectors.py`. After: `retrieval.py`, and `bm25.py`, which shares the order of ties.
"""

from __future__ import annotations

import numpy as np
from tqdm.auto import tqdm


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
    query_QD: np.ndarray,
    corpus_ND: np.ndarray,
    k: int,
    *,
    block_queries: int = 256,
    block_corpus: int = 16_384,
    progress: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(scores float32, rows of the corpus int64), both [Q, min(k, N)]: each query's k highest inner products.

    Highest first, ties by lower row. Memory beside input and result: one block of scores.
    progress: name of a bar on stderr; None: no bar.
    """
    width = min(k, len(corpus_ND))
    all_scores = np.empty((len(query_QD), width), np.float32)
    all_columns = np.empty((len(query_QD), width), np.int64)
    starts = range(0, len(query_QD), block_queries)
    for start in tqdm(starts, desc=progress, disable=progress is None, unit="block", delay=2, leave=False):
        queries = query_QD[start : start + block_queries]
        # A query's results so far, and the score above which a later passage still enters them.
        found = [(np.empty(0, np.float32), np.empty(0, np.int64))] * len(queries)
        floor = np.full(len(queries), -np.inf, np.float32)
        for first in range(0, len(corpus_ND), block_corpus):
            block = queries @ corpus_ND[first : first + block_corpus].T
            for row, (scores, columns) in enumerate(found):
                enters = np.flatnonzero(block[row] > floor[row])
                scores = np.concatenate([scores, block[row, enters]])
                columns = np.concatenate([columns, enters + first])
                found[row] = scores, columns = best(scores, columns, width)
                if len(scores) == width:
                    floor[row] = scores[-1]
        for row, (scores, columns) in enumerate(found, start=start):
            all_scores[row], all_columns[row] = scores, columns
    return all_scores, all_columns

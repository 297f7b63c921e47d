"""BM25, the baseline that learns nothing: what a retrieval score is worth beside it.

After: `ranking.py` and `mteb_tasks.py`, for `model=bm25`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import bm25s
import numpy as np

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it reports every step of its index

SETTINGS = "bm25s, Lucene's formula, k1 1.5, b 0.75, its own tokenizer, English stop words left out, no stemming"

Run = dict[str, dict[str, float]]
"""For each query {passage id: score} of what was found, best first, ties by falling id as in trec_eval."""


class Bm25:
    """An index of P passages."""

    def __init__(self, passages: Sequence[str]) -> None:
        self._size = len(passages)
        tokens = _tokenize(passages)
        self._index = bm25s.BM25(k1=1.5, b=0.75, method="lucene") if any(tokens) else None
        if self._index is not None:
            self._index.index(tokens, show_progress=False)

    def scores(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
        """float32 [P] for each query: the score of every passage, 0 where it shares no word with the query."""
        for words in _tokenize(queries):
            if self._index is None or not words:
                yield np.zeros(self._size, np.float32)
            else:
                yield np.asarray(self._index.get_scores(words), np.float32)


def rank_bm25(
    queries: Mapping[str, str],
    passages: Mapping[str, str],
    depth: int,
    candidates: Mapping[str, Sequence[str]] | None = None,
) -> Run:
    """For each query {passage: score} of the best `depth` passages, ties by falling id.

    candidates: the passages to put in order for each query, and then all of them are in the result; None: all
    passages that share a word with the query.
    """
    ids = sorted(passages, reverse=True)
    column = {passage: place for place, passage in enumerate(ids)}
    index = Bm25([passages[passage] for passage in ids])
    run: Run = {}
    for query, scores in zip(queries, index.scores(list(queries.values())), strict=True):
        if candidates is None:
            chosen = np.flatnonzero(scores > 0)
        else:
            chosen = np.array([column[passage] for passage in candidates.get(query, ())], np.int64)
        high, columns = best(scores[chosen], chosen, depth)
        run[query] = {ids[place]: score for place, score in zip(columns.tolist(), high.tolist(), strict=True)}
    return run


def best(scores: np.ndarray, columns: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k (or all M) highest of `scores` [M] with their `columns`, highest first, ties by lower column.

    Exact at the border too: among equal scores the lower columns stay.
    """
    if len(scores) > k:
        near = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
        scores, columns = scores[near], columns[near]
    order = np.lexsort((columns, -scores))[:k]
    return scores[order], columns[order]


def _tokenize(texts: Sequence[str]) -> list[list[str]]:
    return bm25s.tokenize(list(texts), stopwords="english", return_ids=False, show_progress=False)

"""BM25, the baseline that learns nothing: what a retrieval score is worth beside it.

Before: `retrieval.py` and `reranking.py` hold the tasks. After: `models.py`, for `model=bm25`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import bm25s
import numpy as np

from jemb.evaluate.measure import Measured
from jemb.evaluate.reranking import RerankingTask
from jemb.evaluate.retrieval import DEPTH, RetrievalTask, Run
from jemb.evaluate.search import best

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it reports every step of its index

SETTINGS = "bm25s, Lucene's formula, k1 1.5, b 0.75, its own tokenizer, English stop words left out, no stemming"


def score_bm25(task: RetrievalTask | RerankingTask) -> Measured:
    """The metrics of `task.measure`, with `SETTINGS` in place of an encoder."""
    return task.judge(bm25_run(task)) if isinstance(task, RetrievalTask) else task.judge(_candidate_scores(task))


def bm25_run(task: RetrievalTask) -> Run:
    """The first 100 passages for every query; a passage that shares no word with the query is not found."""
    found = rank_bm25(task.queries, task.corpus, DEPTH + 1)
    return {query: task.cut(query, list(scores), list(scores.values())) for query, scores in found.items()}


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
    index = _Index([passages[passage] for passage in ids])
    run: Run = {}
    for query, words in zip(queries, _tokenize(list(queries.values())), strict=True):
        scores = index.scores(words)
        if candidates is None:
            chosen = np.flatnonzero(scores > 0)
        else:
            chosen = np.array([column[passage] for passage in candidates.get(query, ())], np.int64)
        high, columns = best(scores[chosen], chosen, depth)
        run[query] = {ids[place]: score for place, score in zip(columns.tolist(), high.tolist(), strict=True)}
    return run


def _candidate_scores(task: RerankingTask) -> list[np.ndarray]:
    index = _Index([passage for row in task.candidates() for passage in row])
    ends = np.cumsum([len(row) for row in task.candidates()])
    return [
        index.scores(words)[end - len(row) : end]
        for words, row, end in zip(_tokenize(task.queries), task.candidates(), ends, strict=True)
    ]


class _Index:
    def __init__(self, passages: Sequence[str]) -> None:
        self._size = len(passages)
        tokens = _tokenize(passages)
        self._index = bm25s.BM25(k1=1.5, b=0.75, method="lucene") if any(tokens) else None
        if self._index is not None:
            self._index.index(tokens, show_progress=False)

    def scores(self, words: list[str]) -> np.ndarray:
        """float32 [P]: the score of every passage, 0 where it shares no word with the query."""
        if self._index is None or not words:
            return np.zeros(self._size, np.float32)
        return np.asarray(self._index.get_scores(words), np.float32)


def _tokenize(texts: Sequence[str]) -> list[list[str]]:
    return bm25s.tokenize(list(texts), stopwords="english", return_ids=False, show_progress=False)

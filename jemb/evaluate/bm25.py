"""BM25, the baseline that learns nothing: what a retrieval score is worth beside it.

Before: `retrieval.py` holds the task. After: `run.py`, for `model=bm25`.
"""

from __future__ import annotations

import logging

import bm25s
import numpy as np

from jemb.evaluate.retrieval import RetrievalTask, Run, mean_metrics
from jemb.evaluate.search import best

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it reports every step of its index

SETTINGS = "bm25s, Lucene's formula, k1 1.5, b 0.75, its own tokenizer, English stop words left out, no stemming"


def score_bm25(task: RetrievalTask) -> dict[str, float]:
    """The metrics of `RetrievalTask.score`, with `SETTINGS` in place of an encoder."""
    return mean_metrics(task.qrels, bm25_run(task))


def bm25_run(task: RetrievalTask) -> Run:
    """The first 100 passages for every query; a passage that shares no word with the query is not found."""
    ids = task.ids()
    tokens = _tokenize([task.corpus[passage] for passage in ids])
    if not any(tokens):
        return {query: {} for query in task.queries}
    index = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    index.index(tokens, show_progress=False)
    run: Run = {}
    for query, words in zip(task.queries, _tokenize(list(task.queries.values())), strict=True):
        scores = np.asarray(index.get_scores(words) if words else np.zeros(len(ids)), np.float32)
        shared = np.flatnonzero(scores > 0)
        high, columns = best(scores[shared], shared, 101)
        run[query] = task.cut(query, [ids[column] for column in columns], high.tolist())
    return run


def _tokenize(texts: list[str]) -> list[list[str]]:
    return bm25s.tokenize(texts, stopwords="english", return_ids=False, show_progress=False)

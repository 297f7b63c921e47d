"""Reranking: are a query's own candidates in the right order? Metrics are trec_eval's, conventions mteb's.

Before: `rows.py`, `vectors.py`. After: `run.py`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytrec_eval

from jemb.core.errors import InputError
from jemb.evaluate.measure import Mean, Measured, Score, Task
from jemb.evaluate.rows import read_rows
from jemb.evaluate.vectors import Encode, encode_distinct, pair_cosines, prompted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RerankingTask(Task):
    """Queries, each with the passages to put in order: those that answer it, and those that do not."""

    name: str
    queries: list[str] = field(repr=False)
    positives: list[list[str]] = field(repr=False)
    negatives: list[list[str]] = field(repr=False)
    main = "map"

    def measure(self, encode: Encode) -> Measured:
        """{"map", "mrr_at_10"} of the candidates by cosine, in percent."""
        flat = [passage for row in self.candidates() for passage in row]
        vectors, (queries, passages) = encode_distinct(
            encode,
            prompted(encode, self.queries, "Reranking", "query"),
            prompted(encode, flat, "Reranking", "document"),
        )
        sizes = [len(row) for row in self.candidates()]
        cosines = pair_cosines(vectors, np.repeat(queries, sizes), passages)
        return self.judge(np.split(cosines, np.cumsum(sizes)[:-1]))

    def candidates(self) -> list[list[str]]:
        """The passages of each query, those that answer it first."""
        return [[*good, *bad] for good, bad in zip(self.positives, self.negatives, strict=True)]

    def judge(self, scores: list[np.ndarray]) -> Measured:
        """The metrics of any scores of `candidates`, [P + N] for each query.

        Among equal scores those that do not answer come first, as trec_eval has it with mteb's ids.
        """
        qrels, run = {}, {}
        for number, (good, row) in enumerate(zip(self.positives, scores, strict=True)):
            # trec_eval breaks ties by falling id.
            ids = [f"{place:08}" for place in range(len(row))]
            qrels[str(number)] = {name: int(place < len(good)) for place, name in enumerate(ids)}
            run[str(number)] = dict(zip(ids, map(float, row), strict=True))
        found = pytrec_eval.RelevanceEvaluator(qrels, {"map", "recip_rank"}).evaluate(run)
        average = np.array([found[query]["map"] for query in qrels])
        first = np.array([found[query]["recip_rank"] for query in qrels])
        first[first < 1 / 10] = 0
        return Measured({"map": Score.of(Mean(100 * average)), "mrr_at_10": Score.of(Mean(100 * first))})


def read_reranking(path: Path, name: str) -> RerankingTask:
    """Fields `query`, `positive` and `negative`, both lists of texts.

    As in mteb, rows without one or the other are left out, and passages lose the white space around them.
    """
    task = RerankingTask(name, [], [], [])
    left_out = 0
    for row in read_rows(path):
        good, bad = ([text.strip() for text in row.texts(name)] for name in ("positive", "negative"))
        if good and bad:
            task.queries.append(row.text("query"))
            task.positives.append(good)
            task.negatives.append(bad)
        else:
            left_out += 1
    if not task.queries:
        raise InputError(f"{path}: no row has both a positive and a negative; nothing to put in order")
    if left_out:
        log.warning("%s: %d rows without a positive or without a negative are left out", path, left_out)
    return task

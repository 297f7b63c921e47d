"""Tasks of putting texts in order: retrieval (among all passages) and reranking (among a query's own candidates).

Before: `beir.py` and `rows.py` read; vectors or `bm25.py` rank. After: `run.py`. Metrics are trec_eval's own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytrec_eval

from jemb.core.errors import InputError
from jemb.core.progress import track
from jemb.core.text import normalise
from jemb.evaluate.bm25 import Run, rank_bm25
from jemb.evaluate.measure import Mean, Measured, Score, Task
from jemb.evaluate.tasks.beir import Qrels, read_beir
from jemb.evaluate.tasks.rows import read_rows
from jemb.evaluate.vectors import Encode, encode_distinct, pair_cosines
from jemb.launch import usable_cores
from jemb.prepare.vectors.scoring import choose_backend, top_candidates

log = logging.getLogger(__name__)

DEPTH = 100
"""Passages a run holds for each query: what the deepest metric looks at."""
QUERIES = 4096
"""Of one pass over the corpus."""
RETRIEVAL = {
    "ndcg_at_10": "ndcg_cut_10",
    "recall_at_10": "recall_10",
    "recall_at_100": "recall_100",
    "mrr_at_10": "recip_rank",
}
RERANKING = {"map": "map", "mrr_at_10": "recip_rank"}
"""Our metrics, and what trec_eval calls them."""


@dataclass(frozen=True)
class RetrievalTask(Task):
    """The judged queries and all passages by id, and who is relevant to whom."""

    name: str
    queries: dict[str, str] = field(repr=False)
    corpus: dict[str, str] = field(repr=False)
    qrels: Qrels = field(repr=False)
    main = "ndcg_at_10"
    ranks = True

    def measure(self, encode: Encode) -> Measured:
        """`RETRIEVAL` of exact cosine search, in percent."""
        return percent(judge(self.qrels, self.run(encode), RETRIEVAL))

    def measure_bm25(self) -> Measured:
        return percent(judge(self.qrels, self.bm25_run(), RETRIEVAL))

    def bm25_run(self) -> Run:
        """The first 100 passages for every query; a passage that shares no word with the query is not found."""
        found = rank_bm25(self.queries, self.corpus, DEPTH + 1)
        return {query: self.cut(query, row.items()) for query, row in found.items()}

    def run(self, encode: Encode) -> Run:
        """The first 100 passages by cosine for every query, the query's own passage left out."""
        ids = sorted(self.corpus, reverse=True)  # trec_eval's order of ties
        vectors, (passages, queries) = encode_distinct(
            encode,
            "Retrieval",
            ([self.corpus[passage] for passage in ids], "document"),
            (list(self.queries.values()), "query"),
        )
        # Passages of one text have one vector, and so equal scores. One more than is kept: the query's own.
        corpus = vectors[: len(ids)] if len(ids) == passages.max() + 1 else vectors[passages]
        scores, rows = top_k(vectors[queries], corpus, DEPTH + 1, progress=f"search {Path(self.name).name}")
        return {
            query: self.cut(query, ((ids[row], score) for row, score in zip(found, high, strict=True)))
            for query, high, found in zip(self.queries, scores.tolist(), rows.tolist(), strict=True)
        }

    def cut(self, query: str, found: Iterable[tuple[str, float]]) -> dict[str, float]:
        """The first 100 of a ranking without the passage that is the query itself.

        In BEIR's sets where queries are passages too (Quora, ArguAna) those have the same id; BEIR leaves every such
        passage out, mteb does for the tasks that say so. Here it goes where it also holds the query's text and is not
        judged: else the ids only happen to be equal, as where both are numbered from 1.
        """
        itself = query in self.corpus and query not in self.qrels[query]
        itself = itself and normalise(self.queries[query]) in normalise(self.corpus[query])
        return dict([pair for pair in found if not itself or pair[0] != query][:DEPTH])


@dataclass(frozen=True)
class RerankingTask(Task):
    """Queries, each with the passages to put in order: those that answer it, and those that do not."""

    name: str
    queries: list[str] = field(repr=False)
    positives: list[list[str]] = field(repr=False)
    negatives: list[list[str]] = field(repr=False)
    main = "map"
    ranks = True

    def measure(self, encode: Encode) -> Measured:
        """{"map", "mrr_at_10"} of the candidates by cosine, in percent. Conventions are mteb's."""
        candidates = self._candidates()
        flat = [passage for row in candidates.values() for passage in row.values()]
        vectors, (queries, passages) = encode_distinct(encode, "Reranking", (self.queries, "query"), (flat, "document"))
        each = np.repeat(queries, [len(row) for row in candidates.values()])
        cosines = iter(pair_cosines(vectors, each, passages).tolist())
        return self._judge({query: {name: next(cosines) for name in row} for query, row in candidates.items()})

    def measure_bm25(self) -> Measured:
        candidates = self._candidates()
        passages = {name: text for row in candidates.values() for name, text in row.items()}
        queries = dict(zip(candidates, self.queries, strict=True))
        return self._judge(rank_bm25(queries, passages, len(passages), {q: list(row) for q, row in candidates.items()}))

    def _candidates(self) -> dict[str, dict[str, str]]:
        """{query: its passages by id}, those that answer it first: among equal scores trec_eval, which goes by falling
        id, then puts them last, as with mteb's ids."""
        return {
            f"{number:08}": {f"{number:08}-{place:08}": text for place, text in enumerate([*good, *bad])}
            for number, (good, bad) in enumerate(zip(self.positives, self.negatives, strict=True))
        }

    def _judge(self, run: Run) -> Measured:
        qrels = {
            query: {name: int(place < len(good)) for place, name in enumerate(row)}
            for (query, row), good in zip(self._candidates().items(), self.positives, strict=True)
        }
        return percent(judge(qrels, run, RERANKING))


def read_retrieval(path: Path, name: str) -> RetrievalTask:
    """A folder in BEIR's layout, or one of its judgement files: see `read_beir`."""
    return RetrievalTask(name, *read_beir(path))


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


def top_k(
    query_QD: np.ndarray, corpus_ND: np.ndarray, k: int, *, progress: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(scores float32, rows of the corpus int64), both [Q, min(k, N)]: each query's k highest inner products.

    The exact search of `prepare/vectors/scoring.py`, on all cores or a GPU: highest first, ties by lower row; the same
    on every machine. progress: name of a bar on stderr; None: no bar.
    """
    backend, starts = choose_backend(usable_cores()), range(0, max(len(query_QD), 1), QUERIES)
    bar = track(starts, progress, len(starts), "block")
    found = [top_candidates(query_QD[start : start + QUERIES], corpus_ND, k, backend=backend) for start in bar]
    scores, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return scores, rows


def judge(qrels: Qrels, run: Mapping[str, Mapping[str, float]], metrics: Mapping[str, str]) -> dict[str, np.ndarray]:
    """float64 [Q], 0 to 1, for each metric, in the order of `qrels`; 0 where nothing was found.

    metrics: our names to trec_eval's. MRR@10 is its reciprocal rank, where that is of the first ten.
    """
    found = pytrec_eval.RelevanceEvaluator(qrels, set(metrics.values())).evaluate(run)
    values = {
        metric: np.array([found.get(query, {}).get(measure, 0.0) for query in qrels], np.float64)
        for metric, measure in metrics.items()
    }
    return {
        metric: np.where(all_Q < 1 / 10, 0, all_Q) if metric == "mrr_at_10" else all_Q
        for metric, all_Q in values.items()
    }


def percent(values: Mapping[str, np.ndarray]) -> Measured:
    """The metrics as means over the queries."""
    return Measured({metric: Score.of(Mean(100 * value_Q)) for metric, value_Q in values.items()})

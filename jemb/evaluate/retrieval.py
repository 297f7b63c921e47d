"""Retrieval: are the relevant passages the first ones found for a query? Metrics are trec_eval's own.

Before: `beir.py` reads, `search.py` or `bm25.py` ranks. After: `run.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytrec_eval

from jemb.evaluate.beir import Qrels, read_beir
from jemb.evaluate.measure import Mean, Measured, Score, Task
from jemb.evaluate.search import top_k
from jemb.evaluate.vectors import Encode, encode_distinct, prompted

DEPTH = 100
"""Passages a run holds for each query: what the deepest metric looks at."""

Run = dict[str, dict[str, float]]
"""For each query {passage id: score} of what was found, best first, ties by falling id as in trec_eval."""


@dataclass(frozen=True)
class RetrievalTask(Task):
    """The judged queries and all passages by id, and who is relevant to whom."""

    name: str
    queries: dict[str, str] = field(repr=False)
    corpus: dict[str, str] = field(repr=False)
    qrels: Qrels = field(repr=False)
    main = "ndcg_at_10"

    def measure(self, encode: Encode) -> Measured:
        """{"ndcg_at_10", "recall_at_10", "recall_at_100", "mrr_at_10"} of exact cosine search, in percent."""
        return self.judge(self.run(encode))

    def judge(self, run: Run) -> Measured:
        """The metrics of any ranking, in percent: means of `query_metrics`."""
        metrics = query_metrics(self.qrels, run)
        return Measured({metric: Score.of(Mean(100 * values)) for metric, values in metrics.items()})

    def run(self, encode: Encode) -> Run:
        """The first 100 passages by cosine for every query, the query's own passage left out."""
        ids = self.ids()
        vectors, (passages, queries) = encode_distinct(
            encode,
            prompted(encode, [self.corpus[passage] for passage in ids], "Retrieval", "document"),
            prompted(encode, list(self.queries.values()), "Retrieval", "query"),
        )
        # Search among distinct texts, numbered by the first id of each, so that passages with equal texts have
        # equal scores and the cut among ties is trec_eval's. One more than is kept: the query's own.
        holders: dict[int, list[str]] = {}
        for passage, text in zip(ids, passages.tolist(), strict=True):
            holders.setdefault(text, []).append(passage)
        scores, texts = top_k(
            vectors[queries], vectors[: len(holders)], DEPTH + 1, progress=f"search {Path(self.name).name}"
        )
        run: Run = {}
        for query, row_scores, row_texts in zip(self.queries, scores.tolist(), texts.tolist(), strict=True):
            found = [
                (score, passage)
                for score, text in zip(row_scores, row_texts, strict=True)
                for passage in holders[text][: DEPTH + 1]
            ]
            found.sort(reverse=True)
            run[query] = self.cut(query, [passage for _, passage in found], [score for score, _ in found])
        return run

    def ids(self) -> list[str]:
        """The passages' ids in falling order, which is trec_eval's order of ties."""
        return sorted(self.corpus, reverse=True)

    def cut(self, query: str, passages: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
        """The first 100 of a ranking without the passage that is the query itself.

        In BEIR's sets where queries are passages too (Quora, ArguAna) those have the same id; BEIR leaves every such
        passage out, mteb does for the tasks that say so. Here it goes where it also holds the query's text and is not
        judged: else the ids only happen to be equal, as where both are numbered from 1.
        """
        itself = query in self.corpus and query not in self.qrels[query]
        itself = itself and _folded(self.queries[query]) in _folded(self.corpus[query])
        pairs = zip(passages, scores, strict=True)
        return dict([pair for pair in pairs if not itself or pair[0] != query][:DEPTH])


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def read_retrieval(path: Path, name: str) -> RetrievalTask:
    """A folder in BEIR's layout, or one of its judgement files: see `read_beir`."""
    return RetrievalTask(name, *read_beir(path))


def query_metrics(qrels: Qrels, run: Run) -> dict[str, np.ndarray]:
    """float64 [Q], 0 to 1, for each metric, by trec_eval, in the order of `qrels`; 0 where nothing was found.

    `run` must be in the order of `Run`: MRR@10 is trec_eval's reciprocal rank of the first ten.
    """
    first_ten = {query: dict(list(found.items())[:10]) for query, found in run.items()}
    deep = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.10,100"}).evaluate(run)
    short = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(first_ten)
    sources = {
        "ndcg_at_10": (deep, "ndcg_cut_10"),
        "recall_at_10": (deep, "recall_10"),
        "recall_at_100": (deep, "recall_100"),
        "mrr_at_10": (short, "recip_rank"),
    }
    return {
        metric: np.array([result.get(query, {}).get(measure, 0.0) for query in qrels], np.float64)
        for metric, (result, measure) in sources.items()
    }

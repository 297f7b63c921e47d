"""Tasks of mteb on data made here or read from our own files: nothing is downloaded."""

from __future__ import annotations

from typing import Any

import datasets
from mteb.abstasks import AbsTask, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from jemb.evaluate import RetrievalTask
from jemb.evaluate.ranking import RerankingTask
from jemb.evaluate.tasks.pairs import StsTask


def metadata(name: str, kind: Any, main: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        description="made for a test",
        dataset={"path": "none", "revision": "none"},
        type=kind,
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main,
    )


def sts(task: StsTask, name: str = "MadeSTS") -> AbsTask:
    class Made(AbsTaskSTS):
        min_score, max_score = 0, 5

        def load_data(self, *args: Any, **more: Any) -> None:
            columns = {"sentence1": task.sentence1, "sentence2": task.sentence2, "score": task.scores.tolist()}
            self.dataset = datasets.DatasetDict(test=datasets.Dataset.from_dict(columns))
            self.data_loaded = True

    Made.metadata = metadata(name, "STS", "cosine_spearman")
    return Made()


def retrieval(task: RetrievalTask, *, drop_own_ids: bool = False, name: str = "MadeRetrieval") -> AbsTask:
    corpus = [{"id": key, "title": "", "text": text} for key, text in task.corpus.items()]
    queries = [{"id": key, "text": text} for key, text in task.queries.items()]
    made = _ranking(name, "Retrieval", "ndcg_at_10", corpus, queries, task.qrels, None)
    made.ignore_identical_ids = drop_own_ids
    return made


def reranking(task: RerankingTask, name: str = "MadeReranking") -> AbsTask:
    """With the ids that mteb gives to rows of `query`, `positive`, `negative`."""
    corpus, queries, qrels, ranked = [], [], {}, {}
    for number, query in enumerate(task.queries):
        key = f"test_query{number}"
        kinds = (("apositive", 1, task.positives[number]), ("negative", 0, task.negatives[number]))
        rows = [
            (f"{kind}_{key}_{place:05}", relevance, text)
            for kind, relevance, texts in kinds
            for place, text in enumerate(texts)
        ]
        queries.append({"id": key, "text": query})
        corpus += [{"id": row, "title": "", "text": text} for row, _, text in rows]
        qrels[key] = {row: relevance for row, relevance, _ in rows}
        ranked[key] = [row for row, _, _ in rows]
    return _ranking(name, "Reranking", "map_at_1000", corpus, queries, qrels, ranked)


def _ranking(
    name: str, kind: str, main: str, corpus: list[dict], queries: list[dict], qrels: Any, ranked: Any
) -> AbsTaskRetrieval:
    class Made(AbsTaskRetrieval):
        def load_data(self, *args: Any, **more: Any) -> None:
            data = RetrievalSplitData(
                corpus=datasets.Dataset.from_list(corpus),
                queries=datasets.Dataset.from_list(queries),
                relevant_docs=qrels,
                top_ranked=ranked,
            )
            self.dataset = {"default": {"test": data}}
            self.data_loaded = True

    Made.metadata = metadata(name, kind, main)
    return Made()

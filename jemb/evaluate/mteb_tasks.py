"""A task of mteb as one of ours: mteb itself scores it, with vectors from our encode function.

Before: `mteb_names.py` finds and loads the task. After: `run.py`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytrec_eval
from mteb.abstasks import AbsTask, AbsTaskRetrieval, AbsTaskSTS

from jemb.evaluate.measure import Correlation, Mean, Measured, Part, Score, Task
from jemb.evaluate.mteb_model import MtebBm25, MtebEncoder
from jemb.evaluate.vectors import Encode

TREC = {
    "ndcg_at": "ndcg_cut",
    "map_at": "map_cut",
    "recall_at": "recall",
    "precision_at": "P",
    "hit_rate_at": "success",
}
"""trec_eval's names of mteb's ranking metrics."""


class MtebTask(Task):
    """A task of mteb whose data is loaded. Its one metric is the task's own main score, the mean over its languages and
    splits; mteb's record has the rest."""

    def __init__(self, name: str, task: AbsTask) -> None:
        self.name = name
        self.task: Any = task
        self.main = str(task.metadata.main_score)

    @property
    def ranks(self) -> bool:
        """Whether a search engine such as BM25 can do it."""
        return isinstance(self.task, AbsTaskRetrieval)

    def measure(self, encode: Encode) -> Measured:
        """The main score as mteb computes it, retrieval rounded to 5 decimals of 1; see `_part` for its interval."""
        return self._run(MtebEncoder(encode))

    def measure_bm25(self) -> Measured:
        """The same for `bm25.rank_bm25`. Only where the task `ranks`."""
        return self._run(MtebBm25())

    def _run(self, model: Any) -> Measured:
        with tempfile.TemporaryDirectory() as folder:
            (result,) = mteb.evaluate(
                model,
                self.task,
                cache=None,  # mteb's knows models by name, and ours change under one
                co2_tracker=False,
                prediction_folder=folder,
                show_progress_bar=False,
                encode_kwargs={"batch_size": 1024, "show_progress_bar": False},  # of mteb's loader alone
            ).task_results
            file = Path(folder) / self.task.prediction_file_name
            predictions = json.loads(file.read_bytes()) if file.exists() else {}
        value = 100 * float(result.get_score())
        entries = [(split, entry["hf_subset"]) for split, scores in result.scores.items() for entry in scores]
        parts = [self._part(split, subset, predictions) for split, subset in entries]
        known = [part for part in parts if part is not None]
        # The items are ours to find; that they give mteb's score shows that they are the right ones.
        whole = len(known) == len(parts) and abs(np.mean([part.value for part in known]) - value) < 0.01
        return Measured({self.main: Score(value, tuple(known) if whole else ())}, _record(result))

    def _part(self, split: str, subset: str, predictions: Mapping[str, Any]) -> Part | None:
        """The items behind the main score of one language: pairs of STS, queries of retrieval and reranking."""
        found = predictions.get(subset, {}).get(split)
        if found is None:
            return None
        data = self.task.dataset[subset if subset in self.task.dataset else split]
        data = data[split] if subset in self.task.dataset else data
        if isinstance(self.task, AbsTaskSTS) and self.main.removeprefix("cosine_") in ("spearman", "pearson"):
            cosines = np.array(found["cosine_scores" if self.main.startswith("cosine_") else "similarity_scores"])
            return Correlation(cosines, np.array(data["score"], np.float64), self.main.endswith("spearman"))
        metric, _, depth = self.main.rpartition("_")
        if isinstance(self.task, AbsTaskRetrieval) and metric in TREC:
            own = self.task.ignore_identical_ids
            run = {query: {p: s for p, s in row.items() if not own or p != query} for query, row in found.items()}
            judge = pytrec_eval.RelevanceEvaluator(data["relevant_docs"], {f"{TREC[metric]}.{depth}"})
            values = judge.evaluate(run)
            order = [query for query in data["queries"]["id"] if query in values]
            return Mean(100 * np.array([values[query][f"{TREC[metric]}_{depth}"] for query in order]))
        return None


def _record(result: Any) -> dict[str, Any]:
    """What `TaskResult.to_disk` writes, unrounded."""
    record: dict[str, Any] = json.loads(result.model_dump_json())
    return record | {"date": result.date.timestamp() if result.date else None}

"""A task of mteb as one of ours: mteb itself scores it, with vectors from our encode function, or BM25. And our
negation as a task of mteb, for whoever evaluates with mteb itself: `mteb.evaluate(model, negation_task(Path(FILE)))`.

Before: `mteb_names.py` finds and loads the task. After: `run.py`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import mteb
import numpy as np
import pytrec_eval
from mteb.abstasks import AbsTask, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.types import PromptType
from torch.utils.data import DataLoader

from jemb.evaluate.bm25 import rank_bm25
from jemb.evaluate.measure import Correlation, Mean, Measured, Part, Score, Task
from jemb.evaluate.pairs import TRIPLET, NegationTask, read_negation
from jemb.evaluate.vectors import Encode, Prompts, Role, check_finite, unit_rows

TREC = {
    "ndcg_at": "ndcg_cut",
    "map_at": "map_cut",
    "recall_at": "recall",
    "precision_at": "P",
    "hit_rate_at": "success",
}
"""trec_eval's names of mteb's ranking metrics."""


class MtebEncoder(AbsEncoder):
    """An mteb encoder whose vectors are those of `encode`, with its prompts as sentence-transformers would put them."""

    mteb_model_meta = ModelMeta.create_empty({"name": "jemb/model", "revision": "local"})

    def __init__(self, encode: Encode) -> None:
        self.encode_texts = encode
        self.prompts: Prompts = getattr(encode, "prompts", None) or Prompts()

    def encode(
        self, inputs: Any, *, task_metadata: Any, prompt_type: PromptType | None = None, **options: Any
    ) -> np.ndarray:
        """float32 [N, D], unit rows. inputs: batches with a column `text`."""
        role: Role | None = prompt_type.value if prompt_type else None
        prompt = self.prompts.choose(role, task_metadata.name, task_metadata.type)
        texts = [prompt + text for batch in inputs for text in batch["text"]]
        vectors = np.asarray(self.encode_texts(texts), np.float32)
        check_finite(vectors, texts)
        return unit_rows(vectors)


class MtebBm25:
    """An mteb search model: `bm25.rank_bm25`."""

    mteb_model_meta = ModelMeta.create_empty({"name": "jemb/bm25", "revision": "local"})

    def index(self, corpus: Any, **options: Any) -> None:
        self.passages = {row["id"]: f"{row.get('title') or ''} {row['text']}" for row in corpus}

    def search(
        self, queries: Any, *, top_k: int, top_ranked: Any = None, **options: Any
    ) -> dict[str, dict[str, float]]:
        texts = {row["id"]: f"{row['text']} {row.get('instruction') or ''}" for row in queries}
        return rank_bm25(texts, self.passages, top_k, top_ranked)


class MtebTask(Task):
    """A task of mteb whose data is loaded. Its one metric is the task's own main score, the mean over its languages and
    splits; mteb's record has the rest."""

    quantizes = False

    def __init__(self, name: str, task: AbsTask) -> None:
        self.name = name
        self.task: Any = task
        self.main = str(task.metadata.main_score)
        self.ranks = isinstance(task, AbsTaskRetrieval)

    def measure(self, encode: Encode) -> Measured:
        """The main score as mteb computes it, retrieval rounded to 5 decimals of 1; see `_part` for its interval."""
        return self._run(MtebEncoder(encode))

    def measure_bm25(self) -> Measured:
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
        record: dict[str, Any] = json.loads(result.model_dump_json())  # what `TaskResult.to_disk` writes, unrounded
        record["date"] = result.date.timestamp() if result.date else None
        return Measured({self.main: Score(value, tuple(known) if whole else ())}, record)

    def _part(self, split: str, subset: str, predictions: Mapping[str, Any]) -> Part | None:
        """The items behind the main score of one language: pairs of STS, queries of retrieval and reranking."""
        found = predictions.get(subset, {}).get(split)
        if found is None:
            return None
        data = self.task.dataset[subset][split] if subset in self.task.dataset else self.task.dataset[split]
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


class AbsTaskNegation(AbsTask):
    """Is a sentence closer to what it entails than to the minimally negated form of that? Paper: arXiv 2307.11224.

    Rows of `anchor`, `entailment`, `negative`. Scores in shares of 1: `easy_negation` where s(a,e) > s(a,n), and
    `hard_negation`, the main one, where s(a,e) > s(e,n).
    """

    abstask_prompt = "Retrieve semantically similar text."

    def _evaluate_subset(
        self, model: Any, data_split: Any, *, encode_kwargs: Any, hf_split: str, hf_subset: str, **more: Any
    ) -> Any:
        def encode(texts: Any) -> np.ndarray:
            batches = DataLoader(
                datasets.Dataset.from_dict({"text": texts}), batch_size=encode_kwargs.get("batch_size", 32)
            )
            place = {"task_metadata": self.metadata, "hf_split": hf_split, "hf_subset": hf_subset}
            return np.asarray(model.encode(batches, **place, **encode_kwargs))

        task = NegationTask(self.metadata.name, *(list(data_split[field]) for field in TRIPLET))
        return {metric: float(won.mean()) for metric, won in task.wins(encode).items()}

    def _calculate_descriptive_statistics_from_split(self, split: str, **more: Any) -> Any:
        return {"num_samples": len(self.dataset[split])}  # type: ignore[index]


def negation_task(path: Path, name: str = "Negation", language: str = "eng-Latn") -> AbsTask:
    """A task of mteb on the file that `negation:FILE` takes. name: what mteb files its results under."""
    rows = read_negation(path, name)

    class LocalNegation(AbsTaskNegation):
        metadata = TaskMetadata(
            name=name,
            description=str(AbsTaskNegation.__doc__).splitlines()[0],
            dataset={"path": str(path), "revision": "local"},
            type="STS",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=[language],
            main_score="hard_negation",
        )

        def load_data(self, *args: Any, **more: Any) -> None:
            columns = {field: getattr(rows, field) for field in TRIPLET}
            self.dataset = {"test": datasets.Dataset.from_dict(columns)}
            self.data_loaded = True

    return LocalNegation()

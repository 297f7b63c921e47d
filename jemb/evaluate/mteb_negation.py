"""Negation (`negation.py`) as a task of mteb, for whoever evaluates with mteb itself:

mteb.evaluate(model, negation_task(Path("negation.jsonl")))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
from mteb.abstasks import AbsTask
from mteb.abstasks.task_metadata import TaskMetadata
from torch.utils.data import DataLoader

from jemb.evaluate.negation import FIELDS, NegationTask, read_negation


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

        task = NegationTask(self.metadata.name, *(list(data_split[field]) for field in FIELDS))
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
            columns = {field: getattr(rows, field) for field in FIELDS}
            self.dataset = {"test": datasets.Dataset.from_dict(columns)}
            self.data_loaded = True

    return LocalNegation()

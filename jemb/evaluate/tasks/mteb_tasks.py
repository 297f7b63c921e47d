"""mteb's tasks and benchmarks as tasks of ours: mteb itself scores them, with our vectors or BM25.

Before: `load.py` has the name a user wrote: `mteb:TASK`, `mteb:TASK:SUBSET` or `mteb:BENCHMARK`. After: `run.py`.
Imports mteb, which takes seconds.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import mteb
import numpy as np
from mteb.abstasks import AbsTask, AbsTaskRetrieval, AbsTaskSTS
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.types import PromptType

from jemb.core.errors import InputError
from jemb.evaluate.bm25 import rank_bm25
from jemb.evaluate.measure import Correlation, Mean, Measured, Part, Score, Task
from jemb.evaluate.ranking import judge
from jemb.evaluate.vectors import Encode, Prompts, Role, check_finite, unit_rows

datasets.disable_progress_bars()

TREC = {
    "ndcg_at": "ndcg_cut",
    "map_at": "map_cut",
    "recall_at": "recall",
    "precision_at": "P",
    "hit_rate_at": "success",
}
"""trec_eval's names of mteb's ranking metrics."""


def find_tasks(name: str) -> dict[str, AbsTask]:
    """{name as one would write it for this task alone: the task}; several for a benchmark. Nothing is loaded yet.

    name: without `mteb:`. SUBSET is one of the task's own (`en-de` of STS22) or a language (`deu`, `deu-Latn`). Raises
    `InputError` for a name mteb does not know.
    """
    try:
        return {_own_name(task): copy.copy(task) for task in mteb.get_benchmark(name).tasks}
    except KeyError:
        task_name, _, subset = name.partition(":")
    try:
        task = mteb.get_task(task_name)
    except KeyError as error:
        raise InputError(
            f"mteb:{name}: {str(error.args[0]).removeprefix('KeyError: ')} Wanted a task or a benchmark of mteb "
            f"{version('mteb')}; a name with a comma needs quotes in a list: 'tasks=[\"mteb:MTEB(eng, v2)\"]'"
        ) from None
    subsets = task.metadata.hf_subsets
    try:
        if subset in subsets:
            task.filter_languages(None, hf_subsets=[subset])
        elif subset:
            task.filter_languages([subset])
    except (ValueError, KeyError):
        raise InputError(
            f"mteb:{name}: no subset or language '{subset}'; its subsets: {', '.join(subsets)}; its languages: "
            f"{', '.join(task.metadata.languages)}"
        ) from None
    return {f"mteb:{name}": task}


def load_mteb(name: str) -> list[MtebTask]:
    """What `find_tasks` gives for `name`, with its data; `InputError` that names all whose data is not there, or no
    text."""
    tasks = find_tasks(name)
    missing: dict[str, str] = {}
    for key, task in tasks.items():
        if task.modalities != ["text"]:
            raise InputError(f"{key}: its data is {' and '.join(task.modalities)}; jemb encodes text alone")
        try:
            for part in getattr(task, "tasks", [task]):  # an aggregate has tasks of its own
                part.load_data()
        except Exception as error:  # whatever the hub, the network and the data set's own code may raise
            missing[key] = f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0]}"
    if missing:
        first = next(iter(missing))
        load = f"import mteb; mteb.get_task('{first.split(':')[1]}').load_data()"
        names = ", ".join(missing) if len(missing) < len(tasks) else f"{first}, …"
        which = "" if len(tasks) == 1 else f" of {len(missing)} of its {len(tasks)} tasks ({names})"
        offline = ", with HF_HUB_OFFLINE unset" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise InputError(
            f"mteb:{name}: the data{which} cannot be loaded from the disk or the hub ({missing[first]}). "
            f'Load it once with a network{offline}: python -c "{load}"'
        )
    return [MtebTask(key, task) for key, task in tasks.items()]


def _own_name(task: Any) -> str:
    """The task as `find_tasks` takes it; a benchmark may want one subset of it only."""
    one_of_many = len(task.hf_subsets) == 1 < len(task.metadata.hf_subsets)
    return f"mteb:{task.metadata.name}" + (f":{task.hf_subsets[0]}" if one_of_many else "")


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
            judged = run.keys() & data["relevant_docs"].keys()
            qrels = {query: data["relevant_docs"][query] for query in data["queries"]["id"] if query in judged}
            return Mean(100 * judge(qrels, run, {self.main: f"{TREC[metric]}_{depth}"})[self.main])
        return None

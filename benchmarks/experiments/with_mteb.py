"""mteb itself on the model before and on one that was adapted to a domain, where its tasks' data are at hand.

The domain's held-out queries as a retrieval task, SciFact (its train queries) and STSBenchmark (its validation split).
OUTPUT/mteb/MODEL/TASK.json are mteb's own results, which `mteb.TaskResult.from_disk` reads. They also check jemb's
scores. Run after `adaptation`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.experiments import adaptation
from benchmarks.experiments.lab import Lab
from jemb.core.errors import InputError
from jemb.core.folders import whole_folder
from jemb.model import find_folder

DOMAIN, ARM = "shell", "raw"


def run(lab: Lab, seed: int) -> None:
    import mteb
    from sentence_transformers import SentenceTransformer

    trained = lab.folder / "runs" / f"adaptation-{DOMAIN}" / ARM / f"seed-{seed}" / "model"
    if not trained.exists():
        raise InputError(f"{trained} is not there: run `adaptation` first, with the same seed and output")
    before = find_folder(adaptation.MODEL)
    for name, place in {"before": before, f"{DOMAIN}-{seed}": trained}.items():
        folder = lab.folder / "mteb" / name
        if not folder.exists():
            model = SentenceTransformer(str(place), device="cpu")
            model.max_seq_length = adaptation.MAX_LENGTH
            results = mteb.evaluate(model, tasks(lab), cache=None).task_results
            with whole_folder(folder) as new:
                for result in results:
                    result.to_disk(new / f"{result.task_name}.json")
                    print(name, result.task_name, f"{100 * result.get_score():.3f}", flush=True)


def tasks(lab: Lab) -> list[Any]:
    import mteb
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class Domain(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=f"{DOMAIN.title()}HeldOut",
            description="Held-out queries of a domain's pairs look for their passages among all of the domain.",
            dataset={"path": "local", "revision": "local"},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=["dev"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

    def retrieval(task: Any, folder: Path, split: str) -> Any:
        judged: dict[str, dict[str, int]] = {}
        for line in (folder / f"qrels.{split}.tsv").read_text().splitlines()[1:]:
            query, passage, grade = line.split("\t")
            judged.setdefault(query, {})[passage] = int(grade)
        corpus, queries = (rows(next(folder.glob(f"{name}.jsonl*"))) for name in ("corpus", "queries"))
        passages = [{"id": row["_id"], "title": row["title"], "text": row["text"]} for row in corpus]
        asked = [{"id": row["_id"], "text": row["text"]} for row in queries if row["_id"] in judged]
        data = {"corpus": Dataset.from_list(passages), "queries": Dataset.from_list(asked)}
        task.dataset = {"default": {split: {**data, "relevant_docs": judged, "top_ranked": None}}}
        task.data_loaded = True
        return task

    made = [retrieval(Domain(), adaptation.test_set(lab, DOMAIN), "dev")]
    if (scifact := lab.material.folder / "retrieval" / "scifact").exists():
        made.append(retrieval(mteb.get_task("SciFact", eval_splits=["train"]), scifact, "train"))
    if graded := list(lab.material.folder.glob("sts/stsb_en_dev*")):
        sts = mteb.get_task("STSBenchmark", eval_splits=["validation"])
        scores = [{**row, "score": float(row["score"])} for row in rows(graded[0])]
        sts.dataset, sts.data_loaded = {"validation": Dataset.from_list(scores)}, True
        made.append(sts)
    return made


def rows(path: Path) -> Iterator[Any]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)
